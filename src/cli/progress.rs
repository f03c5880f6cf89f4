//! How far a command is: one line on the terminal that is written again and again.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The line. It is gone when this is dropped; where standard error is no terminal there never is one.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), shown: None }
    }

    /// Shows `text`, unless the line was written only just now.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() >= INTERVAL_MIN);
        if self.is_terminal && is_due {
            self.shown = Some(Instant::now());
            write(&format!("\r\u{1b}[2K{}", text()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            write("\r\u{1b}[2K");
        }
    }
}

fn write(text: &str) {
    // Nobody misses progress that cannot be shown.
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
