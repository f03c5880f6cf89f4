//! The rules of the house that no compiler checks: the order of the modules, the size of files, documents in step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use starfeed::planted::PlantedBug;
use starfeed::wire::{CloseReason, Retry};

const FILE_LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The code of a file without its tests and comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]").filter(|line| !line.trim_start().starts_with("//"))
}

fn modules() -> Vec<String> {
    let lib = read(&root().join("src/lib.rs"));
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The top-level modules that a line names by `crate::`.
fn named_modules(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let is_own =
            at == 0 || !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$');
        let rest = &line[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => rest,
        };
        for item in list.split(',').take(if rest.starts_with('{') { usize::MAX } else { 1 }) {
            let name: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if is_own && !name.is_empty() {
                names.push(name);
            }
        }
    }
    names
}

#[test]
fn modules_import_only_from_above() {
    let modules = modules();
    assert!(modules.len() > 10, "src/lib.rs lists the modules");
    let order: BTreeMap<&str, usize> = modules.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut wrong = BTreeSet::new();
    let mut edges = 0;
    for path in rust_files("src") {
        let relative = path.strip_prefix(root().join("src")).expect("below src");
        let first = relative.components().next().expect("a path has a part").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs");
        let Some(own) = order.get(module) else {
            assert!(["lib", "main"].contains(&module), "{module} is not listed in src/lib.rs");
            continue;
        };
        for name in code(&read(&path)).flat_map(named_modules) {
            let Some(other) = order.get(name.as_str()) else { continue };
            edges += 1;
            if other > own {
                wrong.insert(format!("{} imports {name}, which stands below {module}", relative.display()));
            }
        }
    }
    assert!(edges > 50, "only {edges} imports were found: the test no longer understands the code");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for path in ["src", "tests", "examples", "benches"].into_iter().flat_map(rust_files) {
        let lines = read(&path).lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines; is there a second noun in it? {long:#?}");
}

/// 64 bits of FNV-1a: enough to notice a change.
fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

#[test]
fn the_streaming_api_document_is_in_step_with_the_messages() {
    let fingerprint = fingerprint(read(&root().join("protobuf/starbelly.proto")).as_bytes());
    let document = read(&root().join("STREAMING_API.md"));
    assert!(
        document.contains(&fingerprint),
        "protobuf/starbelly.proto has changed: read STREAMING_API.md again, then set its fingerprint to {fingerprint}"
    );
}

#[test]
fn the_streaming_api_document_names_every_close_code() {
    let document = read(&root().join("STREAMING_API.md"));
    for reason in CloseReason::ALL {
        let close = reason.close();
        let retry = match close.retry {
            Retry::Yes => "yes",
            Retry::No => "no",
        };
        let row = format!("| {} | {} | {retry} |", close.code, close.text);
        assert!(document.contains(&row), "STREAMING_API.md lacks the row: {row}");
    }
}

#[test]
fn the_readme_names_every_limit_with_its_default() {
    let readme = read(&root().join("README.md"));
    for (key, default) in starfeed::config::Limits::default().entries() {
        let row = format!("| `{key}` | {default} |");
        assert!(readme.contains(&row), "README.md lacks the row: {row}");
    }
}

#[test]
fn the_document_on_reliability_names_every_planted_bug() {
    let document = read(&root().join("docs/reliability.md"));
    for bug in PlantedBug::ALL.into_iter().chain(PlantedBug::RACES) {
        assert!(document.contains(&format!("`{bug:?}`")), "docs/reliability.md lacks {bug:?}");
    }
}
