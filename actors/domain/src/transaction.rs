//! What one request changes, and what it is answered: the unit that the log carries.
//!
//! A [`Transaction`] is decided by the leader, encoded once, and applied whole or not at all. It holds events, never
//! commands. What apply makes of it is an [`Answer`]; what is kept under the request's key is the smaller
//! [`StoredAnswer`], from which the same answer is made again.

use serde::{Deserialize, Serialize};

use crate::{
    account::{Account, AccountEvent},
    claim::ClaimEvent,
    id::{AccountId, ClaimId, OrderId, SkuId},
    ledger::Leg,
    order::{Order, OrderEvent},
    rejection::Rejection,
    sku::{Sku, SkuEvent},
};

/// An idempotency key, hashed, with what the request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRef {
    /// Hash of (principal, method, route template, key).
    pub hash: u128,
    /// Hash of the request's body, path parameters and `If-Match`: another one under the same key is refused.
    pub fingerprint: u128,
}

/// One event of one entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Of a SKU.
    Sku(SkuId, SkuEvent),
    /// Of an order.
    Order(OrderId, OrderEvent),
    /// Of an account.
    Account(AccountId, AccountEvent),
    /// Of a claimed name.
    Claim(ClaimId, ClaimEvent),
}

/// What the request will be answered, named by what it touched; apply fills in the figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// A SKU as it is after the transaction.
    Sku(SkuId),
    /// Stock of these SKUs after the transaction.
    Stocks(Vec<SkuId>),
    /// An account after the transaction.
    Account(AccountId),
    /// An order after the transaction.
    Order(OrderId),
    /// Each item of a batch.
    Orders(Vec<Result<OrderId, Rejection>>),
    /// Nothing changed, and why.
    Refused(Rejection),
    /// Nobody asked: a timer's doing.
    None,
}

/// What one request changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// The request's idempotency key; `None` for what nobody asked for, such as an expiry.
    pub key: Option<KeyRef>,
    /// Trace id of the request.
    pub trace: u128,
    /// Index of the applied state a refusal was decided on; 0 where there is none.
    pub decided_at: u64,
    /// Events, in the order they take effect.
    pub changes: Vec<Change>,
    /// Postings, balanced.
    pub legs: Vec<Leg>,
    /// The answer in the making.
    pub outcome: Outcome,
}

/// Stock of one SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLevel {
    /// Which.
    pub sku: SkuId,
    /// Units in the warehouse.
    pub on_hand: u64,
    /// Units promised.
    pub reserved: u64,
    /// Units that may be promised.
    pub available: u64,
    /// Number of changes of stock.
    pub version: u64,
}

impl From<&Sku> for StockLevel {
    fn from(sku: &Sku) -> Self {
        Self {
            sku: sku.id,
            on_hand: sku.on_hand_units,
            reserved: sku.reserved_units,
            available: sku.on_hand_units.saturating_sub(sku.reserved_units),
            version: sku.stock_version,
        }
    }
}

/// One item of an answered batch.
pub type ItemAnswer = Result<Order, Rejection>;

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// A SKU.
    Sku(Box<Sku>),
    /// Stock levels.
    Stocks(Vec<StockLevel>),
    /// An account.
    Account(Box<Account>),
    /// An order; `no_change` when it was so already.
    Order {
        /// The order.
        order: Box<Order>,
        /// True when the request changed nothing.
        no_change: bool,
    },
    /// A batch, item by item.
    Orders(Vec<ItemAnswer>),
    /// Refused.
    Refused(Rejection),
    /// Nobody asked.
    None,
}

/// What is kept of an answer under the request's key for 24 hours. Orders are named by id and version, since an order
/// as it was at a version can be made again from its row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoredAnswer {
    /// As answered.
    Sku(Box<Sku>),
    /// As answered.
    Stocks(Vec<StockLevel>),
    /// As answered.
    Account(Box<Account>),
    /// An order at a version.
    Order {
        /// Which.
        order: OrderId,
        /// After so many steps.
        version: u64,
        /// As answered.
        no_change: bool,
    },
    /// A batch; orders are new, so at version 1.
    Orders(Vec<Result<OrderId, Rejection>>),
    /// As answered.
    Refused(Rejection),
}

/// A row of the outcome keyspaces: the first answer to a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// What the request was.
    pub fingerprint: u128,
    /// Trace id of the first request.
    pub trace: u128,
    /// Log index of the entry that holds it.
    pub index: u64,
    /// Index of the state a refusal was decided on; 0 where there is none.
    pub decided_at: u64,
    /// The answer.
    pub answer: StoredAnswer,
}
