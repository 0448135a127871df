//! Entities as actors, checkout, timers, and [`Shop`], the façade that the API calls on any node.
//!
//! On the leader, every warm SKU, order, account and name is an entity that decides one thing at a time. A bounded
//! number of `ractor` actors, the *hosts*, carry them ([`host`]): an entity lives with the host its id hashes to, is
//! loaded on first use and leaves when it is clean and cold. One actor per entity would cost a spawn and a stop
//! (about 12 µs together) for every cold SKU that an order touches; a host costs one message.
//!
//! Reading order: [`host`] (the one actor shell), [`grant`] (a grant is a value), [`checkout`] (what a request asks of
//! whom), [`shop`] (admission, idempotency, forwarding), [`machine`] (what apply feeds back), [`read`] (queries).
//!
//! **Invariants.** Committed state enters an entity only from apply, in log order. Whoever hears *not now* gives back
//! all it holds before it waits. *Unknown* is never turned into *no* but by an answer found under the key or a decision
//! of a later reign.

pub mod checkout;
pub mod forward;
pub mod grant;
pub mod host;
pub mod hosts;
pub mod inflight;
pub mod machine;
pub mod metrics;
pub mod read;
pub mod shop;
pub mod timers;
mod together;

pub use agora_domain as domain;
pub use agora_raft::{Member, MembershipError, RaftConfig, StartError, World};
pub use metrics::ShopMetrics;
pub use read::{FeedItem, Movement, OrderFilter, Page, ReadView};
pub use shop::{Consistency, ReadError, Shop, ShopConfig, WriteError, WriteRequest, Written};
