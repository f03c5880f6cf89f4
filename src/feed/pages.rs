//! Pages that were read for one subscription that is behind, and are there for the others that stand where it stood: all who
//! join at once are sent the same pages of one snapshot, and the store is read once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::ShowRows;
use super::catch_up::{CatchUp, CatchUpBudget, Cursor, Reading, read_page};
use super::log_ranges::LogRanges;
use super::shelf::Shelf;
use crate::change::{Seq, Table};
use crate::metrics::Metrics;
use crate::planted::PlantedBug;
use crate::store::{PageBudget, Store, StoreError, read};
use crate::view::{KeyRule, Secret, View};

/// Bounds of what is kept for others.
#[derive(Clone, Copy, Debug)]
pub struct PagesLimits {
    /// Bytes of pages and of ranges of logs.
    pub bytes: usize,
    /// Milliseconds that they are kept without a use, and that a snapshot may have begun before somebody joins it.
    pub kept_ms: u64,
    /// What a range of a log holds.
    pub range: PageBudget,
}

/// What came of reading a page.
pub type PageResult = Result<CatchUp, Arc<StoreError>>;

/// A page that a subscription needs.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// What it sees.
    pub view: Arc<View>,
    /// How far it has come.
    pub cursor: Cursor,
    /// How much it takes.
    pub budget: CatchUpBudget,
    /// The change that the page has to contain, if it begins a snapshot: what its client knows of, or what it could not find in
    /// memory.
    pub at_least: Seq,
}

/// Two requests with the same key are for the same page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PageKey {
    table: Table,
    cursor: Cursor,
    keys: KeyRule,
    filter: Option<Arc<str>>,
    secrets: &'static [Secret],
    coalesce: bool,
    bytes: usize,
    items: usize,
}

impl PageKey {
    fn of(request: &PageRequest) -> Arc<Self> {
        let PageRequest { view, cursor, budget, .. } = request;
        let mut cursor = cursor.clone();
        if let (true, Cursor::Snapshot { sent: Some((_, at)) }) =
            (PlantedBug::PageFitsAnyPosition.is_planted(), &mut cursor)
        {
            *at = Seq::ZERO;
        }
        let filter = view.filter.as_ref().filter(|_| !PlantedBug::PageFitsAnyFilter.is_planted());
        Arc::new(Self {
            table: view.table.clone(),
            cursor,
            keys: view.keys,
            filter: filter.map(|filter| Arc::clone(filter.shared_canonical())),
            secrets: view.secrets,
            coalesce: budget.coalesce,
            bytes: budget.page.bytes,
            items: budget.page.items,
        })
    }
}

/// A page that is being read, or was.
#[derive(Debug)]
struct KeptPage {
    result: watch::Receiver<Option<PageResult>>,
    /// It contains this change, and perhaps later ones.
    at_least: Seq,
    asked_ms: u64,
    /// Tells it from another one with the same key.
    number: u64,
}

/// A page that is not larger than this, and has not more changes before it, is read in less than a millisecond.
const QUICK_BYTES: usize = 1 << 20;
const QUICK_ITEMS: usize = 4_000;
const QUICK_CHANGES: u64 = 1_000;

/// What a page costs beside what it holds.
const PAGE_OVERHEAD: usize = 512;

#[derive(Debug)]
struct PagesState {
    shelf: Shelf<Arc<PageKey>, KeptPage>,
    /// The changes behind this one are not all in the log any more, as somebody has found: no page leads from before it to what
    /// is there now.
    trimmed: HashMap<Table, Seq>,
    last_number: u64,
}

/// Pages that are being read, or were read a short time ago.
#[derive(Debug)]
pub struct Pages {
    state: Mutex<PagesState>,
    log: LogRanges,
    kept_ms: u64,
    metrics: Arc<Metrics>,
}

/// Where a page comes from.
#[derive(Debug)]
pub enum Asked {
    /// Somebody else has read it, or is reading it.
    Shared(SharedPage),
    /// Nobody has: whoever asked reads it.
    Unread(UnreadPage),
}

impl Pages {
    /// None are kept yet.
    pub fn new(limits: PagesLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let PagesLimits { bytes, kept_ms, range } = limits;
        let shelf = Shelf::new(bytes / 2, kept_ms);
        let log = LogRanges::new(bytes - bytes / 2, kept_ms, range);
        Arc::new(Self {
            state: Mutex::new(PagesState { shelf, trimmed: HashMap::new(), last_number: 0 }),
            log,
            kept_ms,
            metrics,
        })
    }

    /// The page for `request`, if it is kept or being read.
    pub fn shared(&self, request: &PageRequest) -> Option<SharedPage> {
        let key = PageKey::of(request);
        let mut state = self.lock();
        let now_ms = state.shelf.now_ms();
        let at_least = state.trimmed.get(&key.table).map_or(request.at_least, |trimmed| request.at_least.max(*trimmed));
        let kept = state.shelf.take_up(&key)?;
        // Whoever is in a snapshot already is no newer than its page. Who begins one begins near to what is there now.
        let fits = match request.cursor {
            Cursor::Snapshot { sent: None } => {
                let is_recent = now_ms.saturating_sub(kept.asked_ms) <= self.kept_ms;
                is_recent && (kept.at_least >= at_least || PlantedBug::OldPagesAreGoodEnough.is_planted())
            }
            Cursor::Snapshot { .. } | Cursor::After(_) => true,
        };
        fits.then(|| SharedPage { result: kept.result.clone() })
    }

    /// The page for `request`, or the order to read it: of a store that is at `position` now.
    pub fn ask(self: &Arc<Self>, request: PageRequest, position: Seq) -> Asked {
        if let Some(shared) = self.shared(&request) {
            return Asked::Shared(shared);
        }
        let key = PageKey::of(&request);
        let (sender, result) = watch::channel(None);
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        let kept = KeptPage { result, at_least: position, asked_ms: state.shelf.now_ms(), number };
        state.shelf.put(Arc::clone(&key), kept, 0);
        drop(state);
        Asked::Unread(UnreadPage { pages: Arc::clone(self), key, request, number, sender })
    }

    /// It is `now_ms`, in milliseconds from a beginning that all who say so share: what was not used for too long goes.
    pub fn tick(&self, now_ms: u64) {
        self.lock().shelf.tick(now_ms);
        self.log.tick(now_ms);
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.lock().shelf.is_empty() && self.log.is_empty()
    }

    /// The bytes that are kept.
    pub fn bytes(&self) -> usize {
        let bytes = self.lock().shelf.bytes();
        bytes + self.log.bytes()
    }

    /// The page was read: it stays if others can go on with it.
    fn settle(&self, key: &Arc<PageKey>, number: u64, result: &PageResult) {
        let mut state = self.lock();
        if let Ok(CatchUp::Trimmed) = result {
            let trimmed = state.trimmed.entry(key.table.clone()).or_default();
            *trimmed = key.cursor.position().next().max(*trimmed);
        }
        let Some(kept) = state.shelf.get(key).filter(|kept| kept.number == number) else { return };
        match result {
            Ok(CatchUp::Page(page)) if page.cursor != key.cursor => {
                let kept = KeptPage {
                    result: kept.result.clone(),
                    at_least: page.cursor.position(),
                    asked_ms: kept.asked_ms,
                    number,
                };
                state.shelf.put(Arc::clone(key), kept, page.kept_bytes() + PAGE_OVERHEAD);
            }
            Ok(_) | Err(_) => state.shelf.remove(key),
        }
    }

    fn forget(&self, key: &Arc<PageKey>, number: u64) {
        let mut state = self.lock();
        if state.shelf.get(key).is_some_and(|kept| kept.number == number) {
            state.shelf.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PagesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page that nobody has read yet. If it is dropped, another one who needs it reads it.
#[derive(Debug)]
pub struct UnreadPage {
    pages: Arc<Pages>,
    key: Arc<PageKey>,
    request: PageRequest,
    number: u64,
    sender: watch::Sender<Option<PageResult>>,
}

impl UnreadPage {
    /// What it may hold.
    pub fn bytes(&self) -> usize {
        self.request.budget.page.bytes
    }

    /// Reads it, for all who wait for it. This waits for the disk.
    pub fn read(self, store: &Store) -> PageResult {
        self.read_shown(store, None)
    }

    /// The same for somebody who is sent its rows as `shown`: they are put together so where nothing is to be left out of them.
    pub fn read_shown(self, store: &Store, shown: Option<&dyn ShowRows>) -> PageResult {
        let result = self.result(store, shown, false).expect("what need not be at once can be read");
        self.settle(result)
    }

    /// The same without waiting for the disk, and mostly in less than a millisecond; where that cannot be, it is unread as before.
    pub fn read_at_once(self, store: &Store, shown: Option<&dyn ShowRows>) -> Result<PageResult, Self> {
        if !self.is_quick(store) {
            return Err(self);
        }
        match self.result(store, shown, true) {
            Some(result) => Ok(self.settle(result)),
            None => Err(self),
        }
    }

    fn result(&self, store: &Store, shown: Option<&dyn ShowRows>, is_at_once: bool) -> Option<PageResult> {
        let Self { pages, request, .. } = self;
        let reading = Reading { log: &pages.log, metrics: &pages.metrics, shown, is_at_once };
        read(store, |snapshot| read_page(snapshot, request, reading)).map_err(Arc::new).transpose()
    }

    fn settle(self, result: PageResult) -> PageResult {
        let Self { pages, key, number, sender, .. } = &self;
        pages.metrics.pages_read.inc();
        pages.settle(key, *number, &result);
        sender.send_replace(Some(result.clone()));
        result
    }

    /// Whether it takes so little time that nobody else need do it: all of it is in memory, and there is not much to look through.
    fn is_quick(&self, store: &Store) -> bool {
        let PageRequest { view, cursor, budget, .. } = &self.request;
        let changes = match cursor {
            Cursor::Snapshot { sent: None } => 0,
            Cursor::Snapshot { sent: Some((_, at)) } => store.position().seq.0.saturating_sub(at.0),
            Cursor::After(_) => return false,
        };
        let is_small = budget.page.bytes <= QUICK_BYTES && budget.page.items <= QUICK_ITEMS;
        is_small && changes <= QUICK_CHANGES && view.has_all_rows() && store.is_in_memory()
    }
}

impl Drop for UnreadPage {
    fn drop(&mut self) {
        if self.sender.borrow().is_none() {
            self.pages.forget(&self.key, self.number);
        }
    }
}

/// A page that another one has read, or reads.
#[derive(Clone, Debug)]
pub struct SharedPage {
    result: watch::Receiver<Option<PageResult>>,
}

impl SharedPage {
    /// What came of it; `None` as long as it is being read.
    pub fn now(&self) -> Option<SharedResult> {
        // Asked first: what is sent before the end is seen then.
        let is_over = self.result.has_changed().is_err();
        let result = self.result.borrow().clone();
        result.map_or_else(|| is_over.then_some(SharedResult::GivenUp), |result| Some(SharedResult::Read(result)))
    }

    /// Waits until it is read.
    pub async fn wait(mut self) -> SharedResult {
        match self.result.wait_for(Option::is_some).await {
            Ok(result) => result.clone().map_or(SharedResult::GivenUp, SharedResult::Read),
            Err(_) => SharedResult::GivenUp,
        }
    }
}

/// What came of a page that another one was to read.
#[derive(Clone, Debug)]
pub enum SharedResult {
    /// It was read.
    Read(PageResult),
    /// It was not: ask again.
    GivenUp,
}
