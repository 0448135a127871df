//! What clients asked of a cluster under attack, and what they were answered.
//!
//! A run leaves a directory:
//!
//! ```text
//! history.jsonl    one record a line: the run, then calls and faults in the order in which they ended
//! feed-<node>.jsonl   after healing: the whole change feed as that node tells it, one event a line
//! finals.json      after healing: what every node says of every entity, and of its digest
//! ```
//!
//! Nothing here depends on the product: another language can read it. Times are microseconds since the beginning of the
//! run, on one clock. Money is in minor units of one currency.

mod calls;
mod dir;
mod feed;
mod finals;
mod operations;

pub use calls::{
    Account, Answer, Basket, Call, Fault, Item, Level, Micros, NodeId, Op, Order, OrderLine, Record, Refusal, Reply,
    Role, Run, Shortage, Sku, Stock, Target,
};
pub use dir::{RunData, RunDir};
pub use feed::{FeedEvent, FeedPage, StockMove};
pub use finals::{Finals, NodeFinals};
pub use operations::{Operation, Outcome, operations};
