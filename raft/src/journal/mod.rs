//! The journal: the one gate through which anything gets into the log.
//!
//! - **Queue and entries.** [`Journal::propose`] puts a transaction at the tail of a bounded queue and never waits. A few
//!   entries are on their way at once; what waits becomes the next one, so an idle system waits for nothing and batches
//!   grow with load. An entry is encoded once and stamped with log time when it closes.
//! - **Reigns.** A reign begins when a fence that this leader proposed is applied here, and ends with the first
//!   proposal that does not come back as applied, with the term, or when asked to. What an ended reign decided is refused;
//!   the next reign, also within one term, begins with a new fence. Because this is the only proposer and the engine
//!   keeps the order, nothing decided before a fence can be applied after it.
//! - **Waiters** belong to the journal and not to reigns. They are answered when their entry is applied, or when it is
//!   known never to be: refused by the engine (a definite no), or not applied before a *later fence* was (entries of an
//!   older reign are refused by apply from there on). Discarded entries are unknown until then.
//! - **Guards.** Without a recent answer of a majority nothing is proposed: `NoQuorum` is a definite no.

mod gate;
mod handle;
#[cfg(test)]
mod tests;

pub use self::gate::Reign;
pub(crate) use self::gate::{Gate, OnApplied, Settings};
pub(crate) use self::handle::deliver;
pub use self::handle::{Journal, Pending, Placed};
