//! What each bug does, which promise it breaks under which fault, and who should catch it first.

use crate::Bug;

/// Where a bug should be caught first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harness {
    /// Simulated time, network and disks.
    Simulation,
    /// Real processes on disks that lose power.
    Processes,
    /// Requests to a cluster that nothing is done to.
    Api,
}

/// A bug, described.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// Which.
    pub bug: Bug,
    /// What it is called in `AGORA_PLANTED` and in tables.
    pub name: &'static str,
    /// What it does wrong, which promise that breaks, and under which fault.
    pub breaks: &'static str,
    /// Who should catch it first.
    pub first: Harness,
}

impl Plant {
    /// The bug of that name.
    pub fn named(name: &str) -> Option<&'static Plant> {
        CATALOGUE.iter().find(|plant| plant.name == name)
    }
}

const fn plant(bug: Bug, name: &'static str, first: Harness, breaks: &'static str) -> Plant {
    Plant { bug, name, breaks, first }
}

use Harness::{Api, Processes, Simulation};

/// All bugs, in the order of [`Bug`].
pub static CATALOGUE: &[Plant] = &[
    plant(
        Bug::AckBeforePersist,
        "ack-before-persist",
        Simulation,
        "entries are acknowledged to the leader while they are in memory only, and written with the next ones: a power \
         loss takes acknowledged writes along, or leaves a follower that its peers refuse",
    ),
    plant(
        Bug::LogWithoutFsync,
        "log-without-fsync",
        Simulation,
        "the log's file is written but never synced: after a power loss a node has lost, or cannot read, what it \
         acknowledged",
    ),
    plant(
        Bug::VoteWithoutFsync,
        "vote-without-fsync",
        Simulation,
        "a vote is answered before it is on disk: after a power loss inside the election a node votes twice in one term, \
         or is refused by peers that remember its vote",
    ),
    plant(
        Bug::FsyncErrorIgnored,
        "fsync-error-ignored",
        Simulation,
        "a sync of the log that fails is taken for one that succeeded: the node goes on acknowledging instead of ending, \
         and a power loss takes what was acknowledged",
    ),
    plant(
        Bug::DeposedMeansNo,
        "deposed-means-no",
        Simulation,
        "what a leader has on its way when it is deposed is told as never applied, though the next leader may hold and \
         commit it: a definite no for a write that takes effect",
    ),
    plant(
        Bug::PurgeBeyondSnapshot,
        "purge-beyond-snapshot",
        Simulation,
        "rows are recorded as durable without being synced, and the log before them is purged: after a power loss of all \
         nodes nobody has the entries between",
    ),
    plant(
        Bug::ReadWithoutQuorumRound,
        "read-without-quorum-round",
        Simulation,
        "a leader answers linearizable reads without asking a majority: after a pause or a partition an old leader \
         answers with what has been overwritten",
    ),
    plant(
        Bug::ReadBeforeFirstEntryOfTerm,
        "read-before-first-entry-of-term",
        Simulation,
        "a new leader answers reads at what it has applied, before an entry of its own term tells it what is committed: \
         after an election a read misses the last acknowledged writes",
    ),
    plant(
        Bug::ReadDoesNotWaitForApply,
        "read-does-not-wait-for-apply",
        Simulation,
        "a follower learns the read index and answers from rows that have not reached it: linearizable reads are stale \
         without any fault",
    ),
    plant(
        Bug::AcknowledgedNotWaitedFor,
        "acknowledged-not-waited-for",
        Simulation,
        "a bounded read does not wait for what this node itself has acknowledged: a session does not read its own write",
    ),
    plant(
        Bug::StaleReadTakenForBounded,
        "stale-read-taken-for-bounded",
        Simulation,
        "a bounded read does not look at the age of the rows: a node that is cut off answers with what is older than \
         was asked for",
    ),
    plant(
        Bug::LeadershipFenceRemoved,
        "leadership-fence-removed",
        Simulation,
        "a leader decides as soon as it is elected, before everything of its predecessors is applied, and apply takes \
         entries of any reign: decisions on old rows end as refused entries, false refusals or double effects",
    ),
    plant(
        Bug::ApplyNotAtomicOverKeyspaces,
        "apply-not-atomic-over-keyspaces",
        Processes,
        "an entry's entities are committed before its indexes, feed and outcomes: after a power loss between the two a \
         node has the effect of an entry and not its feed",
    ),
    plant(
        Bug::AppliedIndexWrittenFirst,
        "applied-index-written-first",
        Processes,
        "the applied index is committed before the rows of the entry: after a power loss between the two a node never \
         applies that entry",
    ),
    plant(
        Bug::SnapshotWithoutOutcomes,
        "snapshot-without-outcomes",
        Simulation,
        "a snapshot leaves out what was answered under which key: a node filled from it decides a retried request again",
    ),
    plant(
        Bug::SnapshotMissesKeyspace,
        "snapshot-misses-keyspace",
        Simulation,
        "a snapshot leaves out the index keyspace: a node filled from it lists no orders and expires none",
    ),
    plant(
        Bug::SnapshotBlockChecksumUnchecked,
        "snapshot-block-checksum-unchecked",
        Processes,
        "neither the checksum of a snapshot's block nor the digest of its rows is compared: a flipped bit is taken for data",
    ),
    plant(
        Bug::InstallNotFsynced,
        "install-not-fsynced",
        Simulation,
        "an installed generation is made current, and the log given up, before its rows are on disk: a power loss takes \
         rows that the node had promised to hold",
    ),
    plant(
        Bug::UnorderedIterationInApply,
        "unordered-iteration-in-apply",
        Simulation,
        "apply hashes the outcomes of an entry in the order of a hash map: equal entries give unequal states",
    ),
    plant(
        Bug::NodeIdReused,
        "node-id-reused",
        Simulation,
        "a node is added under the id of one that was removed: what peers and log remember of the old one is taken for it",
    ),
    plant(
        Bug::WipedNodeVotes,
        "wiped-node-votes",
        Simulation,
        "a node whose directory was emptied or rolled back is let in under its old id: it has forgotten what it \
         acknowledged and voted, so acknowledged writes can be outvoted",
    ),
    plant(
        Bug::LineageUnchecked,
        "lineage-unchecked",
        Processes,
        "nodes of another history of the same cluster are let in: their log is mixed with ours",
    ),
    plant(
        Bug::CheckOutsideTheActor,
        "check-outside-the-actor",
        Simulation,
        "what is available is checked against committed rows and not against what was granted since: two requests are \
         promised the same units, and apply must refuse one of them",
    ),
    plant(
        Bug::GiveBeforeCommit,
        "give-before-commit",
        Simulation,
        "what a transaction gives back can be granted before it is committed: if it is dropped, the units were never there",
    ),
    plant(
        Bug::SecondStatusChangeInFlight,
        "second-status-change-in-flight",
        Simulation,
        "an order that is being paid can be cancelled, and the other way round, before the first change is known: apply \
         must refuse one of them",
    ),
    plant(
        Bug::ActorsReloadedInFlight,
        "actors-reloaded-in-flight",
        Simulation,
        "an entity leaves memory while grants of it are on their way: loaded again, it grants the same units twice",
    ),
    plant(
        Bug::ActorStateKeptAcrossReigns,
        "actor-state-kept-across-reigns",
        Simulation,
        "entities stay in memory when leadership is lost, and are used when it comes back: they have missed what others \
         decided in between",
    ),
    plant(
        Bug::FalseRefusalByOpenGrant,
        "false-refusal-by-open-grant",
        Simulation,
        "a shortage that exists only because of grants that may come back is told as final: a refusal that was true at no \
         place of the log",
    ),
    plant(
        Bug::PartialTakeLeftAfterRefusal,
        "partial-take-left-after-refusal",
        Simulation,
        "when one SKU of an order is short, what the others granted is not given back: units that nobody bought cannot be \
         sold until the next leader",
    ),
    plant(
        Bug::ExpiryByLocalClock,
        "expiry-by-local-clock",
        Simulation,
        "orders expire by the leader's wall clock and not by log time: a clock that jumps cancels orders before their time",
    ),
    plant(
        Bug::PaidOrderExpires,
        "paid-order-expires",
        Simulation,
        "an expiry does not look at the status: an order that was paid just before its time ran out is cancelled",
    ),
    plant(
        Bug::RefundBeyondCapture,
        "refund-beyond-capture",
        Simulation,
        "two cancels of a paid order race and both refund: more money comes back than was spent",
    ),
    plant(
        Bug::HoldLeftAfterCancel,
        "hold-left-after-cancel",
        Simulation,
        "a cancelled order's money stays held: what a buyer holds is no longer the sum of what his open orders hold",
    ),
    plant(
        Bug::MoneyAsFloat,
        "money-as-float",
        Simulation,
        "a line's total is computed in a float and cut: some prices lose a minor unit",
    ),
    plant(
        Bug::KeyForgotten,
        "key-forgotten",
        Simulation,
        "what is kept under a key is not found, neither before deciding nor in apply: a retried request takes effect twice",
    ),
    plant(
        Bug::AlteredBodyAnswered,
        "altered-body-answered",
        Simulation,
        "another request under a used key is given the first one's answer instead of being refused",
    ),
    plant(
        Bug::LastAnswerWins,
        "last-answer-wins",
        Simulation,
        "that an earlier attempt may have been sent is forgotten: a later attempt's definite no is told for a write that \
         takes effect",
    ),
    plant(
        Bug::ForwardedTimeoutAnsweredOk,
        "forwarded-timeout-answered-ok",
        Simulation,
        "a forwarded change of an order whose answer did not come is answered with the order as this node has it: an \
         acknowledgement of what may never happen",
    ),
    plant(
        Bug::FeedResumesOneTooFar,
        "feed-resumes-one-too-far",
        Simulation,
        "a reader of the feed that resumes after an index misses the entry behind it",
    ),
    plant(
        Bug::FeedFromUncommittedTail,
        "feed-from-uncommitted-tail",
        Simulation,
        "a reader is sent on to the end of the log instead of the last applied entry: it never sees what was on its way",
    ),
    plant(Bug::AdminRouteOpen, "admin-route-open", Api, "acts of administration need no key: anyone may remove a node"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_kebab_case() {
        for (at, plant) in CATALOGUE.iter().enumerate() {
            let words = plant.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            assert!(words && !plant.name.starts_with('-') && !plant.name.ends_with('-'), "{}", plant.name);
            assert_eq!(CATALOGUE.iter().position(|other| other.name == plant.name), Some(at), "{} twice", plant.name);
            assert_eq!(CATALOGUE.iter().position(|other| other.bug == plant.bug), Some(at), "{:?} twice", plant.bug);
            assert_eq!(plant.bug as usize, at, "{} is out of order", plant.name);
        }
        assert!(CATALOGUE.len() >= 34);
    }
}
