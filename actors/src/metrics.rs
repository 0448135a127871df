//! Plain counters of the shop, read by the metrics endpoint. All are totals since the process started.

use std::sync::atomic::{AtomicU64, Ordering};

use agora_apply::TransactionResult;
use agora_domain::{Answer, Change, OrderEvent, OrderStatus, SkuEvent};
use agora_raft::StageHistogram;

use crate::shop::Shop;

/// Counters as the shop moves them.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) orders_placed: AtomicU64,
    pub(crate) orders_refused: AtomicU64,
    pub(crate) orders_paid: AtomicU64,
    pub(crate) orders_cancelled: AtomicU64,
    pub(crate) stock_deductions: AtomicU64,
    pub(crate) transactions: AtomicU64,
    pub(crate) replays: AtomicU64,
    pub(crate) key_conflicts: AtomicU64,
    pub(crate) impossible: AtomicU64,
    pub(crate) fenced: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) overloaded: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) deciding: AtomicU64,
    pub(crate) stages: WriteStages,
}

impl Shop {
    /// Where the time of writes goes.
    pub fn stages(&self) -> &WriteStages {
        &self.counters().stages
    }
}

/// Where the time of a write goes above the journal.
#[derive(Debug, Default)]
pub struct WriteStages {
    /// All of it, on the node that was asked.
    pub submit: StageHistogram,
    /// To the leader and back, on the node that was asked.
    pub forward: StageHistogram,
    /// Of which the leader took so much, on the leader.
    pub serve: StageHistogram,
    /// Until the decision was in the journal, on the leader.
    pub decide: StageHistogram,
    /// From the rows to whoever waits, on the leader.
    pub answer: StageHistogram,
}

impl Counters {
    /// Counts what an entry did; on every node, since every node applies.
    pub(crate) fn applied(&self, results: &[TransactionResult], changes: &[Change]) {
        let count = |counter: &AtomicU64, by: usize| counter.fetch_add(by as u64, Ordering::Relaxed);
        count(&self.transactions, results.len());
        for result in results {
            match result {
                TransactionResult::Applied(Answer::Refused(_)) => {
                    count(&self.orders_refused, 1);
                }
                TransactionResult::Applied(Answer::Orders(items)) => {
                    count(&self.orders_refused, items.iter().filter(|item| item.is_err()).count());
                }
                TransactionResult::Fenced => {
                    count(&self.fenced, 1);
                }
                TransactionResult::Impossible(_) => {
                    count(&self.impossible, 1);
                }
                // Replays and conflicts are counted where they are answered.
                _ => {}
            }
        }
        for change in changes {
            match change {
                Change::Order(_, OrderEvent::Placed { .. }) => count(&self.orders_placed, 1),
                Change::Order(_, OrderEvent::Moved { to: OrderStatus::Paid, .. }) => count(&self.orders_paid, 1),
                Change::Order(_, OrderEvent::Moved { to: OrderStatus::Cancelled, .. }) => {
                    count(&self.orders_cancelled, 1)
                }
                Change::Sku(_, SkuEvent::Reserved { .. }) => count(&self.stock_deductions, 1),
                _ => 0,
            };
        }
    }

    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A reading of all counters and gauges.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShopMetrics {
    /// Orders placed, as applied on this node.
    pub orders_placed: u64,
    /// Requests and batch items refused by a decision, as applied on this node.
    pub orders_refused: u64,
    /// Orders paid, as applied on this node.
    pub orders_paid: u64,
    /// Orders cancelled, expired ones included, as applied on this node.
    pub orders_cancelled: u64,
    /// Promises of stock, as applied on this node.
    pub stock_deductions: u64,
    /// Transactions applied on this node.
    pub transactions: u64,
    /// Requests answered from an earlier outcome.
    pub replays: u64,
    /// Keys used again for another request.
    pub key_conflicts: u64,
    /// Transactions that apply refused as impossible. Must stay 0.
    pub impossible: u64,
    /// Transactions of an older reign that apply refused.
    pub fenced: u64,
    /// Writes answered *unknown*.
    pub unknown: u64,
    /// Writes turned away because too many were waiting.
    pub overloaded: u64,
    /// Writes sent on to the leader.
    pub forwarded: u64,
    /// Orders this node expired as leader.
    pub expired: u64,
    /// Writes being decided or waiting for their outcome now.
    pub deciding: u64,
    /// Entities in memory now.
    pub entities_live: u64,
}

impl Counters {
    pub(crate) fn read(&self, entities_live: u64) -> ShopMetrics {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShopMetrics {
            orders_placed: of(&self.orders_placed),
            orders_refused: of(&self.orders_refused),
            orders_paid: of(&self.orders_paid),
            orders_cancelled: of(&self.orders_cancelled),
            stock_deductions: of(&self.stock_deductions),
            transactions: of(&self.transactions),
            replays: of(&self.replays),
            key_conflicts: of(&self.key_conflicts),
            impossible: of(&self.impossible),
            fenced: of(&self.fenced),
            unknown: of(&self.unknown),
            overloaded: of(&self.overloaded),
            forwarded: of(&self.forwarded),
            expired: of(&self.expired),
            deciding: of(&self.deciding),
            entities_live,
        }
    }
}
