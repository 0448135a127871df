//! The shop over HTTP: `/api/v2`, JSON, problems as `application/problem+json`, two bearer keys.
//!
//! Reading order: [`endpoint`] (the table of endpoints and the one path of every request), [`problem`] (every no, and
//! the only file that knows status codes), [`dto`] (what is taken) and [`views`] (what is given), then one file per
//! resource. [`serve`] is the way in from the network.
//!
//! **Invariants.** An answer is a definite yes (2xx), a definite no (4xx, and 5xx with `applied: false`), or says that
//! it is unknown. Nothing but health probes is open. Every buffer, wait and number of connections has a bound. What is
//! deliberately absent: sessions, caches, and any state that a node would have to share with another.

mod accounts;
mod auth;
mod body;
mod changes;
mod cluster;
mod cursor;
mod dto;
mod endpoint;
mod headers;
mod health;
mod language;
mod metrics;
mod openapi;
mod orders;
mod problem;
mod query;
mod reply;
mod schemas;
mod serve;
mod skus;
mod stock;
#[cfg(test)]
mod tests;
mod views;
mod wallets;

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use agora_actors::Shop;
use agora_raft::Status;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{auth::Keys, body::BodyBudget, cursor::CursorKey, endpoint::Endpoint, metrics::HttpMetrics};

pub use serve::serve;

/// Settings of the API.
#[derive(Clone)]
pub struct ApiConfig {
    /// Bearer key of the shop's endpoints.
    pub shop_key: String,
    /// Bearer key of cluster administration and metrics.
    pub admin_key: String,
    /// Bytes of a request's body. Default 1 MiB.
    pub body_bytes_max: usize,
    /// Bytes of path and query. Default 8 KiB.
    pub uri_bytes_max: usize,
    /// How long the shop may take over one request, in milliseconds; a write that takes longer is answered 504
    /// unknown. Default 10 s.
    pub request_timeout_ms: u64,
    /// How long a read may wait for the freshness that it asks for, in milliseconds. An election takes about a second;
    /// who has waited longer is better off asking another node. Default 3 s.
    pub read_timeout_ms: u64,
    /// How long a body may take to arrive, in milliseconds. Default 10 s.
    pub body_timeout_ms: u64,
    /// How long a request's head may take to arrive, and a kept connection may be idle, in milliseconds. Default 30 s.
    pub header_timeout_ms: u64,
    /// How long a client may leave an answer unread, in milliseconds. Default 30 s.
    pub write_timeout_ms: u64,
    /// Connections open at once; beyond it new ones are closed. Default 12,000.
    pub connections_max: usize,
    /// Long polls of the change feed waiting at once; beyond it they are answered at once. Default 4,096.
    pub polls_max: usize,
    /// How long requests on their way may take when the node stops, in milliseconds. Default 10 s.
    pub drain_timeout_ms: u64,
}

impl Default for ApiConfig {
    /// Everything but the keys, which are empty and must be set.
    fn default() -> Self {
        Self {
            shop_key: String::new(),
            admin_key: String::new(),
            body_bytes_max: 1_024 * 1_024,
            uri_bytes_max: 8 * 1_024,
            request_timeout_ms: 10_000,
            read_timeout_ms: 3_000,
            body_timeout_ms: 10_000,
            header_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            connections_max: 12_000,
            polls_max: 4_096,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Everything the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Inner>);

/// Inside of [`ApiState`].
pub struct Inner {
    pub(crate) shop: Shop,
    pub(crate) config: ApiConfig,
    pub(crate) keys: Keys,
    pub(crate) cursors: CursorKey,
    pub(crate) bodies: BodyBudget,
    pub(crate) metrics: HttpMetrics,
    pub(crate) node: u64,
    pub(crate) openapi: OnceLock<Bytes>,
    /// True when the node is stopping: whoever waits on purpose stops waiting.
    pub(crate) stop: watch::Sender<bool>,
    trace_key: [u8; 32],
    trace_count: AtomicU64,
}

impl Deref for ApiState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl ApiState {
    /// Puts the API in front of a shop.
    ///
    /// # Panics
    /// When a key is empty or both are the same: a node must not start like that.
    pub fn new(shop: Shop, config: ApiConfig) -> Self {
        assert!(!config.shop_key.is_empty(), "the shop key is empty");
        assert!(!config.admin_key.is_empty(), "the administrator's key is empty");
        assert!(config.shop_key != config.admin_key, "the shop key and the administrator's key are the same");
        let node = shop.node_id();
        // Trace ids need only be unlike each other; nothing is decided by them.
        let born = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos());
        let seed = [node.to_le_bytes().as_slice(), &born.to_le_bytes(), config.admin_key.as_bytes()].concat();
        Self(Arc::new(Inner {
            keys: Keys::new(&config.shop_key, &config.admin_key),
            cursors: CursorKey::new(&config.shop_key),
            bodies: BodyBudget::default(),
            metrics: HttpMetrics::new(&endpoints(), config.polls_max),
            node,
            openapi: OnceLock::new(),
            stop: watch::Sender::new(false),
            trace_key: blake3::derive_key("agora-api 2026 trace ids", &seed),
            trace_count: AtomicU64::new(0),
            shop,
            config,
        }))
    }

    pub(crate) fn new_trace(&self) -> u128 {
        let count = self.trace_count.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&self.trace_key, &count.to_le_bytes());
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        u128::from_be_bytes(bytes)
    }

    /// The cluster as this node sees it.
    pub(crate) fn status(&self) -> Status {
        cluster::consistent(self.shop.cluster().status())
    }

    /// Who leads, as far as this node knows. Looked at for every answer.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.shop.cluster().leader()
    }
}

/// Wall clock in seconds, for the age of cursors only.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// The table of all endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let parts = [
        skus::endpoints(),
        stock::endpoints(),
        accounts::endpoints(),
        wallets::endpoints(),
        orders::endpoints(),
        changes::endpoints(),
        cluster::endpoints(),
        health::endpoints(),
        metrics::endpoints(),
        openapi::endpoints(),
    ];
    parts.into_iter().flatten().collect()
}

/// All routes over a shop.
pub fn router(state: ApiState) -> axum::Router {
    endpoint::router(&endpoints(), &state)
}
