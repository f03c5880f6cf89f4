//! What an acknowledged write costs: `cargo bench --bench store`.
//!
//! On disk, so many writers each write one row, wait until that is durable, and write the next. Beside them in the same
//! minute, on the same disk: redb by itself with the same bytes in commits of as many writes, and a plain file that the same
//! bytes are appended to. In memory, what a commit takes of the processor. Some of it: `cargo bench --bench store -- memory`.

#![expect(clippy::print_stdout, reason = "this is a program that prints tables")]

mod memory;
mod raw;
mod rows;
mod table;
mod writers;

fn main() {
    // `cargo test --benches` runs this too; the figures take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("SKIPPED: `cargo bench --bench store` measures");
        return;
    }
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_asked = |name: &str| named.is_empty() || named.iter().any(|it| it == name);
    if is_asked("disk") {
        table::on_disk();
    }
    if is_asked("memory") {
        memory::measure();
    }
}
