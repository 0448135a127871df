//! Where the log meets the actors: applies an entry to the rows, then feeds what it did to the entities in memory.
//!
//! Runs on the apply thread. The feed is sent before anybody is answered, so a client that saw its answer finds every
//! entity at least as new.

use std::sync::Arc;

use agora_apply::{ApplyFailure, EntryResult, Machine, TransactionResult};
use agora_raft::{Applied, Apply, ApplyError, Committed, Payload, StateDigest};
use agora_storage::{LogPosition, rows::Rows};

use crate::{host::Feed, hosts::Hosts, metrics::Counters};

/// The replicated state machine of a shop.
pub struct ShopMachine {
    /// This node: who waits for an entry's answers waits where it was proposed.
    node: u64,
    machine: Machine,
    hosts: Arc<Hosts>,
    counters: Arc<Counters>,
}

impl ShopMachine {
    /// A machine that is opened by the first [`Apply::reset`].
    pub fn new(node: u64, hosts: Arc<Hosts>, counters: Arc<Counters>) -> Self {
        Self { node, machine: Machine::default(), hosts, counters }
    }
}

fn stop(error: ApplyFailure) -> ApplyError {
    ApplyError::new(error)
}

impl Apply for ShopMachine {
    type Outcome = TransactionResult;

    fn apply(&mut self, rows: &Arc<dyn Rows>, entry: Committed<'_>) -> Result<Applied<TransactionResult>, ApplyError> {
        let position = LogPosition { index: entry.index, term: entry.term };
        let rows = rows.as_ref();
        let result = match entry.payload {
            Payload::Blank => self.machine.apply_blank(rows, position),
            Payload::Membership(bytes) => self.machine.apply_membership(rows, position, bytes),
            Payload::Entry(bytes) => {
                let node = self.node;
                self.machine.apply_for(rows, position, bytes, |header| header.node == node)
            }
        };
        let EntryResult { results, changes, at, entry_reign, state } = result.map_err(stop)?;
        self.counters.applied(&results, &changes);
        let mut ends_reign = false;
        for result in &results {
            match result {
                TransactionResult::Impossible(reason) => {
                    ends_reign = true;
                    tracing::error!(index = at.index, reason, "apply refused a transaction: a decision was wrong");
                }
                // Its events never come back to those who granted them: what they took would be missing for the rest
                // of the reign. The table of keys on their way keeps this from happening within one.
                TransactionResult::Replayed { .. } | TransactionResult::KeyReused => ends_reign = true,
                TransactionResult::Applied(_) | TransactionResult::Fenced => {}
            }
        }
        self.hosts.applied(Feed { reign: entry_reign, at, changes });
        let digest = StateDigest { chain_head: state.chain_head, digest: state.digest };
        Ok(Applied { outcomes: results, reign: state.reign, state: digest, ends_reign })
    }

    fn reset(&mut self, rows: &Arc<dyn Rows>) -> Result<(), ApplyError> {
        self.machine = Machine::open(rows.as_ref()).map_err(stop)?;
        Ok(())
    }
}
