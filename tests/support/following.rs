//! Following jobs and the server itself: requests for it, and what their events say.

use std::collections::BTreeSet;

use starfeed::proto::{self, ResourceFrame, TaskTree, event::Body, request::Command};

use super::crawled::id;
use super::raw::RawClient;

/// Follows what a job downloads, behind `token`.
pub(crate) fn sync(job: u8, token: Option<&[u8]>) -> Command {
    Command::SubscribeJobSync(proto::RequestSubscribeJobSync {
        job_id: id(job),
        sync_token: token.map(bytes::Bytes::copy_from_slice),
        compression_ok: None,
    })
}

/// The same from the beginning, by a client that says whether it takes bodies that are compressed.
pub(crate) fn sync_all(job: u8, compression_ok: bool) -> Command {
    Command::SubscribeJobSync(proto::RequestSubscribeJobSync {
        job_id: id(job),
        sync_token: None,
        compression_ok: Some(compression_ok),
    })
}

pub(crate) fn job_status(min_interval: f64) -> Command {
    Command::SubscribeJobStatus(proto::RequestSubscribeJobStatus { min_interval: Some(min_interval) })
}

pub(crate) fn resource_monitor(history: Option<i32>) -> Command {
    Command::SubscribeResourceMonitor(proto::RequestSubscribeResourceMonitor { history })
}

pub(crate) fn task_monitor(period: f64) -> Command {
    Command::SubscribeTaskMonitor(proto::RequestSubscribeTaskMonitor { period: Some(period) })
}

/// The token that comes with item `sequence`.
pub(crate) fn token(sequence: u64) -> Vec<u8> {
    [&[1], sequence.to_le_bytes().as_slice()].concat()
}

/// The number in a token.
pub(crate) fn sequence(token: &[u8]) -> u64 {
    let (form, number) = token.split_first().expect("a token has a form");
    assert_eq!(*form, 1, "{token:?}");
    u64::from_le_bytes(number.try_into().expect("8 bytes"))
}

/// The item of an event of subscription `id`.
pub(crate) fn item(event: proto::Event, id: i32) -> proto::SyncItem {
    assert_eq!(event.subscription_id, id);
    match event.body {
        Some(Body::SyncItem(item)) => item,
        body => panic!("an item was expected: {body:?}"),
    }
}

/// What happens in a job sync, in a word: the number of an item, or how it ended.
pub(crate) fn synced(event: &proto::Event) -> String {
    match &event.body {
        Some(Body::SyncItem(item)) => sequence(&item.token).to_string(),
        Some(Body::SubscriptionClosed(closed)) => match &closed.message {
            None => closed.reason().as_str_name().to_owned(),
            Some(message) => format!("{} {message}", closed.reason().as_str_name()),
        },
        body => panic!("{body:?}"),
    }
}

/// The next `count` events of job syncs, each in a word.
pub(crate) fn next_synced(client: &mut RawClient, count: usize) -> Vec<String> {
    (0..count).map(|_| synced(&client.event())).collect()
}

/// The next event, which has to be one of subscription `id`.
fn next_of(client: &mut RawClient, id: i32) -> Option<Body> {
    let event = client.event();
    assert_eq!(event.subscription_id, id);
    event.body
}

/// The jobs of the next event, which is one of subscription `id`.
pub(crate) fn next_jobs(client: &mut RawClient, id: i32) -> Vec<proto::Job> {
    match next_of(client, id) {
        Some(Body::JobList(list)) => list.jobs,
        body => panic!("{body:?}"),
    }
}

pub(crate) fn frame(body: Option<Body>) -> ResourceFrame {
    match body {
        Some(Body::ResourceFrame(frame)) => frame,
        body => panic!("{body:?}"),
    }
}

/// The frame of the next event, which is one of subscription `id`.
pub(crate) fn next_frame(client: &mut RawClient, id: i32) -> ResourceFrame {
    frame(next_of(client, id))
}

/// A frame has to say what a machine may say of itself.
pub(crate) fn assert_plausible(frame: &ResourceFrame) {
    assert!(!frame.cpus.is_empty() && frame.cpus.iter().all(|cpu| (0.0..=100.0).contains(&cpu.usage())), "{frame:?}");
    let memory = frame.memory.as_ref().expect("a machine has memory");
    assert!(memory.total() > 1 << 20 && (1..=memory.total()).contains(&memory.used()), "{memory:?}");
    for disk in &frame.disks {
        assert!(!disk.mount().is_empty() && disk.total() > 0, "{disk:?}");
        assert!((0..=disk.total()).contains(&disk.used()), "{disk:?}");
    }
    assert!(frame.networks.iter().all(|network| !network.name().is_empty()), "{frame:?}");
    assert!(frame.timestamp().starts_with("20") && frame.timestamp().ends_with("+00:00"), "{}", frame.timestamp());
    let counts = (frame.current_downloads, frame.maximum_downloads, frame.rate_limiter);
    assert_eq!(counts, (Some(0), Some(0), Some(0)));
}

/// What the monitor says of a job that runs.
pub(crate) fn running(number: u8) -> proto::ResourceFrameJob {
    proto::ResourceFrameJob {
        job_id: Some(id(number)),
        name: Some(format!("Job {number}")),
        current_downloads: Some(0),
    }
}

pub(crate) fn tree(body: Option<Body>) -> TaskTree {
    match body {
        Some(Body::TaskTree(tree)) => tree,
        body => panic!("{body:?}"),
    }
}

/// The tree of the next event, which is one of subscription `id`.
pub(crate) fn next_tree(client: &mut RawClient, id: i32) -> TaskTree {
    tree(next_of(client, id))
}

/// All names of a tree, each behind those above it.
pub(crate) fn paths(tree: &TaskTree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_paths(tree, "", &mut found);
    found
}

fn collect_paths(tree: &TaskTree, above: &str, found: &mut BTreeSet<String>) {
    let below: Vec<&str> = tree.subtasks.iter().map(TaskTree::name).collect();
    assert!(below.is_sorted(), "{below:?}");
    let path = format!("{above}/{}", tree.name());
    tree.subtasks.iter().for_each(|subtask| collect_paths(subtask, &path, found));
    found.insert(path);
}
