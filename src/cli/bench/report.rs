//! What is printed: a table that is plain text and Markdown at once, or JSON.

use std::io::Write;
use std::time::Duration;

use super::churn;
use super::fan_out::Run;
use super::pace::Pace;
use super::page::Buckets;
use super::pin::Cores;
use super::ratio::Ratio;
use super::stalled::Outcome;

/// Prints rows to standard output as they come.
#[derive(Debug)]
pub(super) struct Report {
    format: Format,
    setting: Setting,
    has_begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
}

/// What all rows have in common.
#[derive(Debug)]
pub(super) struct Setting {
    /// Who takes part, in words.
    pub(super) who: String,
    pub(super) tables: usize,
    pub(super) payload_bytes: usize,
    pub(super) duration: Duration,
    /// Where the data of durable stores is, if there are any.
    pub(super) place: Option<String>,
    /// Which processor server and generator have for themselves, if they do.
    pub(super) cores: Option<Cores>,
}

/// One figure of a row.
#[derive(Debug)]
pub(super) struct Figure {
    title: &'static str,
    key: &'static str,
    text: String,
    value: serde_json::Value,
}

impl Figure {
    /// A word.
    pub(super) fn word(title: &'static str, key: &'static str, text: &str) -> Self {
        Self { title, key, text: text.to_owned(), value: text.into() }
    }

    /// A number without digits behind the point.
    pub(super) fn whole(title: &'static str, key: &'static str, number: Option<f64>) -> Self {
        Self { title, key, text: or_dash(number.map(grouped)), value: number.into() }
    }

    /// A number with two digits behind the point.
    pub(super) fn exact(title: &'static str, key: &'static str, number: Option<f64>) -> Self {
        Self { title, key, text: or_dash(number.map(|number| format!("{number:.2}"))), value: number.into() }
    }

    fn width(&self) -> usize {
        self.title.chars().count().max(11)
    }
}

struct Column {
    title: &'static str,
    width: usize,
    cell: fn(&str, &Run) -> String,
}

const COLUMNS: &[Column] = &[
    Column { title: "store", width: 6, cell: |store, _| store.to_owned() },
    Column { title: "load", width: 12, cell: |_, run| pace(run.pace) },
    Column { title: "changes/s", width: 9, cell: |_, run| grouped(per_second(run.changes, run.elapsed)) },
    Column { title: "delivered/s", width: 11, cell: |_, run| grouped(per_second(run.delivered, run.elapsed)) },
    Column { title: "per CPU-s", width: 9, cell: |_, run| or_dash(per_cpu_second(run).map(grouped)) },
    Column { title: "µs CPU", width: 6, cell: |_, run| or_dash(cpu_micros(run).map(|micros| format!("{micros:.2}"))) },
    Column { title: "p50 ms", width: 8, cell: |_, run| millis(run.latency.value_at_quantile(0.5)) },
    Column { title: "p99 ms", width: 8, cell: |_, run| millis(run.latency.value_at_quantile(0.99)) },
    Column { title: "p99.9 ms", width: 8, cell: |_, run| millis(run.latency.value_at_quantile(0.999)) },
    Column { title: "max ms", width: 8, cell: |_, run| millis(run.latency.max()) },
    Column { title: "lost", width: 4, cell: |_, run| run.faults.lost.to_string() },
    Column {
        title: "server CPU",
        width: 10,
        cell: |_, run| or_dash(run.server_cpu.map(|cpu| percent(cpu.total(), run))),
    },
    Column { title: "generator CPU", width: 13, cell: |_, run| percent(run.generator_cpu.total(), run) },
    Column { title: "KB/sub", width: 6, cell: |_, run| or_dash(bytes_per_subscriber(run).map(kilobytes)) },
    Column { title: "RSS MB", width: 6, cell: |_, run| or_dash(run.memory.map(|memory| megabytes(memory.after_run))) },
];

impl Report {
    pub(super) fn new(format: Format, setting: Setting) -> Self {
        Self { format, setting, has_begun: false }
    }

    pub(super) fn row(&mut self, peer: &str, store: &str, run: &Run) -> std::io::Result<()> {
        match self.format {
            Format::Json => print(&format!("{}\n", json(peer, store, &self.setting, run))),
            Format::Table => {
                let head = if self.has_begun { String::new() } else { self.setting.heading() };
                self.has_begun = true;
                let stalled = run.stalled.as_ref().map_or_else(String::new, stalled);
                let churn = run.churn.as_ref().map_or_else(String::new, churn);
                let until_sent = run.until_sent.as_ref().map_or_else(String::new, until_sent);
                print(&(head + &line(|column| (column.cell)(store, run)) + &stalled + &churn + &until_sent))
            }
        }
    }

    /// A row of a scenario that has figures of its own.
    pub(super) fn figures(&mut self, scenario: &str, figures: &[Figure]) -> std::io::Result<()> {
        match self.format {
            Format::Json => {
                let mut object = serde_json::Map::new();
                object.insert("version".to_owned(), VERSION.into());
                object.insert("cpus".to_owned(), cpus().into());
                object.insert("is_pinned".to_owned(), self.setting.cores.is_some().into());
                object.insert("scenario".to_owned(), scenario.into());
                object.extend(figures.iter().map(|figure| (figure.key.to_owned(), figure.value.clone())));
                print(&format!("{}\n", serde_json::Value::Object(object)))
            }
            Format::Table => {
                let cells = |text: &dyn Fn(&Figure) -> String| {
                    let cells = figures.iter().map(|figure| format!("{:>1$}", text(figure), figure.width()));
                    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
                };
                let mut text = String::new();
                if !std::mem::replace(&mut self.has_begun, true) {
                    text = self.setting.intro();
                    text += &cells(&|figure| figure.title.to_owned());
                    text += &cells(&|figure| format!("{}:", "-".repeat(figure.width() - 1)));
                }
                print(&(text + &cells(&|figure| figure.text.clone())))
            }
        }
    }

    /// A line of words under the rows; nothing in JSON, where the same is in the figures.
    pub(super) fn remark(&self, text: &str) -> std::io::Result<()> {
        if self.format == Format::Table { print(&format!("{text}\n")) } else { Ok(()) }
    }

    /// How the rows of `store` stand to those of the bare peer.
    pub(super) fn ratio(&self, store: &str, pace: Pace, ratio: &Ratio) -> std::io::Result<()> {
        match self.format {
            Format::Json => print(&format!("{}\n", ratio.json(store, &self::pace(pace)))),
            Format::Table => print(&format!("  ^ {store} : bare, {}: {}\n", self::pace(pace), ratio.text())),
        }
    }

    /// The same over several rounds.
    pub(super) fn median(&self, store: &str, pace: Pace, rounds: usize, ratio: &Ratio) -> std::io::Result<()> {
        match self.format {
            Format::Json => {
                print(&format!("{}\n", ratio.json(store, &format!("median of {rounds}, {}", self::pace(pace)))))
            }
            Format::Table => {
                print(&format!("median of {rounds}: {store} : bare, {}: {}\n", self::pace(pace), ratio.text()))
            }
        }
    }

    /// Says what the rows mean, if there were any.
    pub(super) fn end(&self, footnote: &str) -> std::io::Result<()> {
        if self.has_begun && self.format == Format::Table { print(&format!("\n{footnote}")) } else { Ok(()) }
    }
}

impl Setting {
    /// What is measured, and where.
    fn intro(&self) -> String {
        let mut text = format!(
            "starfeed {VERSION}: {}, messages of {} bytes, {} s per row, {} CPUs for server and generator",
            self.who,
            self.payload_bytes,
            self.duration.as_secs_f64(),
            cpus().map_or_else(|| "?".to_owned(), |cpus| cpus.to_string()),
        );
        if self.tables > 1 {
            text.push_str(&format!(", {} tables", self.tables));
        }
        match self.cores {
            Some(Cores { server, generator }) => text.push_str(&format!(
                ", server pinned to processor {}, generator to {}, where it never sleeps",
                server.number(),
                generator.number()
            )),
            None => text.push_str(", not pinned"),
        }
        if let Some(place) = &self.place {
            text.push_str(&format!(", data in {place}"));
        }
        text.push_str("\n\n");
        text
    }

    fn heading(&self) -> String {
        let titles = line(|column| column.title.to_owned());
        self.intro() + &titles + &line(|column| format!("{}:", "-".repeat(column.width - 1)))
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn cpus() -> Option<usize> {
    std::thread::available_parallelism().ok().map(usize::from)
}

fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn line(cell: impl Fn(&Column) -> String) -> String {
    let cells: Vec<String> = COLUMNS.iter().map(|column| format!("{:>1$}", cell(column), column.width)).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn json(peer: &str, store: &str, setting: &Setting, run: &Run) -> serde_json::Value {
    let millis = |micros: u64| micros as f64 / 1000.0;
    let (in_flight, rate) = match run.pace {
        Pace::InFlight(changes) => (Some(changes), None),
        Pace::PerSecond(changes) => (None, Some(changes)),
    };
    serde_json::json!({
        "version": VERSION,
        "cpus": cpus(),
        "payload_bytes": setting.payload_bytes,
        "peer": peer,
        "store": store,
        "tables": setting.tables,
        "is_pinned": setting.cores.is_some(),
        "in_flight": in_flight,
        "rate": rate,
        "subscribers": run.subscribers,
        "seconds": run.elapsed.as_secs_f64(),
        "changes": run.changes,
        "delivered": run.delivered,
        "changes_per_second": per_second(run.changes, run.elapsed),
        "delivered_per_second": per_second(run.delivered, run.elapsed),
        "delivered_per_cpu_second": per_cpu_second(run),
        "server_cpu_us_per_message": cpu_micros(run),
        "latency_ms": {
            "p50": millis(run.latency.value_at_quantile(0.5)),
            "p99": millis(run.latency.value_at_quantile(0.99)),
            "p99.9": millis(run.latency.value_at_quantile(0.999)),
            "max": millis(run.latency.max()),
        },
        "until_sent_ms": run.until_sent.as_ref().map(|buckets| serde_json::json!({
            "p50": buckets.quantile(0.5).map(|seconds| seconds * 1e3),
            "p99": buckets.quantile(0.99).map(|seconds| seconds * 1e3),
        })),
        "lost": run.faults.lost,
        "repeated": run.faults.repeated,
        "out_of_order": run.faults.out_of_order,
        "server_cpu_seconds": run.server_cpu.map(|cpu| cpu.total().as_secs_f64()),
        "server_user_seconds": run.server_cpu.map(|cpu| cpu.user.as_secs_f64()),
        "generator_cpu_seconds": run.generator_cpu.total().as_secs_f64(),
        "generator_user_seconds": run.generator_cpu.user.as_secs_f64(),
        "bytes_per_subscriber": bytes_per_subscriber(run),
        "rss_before_subscribers": run.memory.map(|memory| memory.before_subscribers),
        "rss_with_subscribers": run.memory.map(|memory| memory.with_subscribers),
        "rss_after_run": run.memory.map(|memory| memory.after_run),
        "stalled": run.stalled.map(|stalled| serde_json::json!({
            "clients": stalled.clients,
            "bytes_each": stalled.bytes_each,
            "p99_ratio": stalled.p99_ratio,
            "exact": stalled.exact,
            "began_anew": stalled.began_anew,
        })),
        "churn": run.churn.map(|churn| serde_json::json!({
            "resubscribed": churn.done.resubscribed,
            "stalled": churn.done.stalled,
            "reconnected": churn.done.reconnected,
            "p99_ratio": churn.p99_ratio,
        })),
    })
}

/// What came of those that came and went during the row above.
fn churn(outcome: &churn::Outcome) -> String {
    let churn::Done { resubscribed, stalled, reconnected } = outcome.done;
    format!(
        "  ^ while {resubscribed} subscribed anew, {stalled} did not read for a second, and {reconnected} connected \
         again with a token: p99 of the others is {:.2} times that without\n",
        outcome.p99_ratio,
    )
}

/// How long what was committed during the row above took to be written to sockets.
fn until_sent(buckets: &Buckets) -> String {
    let millis = |share| or_dash(buckets.quantile(share).map(|seconds| format!("{:.2}", seconds * 1e3)));
    format!("  ^ from a commit to the sockets, as the server says: p50 {} ms, p99 {} ms\n", millis(0.5), millis(0.99))
}

/// What came of those that did not read during the row above.
fn stalled(outcome: &Outcome) -> String {
    let Outcome { clients, bytes_each, p99_ratio, exact, began_anew } = outcome;
    format!(
        "  ^ beside {clients} clients that did not read: p99 is {p99_ratio:.2} times that without them; {} KB of memory \
         each; {exact} held what is there when they had read again, {began_anew} of them began anew\n",
        or_dash(bytes_each.map(kilobytes)),
    )
}

fn pace(pace: Pace) -> String {
    match pace {
        Pace::InFlight(changes) => format!("{changes} in flight"),
        Pace::PerSecond(changes) => format!("{}/s", grouped(f64::from(changes))),
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// `None` also when there was too little to measure.
pub(super) fn per_cpu_second(run: &Run) -> Option<f64> {
    let cpu = run.server_cpu?.total();
    (!cpu.is_zero()).then(|| per_second(run.delivered, cpu))
}

pub(super) fn cpu_micros(run: &Run) -> Option<f64> {
    run.server_cpu.filter(|_| run.delivered > 0).map(|cpu| cpu.total().as_secs_f64() * 1e6 / run.delivered as f64)
}

fn percent(cpu: Duration, run: &Run) -> String {
    format!("{:.0}%", 100.0 * cpu.as_secs_f64() / run.elapsed.as_secs_f64())
}

fn bytes_per_subscriber(run: &Run) -> Option<u64> {
    let memory = run.memory?;
    memory.with_subscribers.saturating_sub(memory.before_subscribers).checked_div(run.subscribers as u64)
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1000.0)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

fn millis(micros: u64) -> String {
    format!("{:.3}", micros as f64 / 1000.0)
}

/// A whole number with its thousands apart.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::super::fan_out::Memory;
    use super::super::process::CpuTime;
    use super::super::sequence::Faults;
    use super::*;

    fn user(millis: u64) -> CpuTime {
        CpuTime { user: Duration::from_millis(millis), system: Duration::ZERO }
    }

    fn run() -> Run {
        let mut latency = Histogram::new_with_bounds(1, 1_000_000, 3).expect("valid bounds");
        latency.record_n(1500, 99).expect("in bounds");
        latency.record(20_000).expect("in bounds");
        Run {
            pace: Pace::InFlight(32),
            subscribers: 1000,
            elapsed: Duration::from_secs(2),
            changes: 3000,
            delivered: 3_000_000,
            server_cpu: Some(user(1500)),
            generator_cpu: user(500),
            latency,
            faults: Faults::default(),
            memory: Some(Memory {
                before_subscribers: 10_000_000,
                with_subscribers: 16_000_000,
                after_run: 24_000_000,
            }),
            stalled: None,
            churn: None,
            until_sent: None,
        }
    }

    fn setting() -> Setting {
        Setting {
            who: "1000 subscribers".to_owned(),
            tables: 1,
            payload_bytes: 200,
            duration: Duration::from_secs(5),
            place: None,
            cores: None,
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0.0, "0"), (12.4, "12"), (999.6, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_row_has_one_aligned_cell_for_each_column() {
        let heading = setting().heading();
        let title = heading.lines().nth(2).expect("a line of titles").to_owned() + "\n";
        let row = line(|column| (column.cell)("disk", &run()));
        assert_eq!(row.chars().count(), title.chars().count(), "\n{title}{row}");
        let cells: Vec<&str> = row.trim_matches(['|', ' ', '\n']).split('|').map(str::trim).collect();
        assert_eq!(cells[..7], ["disk", "32 in flight", "1,500", "1,500,000", "2,000,000", "0.50", "1.500"]);
        assert_eq!(cells[9..], ["20.015", "0", "75%", "25%", "6.0", "24"]);
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let unknown = Run { server_cpu: None, memory: None, ..run() };
        let row = line(|column| (column.cell)("-", &unknown));
        assert_eq!(row.split('|').filter(|cell| cell.trim() == "-").count(), 6, "{row}");
        let json = json("-", "-", &setting(), &unknown);
        assert!(json["server_cpu_seconds"].is_null() && json["bytes_per_subscriber"].is_null());
    }

    #[test]
    fn json_has_the_same_numbers() {
        let json = json("starfeed", "memory", &setting(), &run());
        assert_eq!(json["delivered_per_cpu_second"], 2_000_000.0);
        assert_eq!(json["latency_ms"]["p50"], 1.5);
        assert_eq!(json["bytes_per_subscriber"], 6000);
        assert!(json["stalled"].is_null());
    }

    #[test]
    fn what_came_of_stalled_clients_is_said() {
        let outcome = Outcome { clients: 10, bytes_each: Some(12_300), p99_ratio: 1.064, exact: 10, began_anew: 1 };
        let text = stalled(&outcome);
        for part in ["beside 10 clients", "is 1.06 times", "12.3 KB", "10 held", "1 of them"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = json("starfeed", "disk", &setting(), &Run { stalled: Some(outcome), ..run() });
        assert_eq!(json["stalled"]["bytes_each"], 12_300);
    }
}
