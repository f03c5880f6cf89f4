//! The lines of the screen: from what is known, the size and the time. No terminal here.

use std::time::Duration;

use tokio::time::Instant;

use super::event::{JobStanding, WatchedTable, kind_name};
use super::view::{HIGHLIGHT, Link, RowView, TableView, View};
use crate::change::ChangeKind;
use crate::cli::text::{cell, counted, fit, width};

/// How many characters a terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

/// How a piece of a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Heading,
    Dim,
    Warning,
    Added,
    Updated,
    Deleted,
}

/// One line, in pieces of one look each.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Line(pub(super) Vec<(Look, String)>);

/// `UPDATED 59m ago`, and one column more for days.
const CHANGE_COLUMNS: usize = 16;
/// `cancelled  items      9  failed     2`
const STATE_COLUMNS: usize = 9;
const JOB_COLUMNS: usize = STATE_COLUMNS + 28;
const GAP: &str = "  ";
/// Keys are shown where at least this much is left for names.
const NAME_COLUMNS_MIN: usize = 20;

/// What the screen shows at `now`: at most as many lines as it has, none longer than it is wide.
pub(super) fn frame(view: &View, size: Size, now: Instant) -> Vec<Line> {
    let mut lines = vec![status(view, now)];
    let tables = view.tables.len();
    // The status, and before each table an empty line and its heading.
    let room = size.lines.saturating_sub(1 + 2 * tables);
    let wanted: Vec<usize> = view.tables.iter().map(TableView::shown).collect();
    for (table, lines_max) in view.tables.iter().zip(shares(room, &wanted)) {
        lines.push(Line::default());
        lines.push(heading(table, now));
        rows(table, lines_max, size.columns, now, &mut lines);
    }
    lines.truncate(size.lines);
    lines.into_iter().map(|line| line.clipped(size.columns)).collect()
}

impl Line {
    fn clipped(self, columns: usize) -> Self {
        let mut left = columns;
        let mut pieces = Vec::with_capacity(self.0.len());
        for (look, text) in self.0 {
            let text = fit(&text, left);
            left -= width(&text);
            if !text.is_empty() {
                pieces.push((look, text));
            }
        }
        Self(pieces)
    }
}

fn status(view: &View, now: Instant) -> Line {
    let link = match &view.link {
        Link::Connected => (Look::Dim, "connected, Ctrl-C ends".to_owned()),
        Link::Lost { error, retry_at } => {
            let seconds = retry_at.saturating_duration_since(now).as_secs_f64().ceil();
            (Look::Warning, format!("not connected, trying again in {seconds} s: {error}"))
        }
    };
    Line(vec![(Look::Heading, "starfeed watch".to_owned()), (Look::Dim, format!("{GAP}{}{GAP}", view.url)), link])
}

fn heading(table: &TableView, now: Instant) -> Line {
    let rows = counted(table.rows() as u64, "row");
    let changes = counted(table.changes, "change");
    let mut pieces = vec![
        (Look::Heading, table.table.name().to_owned()),
        (Look::Plain, format!("{GAP}{rows}{GAP}{changes}{GAP}{:.1}/s", table.rate(now))),
    ];
    if let Some(why) = &table.stale {
        pieces.push((Look::Warning, format!("{GAP}{why}")));
    }
    Line(pieces)
}

fn rows(table: &TableView, lines_max: usize, columns: usize, now: Instant, lines: &mut Vec<Line>) {
    let total = table.shown();
    let shown = if total > lines_max { lines_max.saturating_sub(1) } else { total };
    let rows = table.select(shown, now);
    let keys = rows.iter().map(|row| width(&row.key)).max().unwrap_or(0);
    let job = if table.table == WatchedTable::Job { JOB_COLUMNS + GAP.len() } else { 0 };
    let fixed = GAP.len() + job + GAP.len() + CHANGE_COLUMNS;
    let with_keys = fixed + GAP.len() + keys;
    let is_keyed = table.table != WatchedTable::DomainLogin && columns >= with_keys + NAME_COLUMNS_MIN;
    let room = columns.saturating_sub(if is_keyed { with_keys } else { fixed });
    let names = rows.iter().map(|row| width(label(row))).max().unwrap_or(0).min(room);
    for row in rows {
        let (look, change) = change(row, now);
        let change_look = if look == Look::Plain { Look::Dim } else { look };
        let key_look = if look == Look::Deleted { look } else { Look::Dim };
        let mut pieces = vec![(Look::Plain, GAP.to_owned()), (look, cell(label(row), names))];
        if let Some(job) = &row.job {
            let job_look = if is_over(job) { Look::Dim } else { Look::Plain };
            pieces.extend([(Look::Plain, GAP.to_owned()), (job_look, standing(job))]);
        }
        pieces.extend([(Look::Plain, GAP.to_owned()), (change_look, cell(&change, CHANGE_COLUMNS))]);
        if is_keyed {
            pieces.extend([(Look::Plain, GAP.to_owned()), (key_look, row.key.clone())]);
        }
        lines.push(Line(pieces));
    }
    if total > shown && lines_max > 0 {
        lines.push(Line(vec![(Look::Dim, format!("{GAP}+{} more", total - shown))]));
    }
}

fn standing(job: &JobStanding) -> String {
    let JobStanding { state, items, failed } = job;
    cell(&format!("{}{GAP}items {items:>6}{GAP}failed {failed:>5}", cell(state, STATE_COLUMNS)), JOB_COLUMNS)
}

fn is_over(job: &JobStanding) -> bool {
    matches!(job.state.as_str(), "completed" | "cancelled")
}

fn label(row: &RowView) -> &str {
    row.name.as_ref().unwrap_or(&row.key)
}

/// How the row looks, and what happened to it last.
fn change(row: &RowView, now: Instant) -> (Look, String) {
    let Some((kind, at)) = row.change else { return (Look::Plain, String::new()) };
    let age = now.saturating_duration_since(at);
    let look = match kind {
        ChangeKind::Deleted => Look::Deleted,
        ChangeKind::Added | ChangeKind::Updated if age >= HIGHLIGHT => Look::Plain,
        ChangeKind::Added => Look::Added,
        ChangeKind::Updated => Look::Updated,
    };
    (look, format!("{} {}", kind_name(kind), ago(age)))
}

fn ago(age: Duration) -> String {
    match age.as_secs() {
        0 => "now".to_owned(),
        seconds @ 1..60 => format!("{seconds}s ago"),
        seconds @ 60..3600 => format!("{}m ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h ago", seconds / 3600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}

/// Divides `room`: nobody gets more than is wanted, and what one leaves goes to the others.
fn shares(room: usize, wanted: &[usize]) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut left = room.min(wanted.iter().sum());
    while left > 0 {
        for (share, wanted) in shares.iter_mut().zip(wanted) {
            if *share < *wanted && left > 0 {
                *share += 1;
                left -= 1;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::event::{Notice, RowEvent};

    struct Fixture {
        start: Instant,
        view: View,
    }

    impl Fixture {
        fn new(tables: &[WatchedTable]) -> Self {
            let start = Instant::now();
            let view = View::new("ws://127.0.0.1:8000/ws/".to_owned(), tables);
            let mut fixture = Self { start, view };
            fixture.notice(0.0, &Notice::Connected { is_again: false });
            fixture
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn notice(&mut self, seconds: f64, notice: &Notice) {
            self.view.apply(notice, self.at(seconds));
        }

        fn row(&mut self, seconds: f64, table: WatchedTable, kind: ChangeKind, key: &str, name: Option<&str>) {
            let (key, name) = (key.to_owned(), name.map(str::to_owned));
            let event = RowEvent { table, kind, is_initial: seconds == 0.0, key, name, job: None, document: None };
            self.notice(seconds, &Notice::Row(event));
        }

        fn lines(&mut self, seconds: f64, columns: usize, lines: usize) -> Vec<Line> {
            let now = self.at(seconds);
            self.view.expire(now);
            frame(&self.view, Size { columns, lines }, now)
        }

        fn text(&mut self, seconds: f64, columns: usize, lines: usize) -> Vec<String> {
            let text = |line: Line| line.0.into_iter().map(|(_, text)| text).collect::<String>();
            self.lines(seconds, columns, lines).into_iter().map(|line| text(line).trim_end().to_owned()).collect()
        }
    }

    use ChangeKind::{Added, Deleted, Updated};
    use WatchedTable::{DomainLogin, Job, Policy, Schedule};

    fn policies() -> Fixture {
        let mut fixture = Fixture::new(&[Policy]);
        for (key, name) in [("id-1", "Broad crawl"), ("id-2", "Deep crawl"), ("id-3", "News")] {
            fixture.row(0.0, Policy, Added, key, Some(name));
        }
        fixture
    }

    #[test]
    fn a_table_is_shown_with_what_happened() {
        let mut fixture = policies();
        fixture.row(5.0, Policy, Updated, "id-1", Some("Broad crawl"));
        fixture.row(17.0, Policy, Added, "id-4", Some("Audit"));
        fixture.row(18.0, Policy, Deleted, "id-3", Some("News"));
        assert_eq!(
            fixture.text(19.5, 80, 24),
            [
                "starfeed watch  ws://127.0.0.1:8000/ws/  connected, Ctrl-C ends",
                "",
                "policy  3 rows  3 changes  0.2/s",
                "  Audit        ADDED 2s ago      id-4",
                "  Broad crawl  UPDATED 14s ago   id-1",
                "  Deep crawl                     id-2",
                "  News         DELETED 1s ago    id-3",
            ]
        );
        let looks: Vec<Look> = fixture.lines(19.5, 80, 24)[3..].iter().map(|line| line.0[1].0).collect();
        assert_eq!(looks, [Look::Added, Look::Plain, Look::Plain, Look::Deleted]);
        let text = fixture.text(75.0, 80, 24);
        assert_eq!(
            text[2..],
            [
                "policy  3 rows  3 changes  0.0/s",
                "  Audit        ADDED 58s ago     id-4",
                "  Broad crawl  UPDATED 1m ago    id-1",
                "  Deep crawl                     id-2",
            ]
        );
    }

    #[test]
    fn each_piece_has_its_look() {
        let mut fixture = policies();
        fixture.row(5.0, Policy, Updated, "id-2", Some("Deep crawl"));
        let lines = fixture.lines(5.0, 80, 24);
        let piece = |look, text: &str| (look, text.to_owned());
        assert_eq!(
            lines[4],
            Line(vec![
                piece(Look::Plain, "  "),
                piece(Look::Updated, "Deep crawl "),
                piece(Look::Plain, "  "),
                piece(Look::Updated, "UPDATED now     "),
                piece(Look::Plain, "  "),
                piece(Look::Dim, "id-2"),
            ])
        );
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let mut fixture = policies();
        fixture.row(0.0, Policy, Added, "id-0", Some("A policy with a name that is longer than the screen is wide"));
        assert_eq!(
            fixture.text(1.0, 40, 6),
            [
                "starfeed watch  ws://127.0.0.1:8000/ws/…",
                "",
                "policy  4 rows  0 changes  0.0/s",
                "  A policy with a nam…",
                "  Broad crawl",
                "  +2 more",
            ]
        );
        for (columns, lines) in [(0, 0), (1, 1), (5, 3), (12, 4), (300, 2)] {
            let frame = fixture.lines(1.0, columns, lines);
            assert!(frame.len() <= lines);
            for line in frame {
                assert!(line.0.iter().map(|(_, text)| width(text)).sum::<usize>() <= columns, "{line:?}");
            }
        }
    }

    #[test]
    fn rows_without_a_name_show_their_key_and_nothing_to_obey() {
        let mut fixture = Fixture::new(&[DomainLogin]);
        fixture.row(2.0, DomainLogin, Added, "evil.example\u{1b}[2J", None);
        fixture.row(3.0, DomainLogin, Added, "b.example", None);
        assert_eq!(
            fixture.text(3.0, 80, 24)[2..],
            ["domain_login  2 rows  2 changes  0.2/s", "  b.example     ADDED now", "  evil.example  ADDED 1s ago",]
        );
    }

    #[test]
    fn jobs_show_how_they_stand_and_those_that_run_come_first() {
        let mut fixture = Fixture::new(&[Job]);
        for (key, name, state, items) in [("a", "Archive", "completed", 1234), ("n", "News", "running", 57)] {
            let job = Some(JobStanding { state: state.to_owned(), items, failed: 3 });
            let (table, kind) = (Job, Added);
            let (key, name) = (key.to_owned(), Some(name.to_owned()));
            let event = RowEvent { table, kind, is_initial: true, key, name, job, document: None };
            fixture.notice(0.0, &Notice::Row(event));
        }
        assert_eq!(
            fixture.text(1.0, 90, 24)[2..],
            [
                "job  2 rows  0 changes  0.0/s",
                "  News     running    items     57  failed     3                    n",
                "  Archive  completed  items   1234  failed     3                    a",
            ]
        );
        let looks: Vec<Look> = fixture.lines(1.0, 90, 24)[3..].iter().map(|line| line.0[3].0).collect();
        assert_eq!(looks, [Look::Plain, Look::Dim]);
    }

    #[test]
    fn tables_share_the_screen() {
        let mut fixture = Fixture::new(&[Policy, Schedule]);
        for number in 0..9 {
            fixture.row(0.0, Policy, Added, &format!("p{number}"), Some(&format!("Policy {number}")));
        }
        fixture.row(0.0, Schedule, Added, "s", Some("Daily"));
        assert_eq!(
            fixture.text(1.0, 60, 9),
            [
                "starfeed watch  ws://127.0.0.1:8000/ws/  connected, Ctrl-C …",
                "",
                "policy  9 rows  0 changes  0.0/s",
                "  Policy 0                    p0",
                "  Policy 1                    p1",
                "  +7 more",
                "",
                "schedule  1 row  0 changes  0.0/s",
                "  Daily                    s",
            ]
        );
        assert_eq!(shares(10, &[9, 1, 4]), [5, 1, 4]);
        assert_eq!(shares(2, &[9, 9, 9]), [1, 1, 0]);
        assert_eq!(shares(99, &[2, 0]), [2, 0]);
        assert_eq!(shares(5, &[]).len(), 0);
    }

    #[test]
    fn a_lost_connection_and_old_rows_are_said() {
        let mut fixture = policies();
        let error = "the server ended the connection: it is gone".to_owned();
        fixture.notice(1.0, &Notice::Lost { error, retry_in: Duration::from_millis(2500), is_still: false });
        let why = Some("the table\u{7} is slow".to_owned());
        fixture.notice(1.0, &Notice::Stale { table: Policy, why });
        let text = fixture.text(1.2, 120, 24);
        assert_eq!(
            text[0],
            "starfeed watch  ws://127.0.0.1:8000/ws/  not connected, trying again in 3 s: the server ended the connection: it \
             is gone"
        );
        assert_eq!(text[2], "policy  3 rows  0 changes  0.0/s  the table is slow");
        assert_eq!(text.len(), 6);
        fixture.notice(4.0, &Notice::Connected { is_again: true });
        fixture.notice(4.0, &Notice::Stale { table: Policy, why: None });
        let text = fixture.text(4.0, 120, 24);
        assert_eq!(text[0], "starfeed watch  ws://127.0.0.1:8000/ws/  connected, Ctrl-C ends");
        assert_eq!(text[2], "policy  3 rows  0 changes  0.0/s");
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 1, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(|age| ago(Duration::from_secs(age)));
        assert_eq!(ages, ["now", "1s ago", "59s ago", "1m ago", "59m ago", "1h ago", "23h ago", "1d ago", "10d ago"]);
    }
}
