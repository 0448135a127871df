//! The contract of everything that has rules of its own: `decide` may say no, `evolve` may not.
//!
//! A decision is taken once, by the actor on the leader, and becomes events in the log. Every node then *evolves* its
//! rows by those events; it takes no decision again, so a later release may decide differently without making an old
//! log replay differently.

use std::fmt::Debug;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where in the log an event took effect.
///
/// Time is a property of the entry, not of the decision: the journal stamps it when it closes a batch, so it is the
/// same on every node and never goes backwards along the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct At {
    /// Log index of the entry.
    pub index: u64,
    /// Log time of the entry, milliseconds since the Unix epoch.
    pub time_ms: i64,
}

/// Which kind of entity a key names. The numbers are part of the row format: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// A stock-keeping unit.
    Sku = 1,
    /// An order.
    Order = 2,
    /// A customer's or the house's account.
    Account = 3,
    /// A name that may be taken once, such as a SKU code.
    Claim = 4,
    /// A ledger account. Nobody decides about it; postings move it.
    Ledger = 5,
}

/// An event that no honest decision can have produced.
///
/// `apply` refuses the whole transaction that carries it, on every node alike; in tests it fails the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("impossible event: {0}")]
pub struct Impossible(pub String);

impl Impossible {
    /// Shorthand for a formatted reason.
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A thing with rules of its own. `Option<Self>` is its whole state: `None` is "never created".
pub trait Entity: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Names the kind in keys and messages.
    const KIND: Kind;
    /// What may be asked of it. Time, ids and randomness arrive inside.
    type Command: Clone + Debug + Send + Sync + 'static;
    /// What happened to it.
    type Event: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What others build on when they use it: an order needs a SKU's price, a payment needs an order's total.
    type Terms: Clone + Debug + Send + Sync + 'static;
    /// Why it said no, with both sides of the comparison.
    type Refusal: Clone + Debug + PartialEq + Send + Sync + 'static;

    /// True when the command only takes or gives quantities, so that any number of its kind may be on their way at
    /// once. Everything else (a status, a price, a name) is changed by one transaction at a time.
    fn commutes(command: &Self::Command) -> bool;

    /// Asks questions and may say no. An empty list means "already so", or, for a command that only uses the entity's
    /// terms, a take of nothing.
    fn decide(state: Option<&Self>, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// Takes the event for granted; refuses only what no honest decision can produce, and then changes nothing.
    fn evolve(state: &mut Option<Self>, event: &Self::Event, at: At) -> Result<(), Impossible>;

    /// Subtracts what the event takes away, and nothing that it gives. Used on the pessimistic copy only; never fails.
    fn take(&mut self, event: &Self::Event);

    /// Adds what the event gives back, and nothing that it takes. `take` and `give` together have the event's effect
    /// on every quantity that a decision looks at.
    fn give(&mut self, event: &Self::Event);

    /// What a grant tells its holder; `None` from one that does not exist and needs to. Cheap: once per grant.
    fn terms(state: Option<&Self>) -> Option<Self::Terms>;

    /// Index of the last entry that changed this entity.
    fn index(&self) -> u64;
}
