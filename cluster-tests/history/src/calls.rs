//! Records of a history: the run, calls, and faults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::feed::FeedPage;

/// Node id, from 1.
pub type NodeId = u64;
/// Microseconds since the beginning of the run.
pub type Micros = u64;

/// One line of `history.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The first line.
    Run(Run),
    /// One request and how it ended.
    Call(Box<Call>),
    /// One fault, written when it was healed, or at the end.
    Fault(Fault),
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// `simulation` or `processes`.
    pub harness: String,
    /// Name of the scenario.
    pub scenario: String,
    /// Everything random in it came from this.
    pub seed: u64,
    /// Nodes at the beginning.
    pub nodes: Vec<NodeId>,
    /// Anything else worth keeping.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// One attempt of a client at one node. Attempts at the same thing (same key, same body) share `op`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The client's intention; unique in the run.
    pub op: u64,
    /// Attempts at it before this one.
    pub attempt: u32,
    /// One client does one thing at a time and reads its own writes.
    pub client: u32,
    /// Who was asked.
    pub node: NodeId,
    /// When the request was sent.
    pub invoked: Micros,
    /// When the answer was there, or given up.
    pub returned: Micros,
    /// Idempotency key of a write.
    pub key: Option<String>,
    /// Trace id, 32 hex digits: the feed names it beside everything this request did.
    pub trace: String,
    /// How fresh a read had to be.
    pub level: Option<Level>,
    /// `Min-Index` of a read.
    pub min_index: Option<u64>,
    /// What was asked.
    pub request: Op,
    /// How it ended.
    pub reply: Reply,
    /// `X-Log-Index` of the answer: of a write, the entry that holds it; of a read, the state it saw.
    pub index: Option<u64>,
    /// `X-Staleness-Ms` of a read.
    pub staleness_ms: Option<u64>,
    /// The answer was one given before.
    pub replayed: bool,
    /// A fingerprint of the bytes of a 2xx or a refusal, to compare replayed answers.
    pub body_hash: Option<u64>,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Sees every write answered before it was asked.
    Linearizable,
    /// What the leader has applied.
    Leader,
    /// At most two seconds old.
    Bounded,
    /// Whatever the node has.
    Local,
}

/// Buyer, lines, and whether the total is held in the wallet at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basket {
    /// `usr_…`.
    pub account: String,
    /// SKU and quantity; a SKU may be named twice.
    pub items: Vec<(String, u32)>,
    /// Hold the total at once.
    pub hold: bool,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A new SKU without stock.
    CreateSku { code: String, price: i64, sellable: bool },
    /// Price or sale state, if the version is the expected one.
    ChangeSku { sku: String, expected_version: u64, price: Option<i64>, sellable: Option<bool> },
    /// Goods arrived.
    Receive { lines: Vec<(String, u32)> },
    /// A count corrected.
    AdjustStock { sku: String, delta: i64 },
    /// A new customer.
    CreateAccount { name: String },
    /// Money in or out.
    AdjustWallet { account: String, amount: i64 },
    /// One order.
    Place(Basket),
    /// Many orders, each for itself.
    PlaceBatch(Vec<Basket>),
    /// From the buyer's wallet.
    Pay { order: String },
    /// Call it off; a paid one is refunded.
    Cancel { order: String },
    /// It left.
    Ship { order: String },
    /// It arrived.
    Confirm { order: String },
    /// Terms and version.
    ReadSku { sku: String },
    /// Units.
    ReadStock { sku: String },
    /// An order.
    ReadOrder { order: String },
    /// An account's wallet.
    ReadWallet { account: String },
    /// What was answered under a key.
    ReadKey { key: String },
    /// Sum of debits and credits.
    ReadLedger,
    /// Events behind an index.
    ReadFeed { after: u64, limit: u32 },
}

impl Op {
    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            Op::ReadSku { .. }
                | Op::ReadStock { .. }
                | Op::ReadOrder { .. }
                | Op::ReadWallet { .. }
                | Op::ReadKey { .. }
                | Op::ReadLedger
                | Op::ReadFeed { .. }
        )
    }
}

/// How a call ended, as the client understands it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// 2xx.
    Yes { status: u16, answer: Answer },
    /// A definite no by a rule of the shop, which is itself an entry of the log.
    Refused { status: u16, refusal: Refusal },
    /// A definite no that says nothing of the shop's state: not applied (5xx with `applied: false`, 4xx of form,
    /// a read that could not be served).
    NotDone { status: u16, code: String },
    /// It may have been applied: no answer, or one that says so.
    Unknown { status: Option<u16>, why: String },
}

/// What a 2xx says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A SKU.
    Sku(Sku),
    /// Stock of each SKU of the request.
    Stocks(Vec<Stock>),
    /// An account with its wallet.
    Account(Account),
    /// An order.
    Order(Order),
    /// A batch, item by item.
    Orders(Vec<Item>),
    /// Total of debits and of credits.
    Ledger { debits: i64, credits: i64 },
    /// A page of the feed.
    Feed(FeedPage),
}

/// One item of an answered batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Placed.
    Order(Order),
    /// Refused.
    Refused(Refusal),
}

/// Terms of a SKU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sku {
    pub id: String,
    pub code: String,
    pub price: i64,
    pub sellable: bool,
    /// Grows by one with every change of any kind.
    pub version: u64,
}

/// Units of a SKU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    pub sku: String,
    pub on_hand: u64,
    pub reserved: u64,
    pub available: u64,
    /// Number of changes of stock.
    pub version: u64,
}

/// A customer and the wallet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub id: String,
    pub balance: i64,
    pub held: i64,
    pub version: u64,
}

/// One line of an order; a SKU named twice is summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    pub sku: String,
    pub quantity: u32,
    pub unit_price: i64,
}

/// An order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub id: String,
    pub account: String,
    /// `CREATED`, `PAID`, `SHIPPED`, `COMPLETED`, `CANCELLED`.
    pub status: String,
    pub total: i64,
    pub lines: Vec<OrderLine>,
    /// Steps so far: 1 when placed.
    pub version: u64,
    /// The request found it so already.
    #[serde(default)]
    pub no_change: bool,
    /// Log index of each step, with the status it led to.
    pub steps: Vec<(String, u64)>,
}

/// A definite no, with both sides of the comparison where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `INVENTORY_SHORTAGE`, `INSUFFICIENT_BALANCE`, `INVALID_TRANSITION`, `VERSION_MISMATCH`, …
    pub code: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortages: Vec<Shortage>,
    /// Of `INSUFFICIENT_BALANCE`: asked for and there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<(i64, i64)>,
    /// Of `INVALID_TRANSITION`: from and to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<(String, String)>,
    /// Of `VERSION_MISMATCH`: expected and there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<(u64, u64)>,
}

/// One SKU that was short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    pub sku: String,
    pub requested: u64,
    pub available: u64,
}

/// Who a node was when a fault hit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Follower,
    /// No leader was known, or the node was down.
    Neither,
}

/// A node that was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub node: NodeId,
    pub role: Role,
}

/// One fault round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// `N1` … `N18`.
    pub nemesis: String,
    /// What exactly, in a few words: `leader isolated`, `power loss of all`.
    pub kind: String,
    pub from: Micros,
    /// When it was healed.
    pub until: Option<Micros>,
    pub targets: Vec<Target>,
    /// Requests under way when it began.
    pub in_flight: u64,
    /// Parameters needed to do it again.
    #[serde(default)]
    pub detail: String,
}

impl Fault {
    /// Whether it is that attack, or several at once with that one among them: N18 names all of them in its kind,
    /// `N6 power loss of all + N15 clock jumps`.
    pub fn is_of(&self, nemesis: &str) -> bool {
        let among = || self.kind.split(" + ").any(|one| one.split(' ').next() == Some(nemesis));
        self.nemesis == nemesis || (self.nemesis == "N18" && among())
    }
}
