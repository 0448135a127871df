//! A grant is a value: dropping it gives back, and only handing its transaction to the journal keeps it.
//!
//! That holds wherever it is dropped: in a request that fails half way, in a future that is cancelled because the
//! client hung up, in a reply that nobody reads any more. A time-out gives nothing back by itself.

use agora_domain::Entity;
use ractor::ActorRef;

use crate::host::HostMessage;

/// What an entity granted, until it is kept or dropped.
pub struct Grant<E: Entity> {
    /// Whose.
    pub id: u128,
    /// What happens when it commits; empty for a use of terms.
    pub events: Vec<E::Event>,
    /// What the asker may build on, as it will be when the transaction commits.
    pub terms: E::Terms,
    number: u64,
    reign: u64,
    host: Option<ActorRef<HostMessage<E>>>,
}

impl<E: Entity> Grant<E> {
    pub(crate) fn new(
        host: ActorRef<HostMessage<E>>,
        reign: u64,
        id: u128,
        number: u64,
        events: Vec<E::Event>,
        terms: E::Terms,
    ) -> Self {
        Self { id, events, terms, number, reign, host: Some(host) }
    }

    /// The entity's own number of this grant.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The transaction is in the journal; from here on its fate is the log's.
    pub fn keep(mut self) {
        if let Some(host) = self.host.take() {
            // A host that is gone belongs to a node that is stopping: nothing to tell.
            let _ = host.cast(HostMessage::Journalled { reign: self.reign, id: self.id, grant: self.number });
        }
    }
}

impl<E: Entity> Drop for Grant<E> {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            let _ = host.cast(HostMessage::Dropped { reign: self.reign, id: self.id, grant: self.number });
        }
    }
}
