//! Black-box tests of a cluster: real node processes on loopback, real clients over HTTP, real `kill -9`.
//!
//! This library is the bench the tests stand on; each promise is a file under `tests/` that opens with the promise it
//! tries to break. The parts, in the order a reader wants them:
//!
//! - [`cluster`]: starts, kills, pauses, stops and restarts the nodes of one cluster, and never outlives them.
//! - [`client`]: a careful integrator's HTTP client. Every write carries a key; every answer is *yes*, *no* or
//!   *unknown*; an unknown one is repeated under the same key on another node.
//! - [`shop`]: the few requests that most tests make, as functions.
//! - [`load`]: many buyers at once, and what each of them was told.
//! - [`check`]: what must hold afterwards: stock conserved, feed gap-free, replicas equal.
//! - [`money`]: the wallets and what orders earned, added up from the feed.
//! - [`raw`]: bytes on a socket, for clients that do not behave.
//!
//! The bench shares no code with the product: what it knows of Agora, it knows from the API's description.

pub mod adversary;
pub mod check;
pub mod client;
pub mod cluster;
pub mod config;
pub mod load;
pub mod money;
#[cfg(feature = "planted")]
pub mod planted;
pub mod ports;
pub mod raw;
pub mod settings;
pub mod shop;
