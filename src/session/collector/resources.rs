//! Figures of the machine, with the jobs that run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Collector, EventBody};
use crate::catalog;
use crate::change::{ChangeKind, Document, Key, Row};
use crate::feed::SeenChange;
use crate::host::HostFigures;
use crate::proto::{ResourceFrame, ResourceFrameJob, event};
use crate::view::key_id;

/// Jobs that one frame names; more than a crawler ever runs at once.
const JOBS_MAX: usize = 1000;

/// Of a name; more than anybody reads in a frame.
const NAME_CHARS_MAX: usize = 200;

/// Frames come once a second; one that is late is looked for so often.
const SECOND_MS: u64 = 1000;
const LATE_MS: u64 = 100;

/// The jobs are waited for so long: the database that they come from may be away, and the machine is here.
const PATIENCE_MS: u64 = 2000;

/// Puts the running jobs into the frames. The subscription sees only jobs that run.
#[derive(Debug)]
pub(in crate::session) struct Resources {
    figures: Arc<HostFigures>,
    /// The number of the newest frame that was taken.
    taken: u64,
    frames: VecDeque<Arc<ResourceFrame>>,
    running: BTreeMap<Key, Option<String>>,
    is_ready: bool,
    /// From then on frames go out without jobs, where those cannot be read; `None` before it was first asked.
    patient_until_ms: Option<u64>,
    due_ms: u64,
}

impl Resources {
    /// Begins with the newest frames, as many as `history` allows.
    pub(in crate::session) fn new(figures: Arc<HostFigures>, history: usize) -> Self {
        let (taken, frames) = figures.newest(history);
        let frames = frames.into();
        Self { figures, taken, frames, running: BTreeMap::new(), is_ready: false, patient_until_ms: None, due_ms: 0 }
    }

    fn put(&mut self, key: &Key, document: &Document) {
        let name = catalog::job_name(document).map(|name| name.chars().take(NAME_CHARS_MAX).collect());
        self.running.insert(key.clone(), name);
    }

    /// What ran when a frame of the past was made, nobody knows: only the newest one gets the jobs.
    fn with_jobs(&self, frame: &ResourceFrame) -> ResourceFrame {
        let job = |(key, name): (&Key, &Option<String>)| {
            let job_id = key_id(key).ok().map(|id| Bytes::copy_from_slice(id.as_bytes()));
            ResourceFrameJob { job_id, name: name.clone(), current_downloads: Some(0) }
        };
        ResourceFrame { jobs: self.running.iter().take(JOBS_MAX).map(job).collect(), ..frame.clone() }
    }
}

impl Collector for Resources {
    fn row(&mut self, row: &Row) {
        self.put(&row.key, &row.document);
    }

    fn change(&mut self, change: &SeenChange) {
        let kind = change.kind();
        let change = change.published().change();
        match &change.new {
            Some(document) if kind != ChangeKind::Deleted => self.put(&change.key, document),
            _ => drop(self.running.remove(&change.key)),
        }
    }

    fn ready(&mut self) {
        self.is_ready = true;
    }

    fn next_event(&mut self, now_ms: u64) -> Option<EventBody> {
        let patient_until_ms = *self.patient_until_ms.get_or_insert(now_ms + PATIENCE_MS);
        if !self.is_ready && now_ms < patient_until_ms {
            return None;
        }
        if self.frames.is_empty() && now_ms >= self.due_ms {
            let frames = self.figures.after(self.taken);
            self.due_ms = now_ms + if frames.is_empty() { LATE_MS } else { SECOND_MS };
            self.taken = frames.last().map_or(self.taken, |(number, _)| *number);
            self.frames = frames.into_iter().map(|(_, frame)| frame).collect();
        }
        let frame = self.frames.pop_front()?;
        let frame = if self.frames.is_empty() { self.with_jobs(&frame) } else { ResourceFrame::clone(&frame) };
        Some(Some(Box::new(event::Body::ResourceFrame(frame))))
    }

    fn due_ms(&self) -> Option<u64> {
        if self.is_ready { Some(self.due_ms) } else { Some(self.due_ms.max(self.patient_until_ms?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Seq;

    fn figures(frames: i32) -> Arc<HostFigures> {
        let figures = HostFigures::default();
        (1..=frames).for_each(|number| figures.push(frame(number)));
        Arc::new(figures)
    }

    fn frame(number: i32) -> ResourceFrame {
        ResourceFrame { rate_limiter: Some(number), ..Default::default() }
    }

    fn running(number: u8) -> Row {
        let key = Key::text(&format!("00000000-0000-4000-8000-0000000000{number:02}"));
        let document = Document::parse(format!(r#"{{"name":"J{number}"}}"#).as_bytes()).expect("an object");
        Row { key, version: Seq(1), document }
    }

    /// The number of the next frame, and the names of its jobs.
    fn next(resources: &mut Resources, now_ms: u64) -> Option<(i32, Vec<String>)> {
        match *resources.next_event(now_ms)?.expect("a body") {
            event::Body::ResourceFrame(frame) => {
                Some((frame.rate_limiter(), frame.jobs.iter().map(|job| job.name().to_owned()).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn past_frames_come_first_and_the_newest_has_the_jobs() {
        let figures = figures(5);
        let mut resources = Resources::new(Arc::clone(&figures), 2);
        assert_eq!(next(&mut resources, 0), None, "the jobs are not known yet");
        resources.row(&running(1));
        resources.ready();
        assert_eq!(next(&mut resources, 1), Some((4, vec![])));
        assert_eq!(next(&mut resources, 1), Some((5, vec!["J1".to_owned()])));
        assert_eq!(next(&mut resources, 1), None);
        assert_eq!(resources.due_ms(), Some(1 + LATE_MS));
        figures.push(frame(6));
        assert_eq!(next(&mut resources, 1 + LATE_MS), Some((6, vec!["J1".to_owned()])));
        assert_eq!(resources.due_ms(), Some(1 + LATE_MS + SECOND_MS));
        figures.push(frame(7));
        assert_eq!(next(&mut resources, 2 + LATE_MS), None, "there was one just now");
    }

    #[test]
    fn without_a_history_only_what_follows_comes() {
        let figures = figures(5);
        let mut resources = Resources::new(Arc::clone(&figures), 0);
        resources.ready();
        assert_eq!(next(&mut resources, 0), None);
        figures.push(frame(6));
        assert_eq!(next(&mut resources, 5000), Some((6, vec![])));
    }

    #[test]
    fn the_machine_is_shown_though_the_jobs_cannot_be_read() {
        let mut resources = Resources::new(figures(1), 1);
        assert_eq!(next(&mut resources, 10), None);
        assert_eq!(resources.due_ms(), Some(10 + PATIENCE_MS));
        assert_eq!(next(&mut resources, 10 + PATIENCE_MS), Some((1, vec![])));
    }
}
