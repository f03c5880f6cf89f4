//! For tests that give the commands any file: what an import makes of it.

use bytes::Bytes;

use super::import;

/// What an import makes of a file.
#[derive(Debug)]
pub struct ImportedFile {
    /// Each line that is a row, and its number.
    pub rows: Vec<(i32, Bytes)>,
    /// How many lines are neither rows nor blank.
    pub errors: usize,
    /// The rows in the parts in which they go to the server: the number of the first line of each, and its rows.
    pub batches: Vec<(i32, Vec<Bytes>)>,
}

/// Reads a file as an import does.
pub fn imported_file(content: &Bytes) -> ImportedFile {
    import::imported_file(content)
}
