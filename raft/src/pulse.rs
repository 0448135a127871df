//! The few facts that every thread looks at before it does anything: do we lead, has a majority answered lately, can
//! the clock be trusted. Kept in atomics, so that looking costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::status::{Health, Role};
use crate::types::MembershipRecord;
use crate::world::Clock;
use agora_storage::meta::LogPosition;

/// No answer yet.
const NEVER: u64 = u64::MAX;

/// What the engine last said of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
    pub(crate) last_log: u64,
    pub(crate) committed: LogPosition,
    /// The members in effect, which may not be committed yet.
    pub(crate) members: MembershipRecord,
    /// The members in effect are committed.
    pub(crate) members_committed: bool,
}

/// Shared by all parts of a node.
pub(crate) struct Pulse {
    clock: Arc<dyn Clock>,
    /// Term this node leads; 0 when it does not.
    leading: AtomicU64,
    /// Monotonic milliseconds of the last answer of a majority.
    quorum_at_ms: AtomicU64,
    quorum_max_ms: u64,
    /// This node alone is a majority.
    alone: AtomicBool,
    clock_trusted: AtomicBool,
    /// Our clock is near enough to the others' to lead.
    clock_leads: AtomicBool,
    handing_over: AtomicBool,
    stalled: AtomicBool,
    damaged: AtomicBool,
    stopping: AtomicBool,
    diverged: RwLock<Option<String>>,
    pub(crate) observed: RwLock<Observed>,
}

impl Pulse {
    pub(crate) fn new(clock: Arc<dyn Clock>, quorum_max_ms: u64) -> Pulse {
        Pulse {
            clock,
            leading: AtomicU64::new(0),
            quorum_at_ms: AtomicU64::new(NEVER),
            quorum_max_ms,
            alone: AtomicBool::new(false),
            clock_trusted: AtomicBool::new(true),
            clock_leads: AtomicBool::new(true),
            handing_over: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            diverged: RwLock::default(),
            observed: RwLock::default(),
        }
    }

    /// Monotonic milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX - 1)
    }

    pub(crate) fn set_leading(&self, term: Option<u64>) {
        self.leading.store(term.unwrap_or(0), Ordering::Release);
        if term.is_none() {
            self.quorum_at_ms.store(NEVER, Ordering::Release);
        }
    }

    /// The term this node leads.
    pub(crate) fn leading(&self) -> Option<u64> {
        Some(self.leading.load(Ordering::Acquire)).filter(|term| *term > 0)
    }

    /// A majority answered so long ago; `alone` when no other vote is needed.
    pub(crate) fn set_quorum(&self, age_ms: Option<u64>, alone: bool) {
        self.alone.store(alone, Ordering::Release);
        let at = age_ms.map_or(NEVER, |age| self.now_ms().saturating_sub(age));
        self.quorum_at_ms.store(at, Ordering::Release);
    }

    /// Milliseconds since a majority last answered this leader.
    pub(crate) fn quorum_age_ms(&self) -> Option<u64> {
        self.leading()?;
        if self.alone.load(Ordering::Acquire) {
            return Some(0);
        }
        let at = self.quorum_at_ms.load(Ordering::Acquire);
        (at != NEVER).then(|| self.now_ms().saturating_sub(at))
    }

    /// This node leads, and a majority answered within the lease.
    pub(crate) fn quorum_fresh(&self) -> bool {
        self.quorum_age_ms().is_some_and(|age| age < self.quorum_max_ms)
    }

    pub(crate) fn set_clock(&self, trusted: bool, leads: bool) {
        self.clock_trusted.store(trusted, Ordering::Release);
        self.clock_leads.store(leads, Ordering::Release);
    }

    pub(crate) fn clock_trusted(&self) -> bool {
        self.clock_trusted.load(Ordering::Acquire)
    }

    pub(crate) fn clock_leads(&self) -> bool {
        self.clock_leads.load(Ordering::Acquire)
    }

    pub(crate) fn set_handing_over(&self, on: bool) {
        self.handing_over.store(on, Ordering::Release);
    }

    pub(crate) fn handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }

    /// The node is being stopped on purpose: parts that end are no failure.
    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn set_damaged(&self, on: bool) {
        self.damaged.store(on, Ordering::Release);
    }

    /// Work waits and is not done.
    pub(crate) fn set_stalled(&self, on: bool) {
        self.stalled.store(on, Ordering::Release);
    }

    /// State differs from another node's; stays until the process ends.
    pub(crate) fn set_diverged(&self, why: String) {
        self.diverged.write().get_or_insert(why);
    }

    /// A majority has turned out to agree with this node. True if that changes anything.
    pub(crate) fn clear_diverged(&self) -> bool {
        self.diverged.write().take().is_some()
    }

    pub(crate) fn diverged(&self) -> Option<String> {
        self.diverged.read().clone()
    }

    /// How this node is, and why.
    pub(crate) fn health(&self) -> (Health, String) {
        if let Some(why) = self.diverged() {
            return (Health::Diverged, why);
        }
        if self.stalled.load(Ordering::Acquire) {
            return (Health::Stalled, "log or apply thread does not move although work waits".to_owned());
        }
        if self.damaged.load(Ordering::Acquire) {
            return (
                Health::Damaged,
                "some rows cannot be read; this node makes them anew when it can be spared".to_owned(),
            );
        }
        if self.handing_over() {
            return (Health::HandingOver, "leadership is being handed over".to_owned());
        }
        if !self.clock_leads() {
            return (Health::ClockOff, "clock is too far from the middle of the voters' clocks".to_owned());
        }
        (Health::Ok, String::new())
    }
}
