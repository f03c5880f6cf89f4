//! starfeed beside a real RethinkDB: what the mirror costs beside a client that only reads, a thousand subscribers of one table
//! beside a thousand changefeeds, and a thousand filtered ones: `cargo bench --bench rethinkdb`, with `rethinkdb` on PATH, or
//! some of it: `cargo bench --bench rethinkdb -- filtered`.

#![expect(clippy::print_stdout, reason = "this is a program that prints tables")]

mod database;
mod fan_out;
mod filtered;
mod listeners;
mod mirror;
mod server;

use database::Database;

fn main() {
    // `cargo test --benches` runs this too; the figures take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("SKIPPED: `cargo bench --bench rethinkdb` measures");
        return;
    }
    let Some(database) = Database::start() else {
        println!("SKIPPED: there is no `rethinkdb` on PATH");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_asked = |name: &str| named.is_empty() || named.iter().any(|it| it == name);
    runtime.block_on(async {
        if is_asked("mirror") {
            mirror::measure(&database).await;
        }
        if is_asked("fan_out") {
            fan_out::measure(&database).await;
        }
        if is_asked("filtered") {
            filtered::measure(&database).await;
        }
    });
}
