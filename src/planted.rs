//! Faults that tests can switch on, to prove that they would find them. Without the feature `planted-bugs` there are none.

/// A mistake in the core that somebody could make; each is one line, where it would be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlantedBug {
    /// A full outbox drops a change and says nothing.
    FullOutboxDropsSilently,
    /// A subscription that overflowed continues after the change that did not fit.
    OverflowSkipsOneChange,
    /// A subscription goes live at the newest position, whatever it has been sent.
    LiveBeforeCaughtUp,
    /// A change that a subscription has been sent while it caught up is sent again when it is live.
    LiveRepeatsReplayedChanges,
    /// The window of recent changes answers although an older change has left it already.
    WindowForgetsWithoutSaying,
    /// The log is read from one change too late.
    LogReadSkipsOneChange,
    /// A snapshot in pages does not send what happened to the rows of earlier pages.
    SnapshotIgnoresEarlierPages,
    /// The next page of a snapshot starts behind its first row.
    SnapshotPageSkipsARow,
    /// The position of the first page counts for the whole snapshot, so later changes are sent twice.
    SnapshotKeepsFirstPosition,
    /// A deletion is sent as an update.
    DeletionLooksLikeUpdate,
    /// Changes are published although the disk refused them.
    PublishedBeforeDurable,
    /// A commit counts as durable although the disk may still lose its record.
    JournalIsNotSynced,
    /// Records of an earlier generation of the journal are done again.
    StaleJournalIsRedone,
    /// The journal begins anew although the database has not what is in it.
    CheckpointForgetsJournal,
    /// What is settling is written to the database, and not made stable there.
    SettledInMemory,
    /// Changes that a failed commit left on disk are never published.
    RecoveredChangesForgotten,
    /// Retention does not tell readers that it removed what they still need.
    TrimmedLogLooksComplete,
    /// A dropped subscription stays attached to its feed.
    DroppedSubscriptionStaysAttached,
    /// A row that ceases to match a filter is not deleted.
    LeavingRowIsForgotten,
    /// A token in the middle of a snapshot claims that all rows were sent.
    TokenBeforeTheSnapshotEnds,
    /// A token between coalesced changes claims that the client holds what was.
    CoalescedChangesHaveTokens,
    /// A resumed subscription goes on after the change that it missed first.
    ResumeSkipsOneChange,
    /// A token of another history is taken for one of this.
    EpochIsNotChecked,
    /// A token of another table or filter is taken for one of this.
    TokenFitsAnyView,
    /// A token that nobody sealed is believed.
    AnyTokenIsAccepted,
    /// The digest of a view keeps the old version of a row that was updated.
    SummaryKeepsOldVersions,
    /// A heartbeat overtakes the changes before it.
    MarkOvertakesChanges,
    /// A client keeps the rows that are not sent again after a reset.
    ResetKeepsRowsThatAreGone,
    /// Rows that were deleted while the source could not be followed stay.
    ResyncForgetsDeletions,
    /// Changes that the source has thrown away are not missed.
    SourceErrorsAreIgnored,
    /// Who waits for a table to be read is not told when it is.
    WaitingSubscribersAreForgotten,
    /// What changes while a table is read again is taken for a part of what was there.
    RereadForgetsNewRows,
    /// A new row does not get into the indexes of its table.
    IndexForgetsNewRows,
    /// Who reads on in an index gets what it had last once more.
    RangeRepeatsWhereItStarts,
    /// What happens while a sync looks for items does not make it look again.
    WakeDuringALookIsForgotten,
    /// A sync of a finished job ends with the first page of what is left.
    JobEndsBeforeItsItems,
    /// Of a batch of changes, only the first one wakes those who read by themselves.
    BellRingsForTheFirstChangeOnly,
    /// Job status does not tell that a job is gone.
    StatusForgetsDeletions,
    /// A page for one filter is sent to those of another one.
    PageFitsAnyFilter,
    /// A page of a snapshot is sent to all who have come up to its first key, whatever they have seen of the rows before it.
    PageFitsAnyPosition,
    /// Whoever has missed too much begins anew with a page from before that.
    OldPagesAreGoodEnough,
    /// A range of the log that ends where the next one begins claims all that was read for it.
    LogRangeClaimsMoreThanItHas,
    /// That a subscription is level with its feed is seen under the lock, and made so under another one.
    LiveIsDecidedUnlocked,
    /// A connection is woken before that is in its outbox for which it is woken.
    WakesBeforeThereIsSomething,
    /// Who begins to wait for changes of rows is not told of those that came just before.
    BellsBeginSilent,
    /// A publisher that finds a connection busy does not wake it for what is new.
    BusyConnectionIsNotWoken,
    /// A publisher leaves to nobody what the client does not take at once.
    UnsentIsLeftToNobody,
}

impl PlantedBug {
    /// All that show where one thing happens after the other.
    pub const ALL: [Self; 42] = [
        Self::FullOutboxDropsSilently,
        Self::OverflowSkipsOneChange,
        Self::LiveBeforeCaughtUp,
        Self::LiveRepeatsReplayedChanges,
        Self::WindowForgetsWithoutSaying,
        Self::LogReadSkipsOneChange,
        Self::SnapshotIgnoresEarlierPages,
        Self::SnapshotPageSkipsARow,
        Self::SnapshotKeepsFirstPosition,
        Self::DeletionLooksLikeUpdate,
        Self::PublishedBeforeDurable,
        Self::JournalIsNotSynced,
        Self::StaleJournalIsRedone,
        Self::CheckpointForgetsJournal,
        Self::SettledInMemory,
        Self::RecoveredChangesForgotten,
        Self::TrimmedLogLooksComplete,
        Self::DroppedSubscriptionStaysAttached,
        Self::LeavingRowIsForgotten,
        Self::TokenBeforeTheSnapshotEnds,
        Self::CoalescedChangesHaveTokens,
        Self::ResumeSkipsOneChange,
        Self::EpochIsNotChecked,
        Self::TokenFitsAnyView,
        Self::AnyTokenIsAccepted,
        Self::SummaryKeepsOldVersions,
        Self::MarkOvertakesChanges,
        Self::ResetKeepsRowsThatAreGone,
        Self::ResyncForgetsDeletions,
        Self::SourceErrorsAreIgnored,
        Self::WaitingSubscribersAreForgotten,
        Self::RereadForgetsNewRows,
        Self::IndexForgetsNewRows,
        Self::RangeRepeatsWhereItStarts,
        Self::WakeDuringALookIsForgotten,
        Self::JobEndsBeforeItsItems,
        Self::BellRingsForTheFirstChangeOnly,
        Self::StatusForgetsDeletions,
        Self::PageFitsAnyFilter,
        Self::PageFitsAnyPosition,
        Self::OldPagesAreGoodEnough,
        Self::LogRangeClaimsMoreThanItHas,
    ];

    /// Those that show only where two things happen at the same time.
    pub const RACES: [Self; 5] = [
        Self::LiveIsDecidedUnlocked,
        Self::WakesBeforeThereIsSomething,
        Self::BellsBeginSilent,
        Self::BusyConnectionIsNotWoken,
        Self::UnsentIsLeftToNobody,
    ];

    /// Whether this bug is switched on in this thread.
    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }

    /// Whether this bug is switched on in this thread.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn is_planted(self) -> bool {
        let is_planted = PLANTED.get() == Some(self);
        if is_planted && !std::thread::panicking() {
            // Some let the core go round in circles; nobody else could end that.
            let left = TIMES_LEFT.get().checked_sub(1);
            TIMES_LEFT.set(left.unwrap_or_else(|| panic!("{self:?} keeps the core busy for ever")));
        }
        is_planted
    }

    /// Runs `work` with `bug`, or none, switched on in this thread.
    #[cfg(feature = "planted-bugs")]
    pub fn with<T>(bug: Option<Self>, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<PlantedBug>);
        impl Drop for Restore {
            fn drop(&mut self) {
                PLANTED.set(self.0);
            }
        }
        let _restore = Restore(PLANTED.replace(bug));
        TIMES_LEFT.set(TIMES_MAX);
        work()
    }
}

/// More than any schedule comes by the place of a bug.
#[cfg(feature = "planted-bugs")]
const TIMES_MAX: u32 = 1_000_000;

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<PlantedBug>> = const { std::cell::Cell::new(None) };
    /// How often its bug may still be come by.
    static TIMES_LEFT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}
