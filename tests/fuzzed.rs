//! What the fuzzer has kept, given once more to what it was found for: `fuzz/run` looks for more.

#[path = "fuzzed/mod.rs"]
mod fuzzed;

use std::path::Path;

/// Gives each kept input of the target called `name` to it.
fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "nothing is kept in {}", directory.display());
    for path in &paths {
        let data = std::fs::read(path).expect("a readable file");
        if let Err(panic) = std::panic::catch_unwind(|| target(&data)) {
            eprintln!("with {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
    eprintln!("{name}: {} inputs", paths.len());
}

macro_rules! replayed {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), fuzzed::$name::target);
            }
        )*

        #[test]
        fn each_target_is_fuzzed_and_each_corpus_is_of_a_target() {
            let names = std::collections::BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let listed = |directory: &str| -> std::collections::BTreeSet<String> {
                let entries = std::fs::read_dir(fuzz.join(directory)).expect("a directory");
                let stem = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
                entries.map(|entry| stem(&entry.expect("an entry").path())).collect()
            };
            assert_eq!(listed("corpus"), names);
            assert_eq!(listed("targets"), names);
        }
    };
}

replayed!(database, filters, frames, heads, imports, kept, python, requests, rows, tokens);
