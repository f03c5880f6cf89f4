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
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 28] = [
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
        PLANTED.get() == Some(self)
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
        work()
    }
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<PlantedBug>> = const { std::cell::Cell::new(None) };
}
