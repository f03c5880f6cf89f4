//! starfeed over a real RethinkDB: what the mirror costs beside a client that only reads, and a thousand subscribers beside a
//! thousand changefeeds: `cargo bench --bench rethinkdb`, with `rethinkdb` on PATH.

#![expect(clippy::print_stdout, reason = "this is a program that prints tables")]

mod database;
mod fan_out;
mod mirror;

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
    runtime.block_on(async {
        mirror::measure(&database).await;
        fan_out::measure(&database).await;
    });
}
