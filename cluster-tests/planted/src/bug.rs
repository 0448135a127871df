//! The bugs by name. What each does, what it breaks and who should catch it stands in the catalogue.

/// A bug that can be planted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "on", derive(Debug))]
pub enum Bug {
    // The log and the vote.
    AckBeforePersist,
    LogWithoutFsync,
    VoteWithoutFsync,
    FsyncErrorIgnored,
    DeposedMeansNo,
    PurgeBeyondSnapshot,
    // Leadership and reads.
    ReadWithoutQuorumRound,
    ReadBeforeFirstEntryOfTerm,
    ReadDoesNotWaitForApply,
    AcknowledgedNotWaitedFor,
    StaleReadTakenForBounded,
    LeadershipFenceRemoved,
    // Rows and snapshots.
    ApplyNotAtomicOverKeyspaces,
    AppliedIndexWrittenFirst,
    SnapshotWithoutOutcomes,
    SnapshotMissesKeyspace,
    SnapshotBlockChecksumUnchecked,
    InstallNotFsynced,
    UnorderedIterationInApply,
    // Who may take part.
    NodeIdReused,
    WipedNodeVotes,
    LineageUnchecked,
    // Decisions.
    CheckOutsideTheActor,
    GiveBeforeCommit,
    SecondStatusChangeInFlight,
    ActorsReloadedInFlight,
    ActorStateKeptAcrossReigns,
    FalseRefusalByOpenGrant,
    PartialTakeLeftAfterRefusal,
    ExpiryByLocalClock,
    PaidOrderExpires,
    RefundBeyondCapture,
    HoldLeftAfterCancel,
    MoneyAsFloat,
    // Keys and answers.
    KeyForgotten,
    AlteredBodyAnswered,
    LastAnswerWins,
    ForwardedTimeoutAnsweredOk,
    // The feed and the door.
    FeedResumesOneTooFar,
    FeedFromUncommittedTail,
    AdminRouteOpen,
}
