//! The live view on a terminal.

use std::io::{Stdout, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};
use tokio::time::Instant;

use super::event::Notice;
use super::screen::{Line, Look, Size, frame};
use super::view::View;

const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Ages on the screen are in seconds.
const TICK: Duration = Duration::from_secs(1);

/// The screen, which gets what it showed before when this is dropped.
#[derive(Debug)]
pub(super) struct LiveScreen {
    view: View,
    is_changed: bool,
    drawn: Instant,
    /// What is on the screen, once there is anything.
    shown: Option<(Size, Vec<Line>)>,
}

impl LiveScreen {
    pub(super) fn new(view: View) -> Self {
        Self { view, is_changed: true, drawn: Instant::now(), shown: None }
    }

    pub(super) fn apply(&mut self, notice: &Notice, now: Instant) {
        self.is_changed = true;
        self.view.apply(notice, now);
    }

    /// When it is to be drawn again.
    pub(super) fn due(&self) -> Instant {
        self.drawn + if self.is_changed { INTERVAL_MIN } else { TICK }
    }

    /// Draws it, if it is time and looks different from before.
    pub(super) fn draw(&mut self, now: Instant) -> std::io::Result<()> {
        if now < self.due() {
            return Ok(());
        }
        self.is_changed = false;
        self.drawn = now;
        self.view.expire(now);
        let (columns, lines) = terminal::size()?;
        let size = Size { columns: columns.into(), lines: lines.into() };
        let next = (size, frame(&self.view, size, now));
        if self.shown.as_ref() == Some(&next) {
            return Ok(());
        }
        if self.shown.is_none() {
            execute!(std::io::stdout(), EnterAlternateScreen, Hide, DisableLineWrap)?;
        }
        let (size, lines) = self.shown.insert(next);
        write(*size, lines, &mut std::io::stdout())
    }
}

impl Drop for LiveScreen {
    fn drop(&mut self) {
        if self.shown.is_some() {
            // A terminal that is gone needs nothing restored.
            let _ = execute!(std::io::stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
        }
    }
}

fn write(size: Size, lines: &[Line], stdout: &mut Stdout) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    queue!(bytes, BeginSynchronizedUpdate)?;
    let mut lines = lines.iter();
    for number in 0..size.lines {
        // Cleared first: after a line as wide as the screen, the cursor still stands on its last character.
        queue!(bytes, MoveTo(0, u16::try_from(number).unwrap_or(u16::MAX)), Clear(ClearType::UntilNewLine))?;
        for (look, text) in lines.next().into_iter().flat_map(|line| &line.0) {
            set_look(*look, &mut bytes)?;
            queue!(bytes, Print(text), SetForegroundColor(Color::Reset), SetAttribute(Attribute::Reset))?;
        }
    }
    queue!(bytes, MoveTo(0, 0), EndSynchronizedUpdate)?;
    stdout.write_all(&bytes)?;
    stdout.flush()
}

fn set_look(look: Look, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    match look {
        Look::Plain => Ok(()),
        Look::Heading => queue!(bytes, SetAttribute(Attribute::Bold)),
        Look::Dim => queue!(bytes, SetAttribute(Attribute::Dim)),
        Look::Warning => queue!(bytes, SetForegroundColor(Color::Red)),
        Look::Added => queue!(bytes, SetForegroundColor(Color::Green)),
        Look::Updated => queue!(bytes, SetForegroundColor(Color::Yellow)),
        Look::Deleted => queue!(
            bytes,
            SetForegroundColor(Color::Red),
            SetAttribute(Attribute::Dim),
            SetAttribute(Attribute::CrossedOut)
        ),
    }
}
