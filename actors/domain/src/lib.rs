//! Commerce rules as pure functions: what a SKU, an order and an account may do, and what it costs.
//!
//! Nothing in here does I/O, reads a clock, draws a random number or waits. A leader's actors call `decide`; every
//! node calls `evolve` when the log says so. Reading order: [`entity`] (the contract every thing with rules of its own
//! keeps), [`escrow`] (how decisions in flight are kept apart from decisions made), then one file per entity, then
//! [`command`] and [`transaction`], which tie a request to the events it causes.

pub mod account;
pub mod claim;
pub mod command;
pub mod entity;
pub mod escrow;
pub mod fact;
pub mod id;
pub mod ledger;
pub mod money;
pub mod order;
pub mod rejection;
pub mod sku;
pub mod transaction;

pub use account::{Account, AccountCommand, AccountEvent, AccountKind};
pub use claim::{Claim, ClaimCommand, ClaimEvent};
pub use command::{Command, PlaceOrder};
pub use entity::{At, Entity, Impossible, Kind};
pub use escrow::{Decision, Live};
pub use id::{AccountId, ClaimId, OrderId, SkuId, Uid};
pub use money::{Currency, Money};
pub use order::{Order, OrderCommand, OrderEvent, OrderStatus};
pub use rejection::Rejection;
pub use sku::{Sku, SkuCommand, SkuEvent, SkuTerms};
pub use transaction::{Answer, Change, ItemAnswer, KeyRef, StockLevel, Transaction};
