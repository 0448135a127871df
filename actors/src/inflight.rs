//! Idempotency keys on their way: the second request under a key waits for the first.
//!
//! An entry stays until the fate of its transaction is known, whatever becomes of the request, the reign or the
//! client's connection; so while the outcome is open, nobody decides under the same key again.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use agora_domain::KeyRef;
use agora_planted::{self as planted, Bug};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::shop::{WriteError, Written};

/// Independent parts of the table, so that requests do not wait for one lock.
const SHARDS: usize = 16;
/// Keys that may be on their way at once.
pub const KEYS_MAX: usize = 1 << 20;

/// How a request ended.
pub type Ending = Result<Written, WriteError>;

/// A key on its way.
#[derive(Default)]
pub struct Running {
    fingerprint: u128,
    ended: OnceLock<Ending>,
    wake: Notify,
}

impl Running {
    /// Waits for the first request's end. `None` when the deadline comes first.
    pub async fn wait(&self, deadline: Instant) -> Option<Ending> {
        loop {
            let woken = self.wake.notified();
            if let Some(ending) = self.ended.get() {
                return Some(ending.clone());
            }
            tokio::time::timeout_at(deadline, woken).await.ok()?;
        }
    }
}

type Shard = Mutex<HashMap<u128, Arc<Running>>>;

/// All keys on their way on this node.
pub struct InFlight {
    shards: [Shard; SHARDS],
}

impl Default for InFlight {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

/// What a request finds under its key.
pub enum Entered {
    /// Nobody: it is the first. Ending the ticket lets the others go on.
    First(Ticket),
    /// The same request, on its way.
    Same(Arc<Running>),
    /// Another request under the same key, on its way.
    Other,
    /// Too many keys.
    Full,
}

/// Held by the first request under a key.
pub struct Ticket {
    table: Arc<InFlight>,
    hash: u128,
    running: Arc<Running>,
    sent: bool,
}

impl Ticket {
    /// The transaction is in the journal: from here on, a ticket dropped without an end leaves the outcome unknown.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    /// The fate is known: who waits hears it, and the key is free.
    pub fn end(self, ending: Ending) {
        let _ = self.running.ended.set(ending);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.table.shard(self.hash).lock().remove(&self.hash);
        // Dropped without an end before anything was sent: nothing happened. Who waits hears that it may try.
        let dropped = if self.sent { WriteError::Unknown } else { WriteError::Overloaded { retry_after_ms: 100 } };
        let _ = self.running.ended.set(Err(dropped));
        self.running.wake.notify_waiters();
    }
}

impl InFlight {
    fn shard(&self, hash: u128) -> &Shard {
        &self.shards[(hash as usize) % SHARDS]
    }

    /// Enters a key.
    pub fn enter(self: &Arc<Self>, key: KeyRef) -> Entered {
        let mut shard = self.shard(key.hash).lock();
        if let Some(running) = shard.get(&key.hash) {
            return if running.fingerprint == key.fingerprint || planted::is(Bug::AlteredBodyAnswered) {
                Entered::Same(Arc::clone(running))
            } else {
                Entered::Other
            };
        }
        if shard.len() >= KEYS_MAX / SHARDS {
            return Entered::Full;
        }
        let running = Arc::new(Running { fingerprint: key.fingerprint, ..Running::default() });
        shard.insert(key.hash, Arc::clone(&running));
        Entered::First(Ticket { table: Arc::clone(self), hash: key.hash, running, sent: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const KEY: KeyRef = KeyRef { hash: 7, fingerprint: 1 };

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_another_body_is_told_apart() {
        let table = Arc::new(InFlight::default());
        let Entered::First(ticket) = table.enter(KEY) else { panic!("the first is first") };
        let Entered::Same(running) = table.enter(KEY) else { panic!("the second is the same") };
        assert!(matches!(table.enter(KeyRef { fingerprint: 2, ..KEY }), Entered::Other));
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(running.wait(soon).await.is_none());
        ticket.end(Err(WriteError::Unknown));
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(running.wait(later).await, Some(Err(WriteError::Unknown)));
        assert!(matches!(table.enter(KEY), Entered::First(_)));
    }

    #[tokio::test]
    async fn a_dropped_ticket_is_a_no_before_the_journal_and_unknown_after_it() {
        let table = Arc::new(InFlight::default());
        let later = Instant::now() + Duration::from_secs(60);
        for sent in [false, true] {
            let Entered::First(mut ticket) = table.enter(KEY) else { panic!("the first is first") };
            let Entered::Same(running) = table.enter(KEY) else { panic!("the second is the same") };
            if sent {
                ticket.sent();
            }
            drop(ticket);
            let unknown = running.wait(later).await == Some(Err(WriteError::Unknown));
            assert_eq!(unknown, sent, "unknown is never turned into no");
        }
    }
}
