//! After a run: every node's own word on everything, read at one index.
//!
//! Each node is asked with consistency `local`, so that it answers from its own rows, and nothing is taken that was read at
//! another index than all of it is to stand at.
//!
//! What has not come yet is waited for ([`Apart::NotYet`]). What nodes said differently at one index is never waited for
//! ([`Apart::Contradiction`]): it does not become right by going away.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use agora_history::{FeedEvent, NodeFinals, NodeId};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::{
    admin::Status,
    cluster::{Cluster, HttpRequest},
    codec,
};

/// How long one page may take.
const PAGE: Duration = Duration::from_secs(5);
/// Attempts at one page.
const ATTEMPTS_MAX: u32 = 5;
/// Pages of one list, and of one feed.
const PAGES_MAX: u32 = 100_000;
/// Events of a page of the feed.
const EVENTS: u64 = 1_000;
/// Checkpoints that are remembered, the last ones.
const CHECKPOINTS_MAX: usize = 1_000;

/// Why nodes do not stand alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Somebody has not come to where the others are. That may be waited for.
    NotYet(String),
    /// Two nodes, or one node twice, said different things of one index.
    Contradiction(String),
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Apart::NotYet(why) | Apart::Contradiction(why) => f.write_str(why),
        }
    }
}

/// Checkpoints that nodes tell of at the end of a run: what was told once stays told, also if it is told otherwise a moment
/// later.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// By index: digest and chain head, and who told of them first.
    told: BTreeMap<u64, (String, String, NodeId)>,
}

impl Checkpoints {
    /// Remembers what is told now.
    ///
    /// # Errors
    /// Another node has told otherwise of the same index, now or before.
    pub fn see(&mut self, said: &[Status]) -> Result<(), Apart> {
        for status in said {
            let Some((index, digest, chain)) = &status.checkpoint else { continue };
            let told = self.told.entry(*index).or_insert_with(|| (digest.clone(), chain.clone(), status.node));
            if (&told.0, &told.1) != (digest, chain) {
                return Err(Apart::Contradiction(format!(
                    "at checkpoint {index} node {} has digest {} and chain {}, node {} {digest} and {chain}",
                    told.2, told.0, told.1, status.node
                )));
            }
        }
        while self.told.len() > CHECKPOINTS_MAX {
            self.told.pop_first();
        }
        Ok(())
    }
}

/// The index at which all these nodes stand, as they say.
///
/// # Errors
/// What is not there yet.
pub fn quiet(nodes: &[NodeId], said: &[Status]) -> Result<u64, Apart> {
    let not_yet = |why: String| Err(Apart::NotYet(why));
    let is_silent = |node: &&NodeId| !said.iter().any(|status| status.node == **node);
    let silent: Vec<&NodeId> = nodes.iter().filter(is_silent).collect();
    if !silent.is_empty() {
        return not_yet(format!("nodes {silent:?} do not answer"));
    }
    let Some(first) = said.first() else { return not_yet("there are no nodes".to_owned()) };
    let places: Vec<(u64, u64, u64)> =
        said.iter().map(|status| (status.node, status.applied, status.last_log)).collect();
    if said.iter().any(|status| status.applied != first.applied || status.last_log != first.applied) {
        return not_yet(format!("nodes stand apart (node, applied, end of log): {places:?}"));
    }
    if let Some(ill) = said.iter().find(|status| status.health != "ok") {
        return not_yet(format!("node {} says it is {}", ill.node, ill.health));
    }
    let checkpoints: Vec<_> =
        said.iter().map(|status| status.checkpoint.as_ref().map(|checkpoint| checkpoint.0)).collect();
    if checkpoints[0].is_none() || checkpoints.iter().any(|checkpoint| *checkpoint != checkpoints[0]) {
        return not_yet(format!("no checkpoint of all nodes, but {checkpoints:?}"));
    }
    Ok(first.applied)
}

/// What all nodes said at one index.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Their rows.
    pub nodes: BTreeMap<NodeId, NodeFinals>,
    /// Their feeds.
    pub feeds: BTreeMap<NodeId, Vec<FeedEvent>>,
}

impl Collected {
    /// What two of these nodes say differently; all of them were read at one index.
    fn difference(&self) -> Option<String> {
        let mut nodes = self.nodes.iter();
        let (first, one) = nodes.next()?;
        if let Some((node, _)) = nodes.find(|(_, other)| !is_alike(one, other)) {
            return Some(format!("nodes {first} and {node} have different rows at index {}", one.index));
        }
        let mut feeds = self.feeds.iter();
        let (first, one) = feeds.next()?;
        let (node, _) = feeds.find(|(_, other)| *other != one)?;
        Some(format!("nodes {first} and {node} tell different feeds at one index"))
    }
}

fn is_alike(one: &NodeFinals, other: &NodeFinals) -> bool {
    (&one.skus, &one.stocks, &one.accounts, &one.orders) == (&other.skus, &other.stocks, &other.accounts, &other.orders)
        && (one.debits, one.credits) == (other.debits, other.credits)
}

/// Reads everything from everybody, who all stand at `index`: what is kept under these keys, all rows, and the feeds of the
/// first `feeds_max` nodes. Whole answers are not compared here, for that is what checkers do.
///
/// # Errors
/// Somebody moved on, or nodes contradict each other or themselves.
pub async fn collect(
    cluster: &Arc<dyn Cluster>,
    said: &[Status],
    index: u64,
    keys: &[String],
    feeds_max: usize,
) -> Result<Collected, Apart> {
    let mut collected = Collected::default();
    let mut under_key: BTreeMap<&str, (String, NodeId)> = BTreeMap::new();
    for status in said {
        let reader = Reader::new(cluster.clone(), status.node, index);
        match reader.all(status, keys, &mut under_key, collected.feeds.len() < feeds_max, &mut collected).await {
            Ok(()) => {}
            // No checker will see what was read by now, and the next time it may be gone.
            Err(Apart::NotYet(why)) => {
                return Err(collected.difference().map_or(Apart::NotYet(why), Apart::Contradiction));
            }
            Err(contradiction) => return Err(contradiction),
        }
    }
    Ok(collected)
}

/// Reads from one node.
pub struct Reader {
    cluster: Arc<dyn Cluster>,
    node: NodeId,
    index: u64,
}

impl Reader {
    /// Of a node, at an index.
    pub fn new(cluster: Arc<dyn Cluster>, node: NodeId, index: u64) -> Reader {
        Reader { cluster, node, index }
    }

    async fn get(&self, path: &str) -> Result<Value, Apart> {
        let (key, _) = self.cluster.keys();
        let headers = vec![
            ("authorization".to_owned(), format!("Bearer {key}")),
            ("consistency".to_owned(), "local".to_owned()),
            ("min-index".to_owned(), self.index.to_string()),
        ];
        let mut last = String::new();
        let what = |path: &str, why: String| Apart::Contradiction(format!("node {}: {path}: {why}", self.node));
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let request = HttpRequest {
                method: Method::GET,
                path: format!("/api/v2{path}"),
                headers: headers.clone(),
                body: Bytes::new(),
            };
            match self.cluster.send(self.node, request, PAGE).await {
                Ok(response) if response.status == 200 => {
                    self.stands_still(&response.headers)?;
                    return serde_json::from_slice(&response.body).map_err(|error| what(path, error.to_string()));
                }
                Ok(response) => {
                    last = format!("{} {}", response.status, String::from_utf8_lossy(&response.body));
                    if (400..500).contains(&response.status) {
                        break;
                    }
                }
                Err(error) => last = format!("{error:?}"),
            }
        }
        Err(Apart::NotYet(format!("node {}: {path}: {last}", self.node)))
    }

    fn stands_still(&self, headers: &[(String, String)]) -> Result<(), Apart> {
        let index = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-log-index"));
        let index = index.and_then(|(_, value)| value.parse::<u64>().ok());
        if index == Some(self.index) {
            return Ok(());
        }
        Err(Apart::NotYet(format!("node {} stood at {index:?} and not at {}", self.node, self.index)))
    }

    /// A contradiction, if the node stands at the index still: then everything before was read there. Otherwise it may have
    /// moved while it was read.
    async fn contradiction(&self, what: String) -> Apart {
        match self.get("/ledger/trial-balance").await {
            Ok(_) => Apart::Contradiction(what),
            Err(apart) => Apart::NotYet(format!("{what}; but {apart}")),
        }
    }

    /// What is kept under the keys, the rows, and the feed if it is wanted.
    async fn all<'k>(
        &self,
        status: &Status,
        keys: &'k [String],
        under_key: &mut BTreeMap<&'k str, (String, NodeId)>,
        with_feed: bool,
        collected: &mut Collected,
    ) -> Result<(), Apart> {
        for key in keys {
            let order = self.under_key(key).await?;
            let (first, node) = under_key.entry(key).or_insert_with(|| (order.clone(), self.node)).clone();
            if first != order {
                let what = format!("node {} has {order} under key {key}, node {node} {first}", self.node);
                // Both must stand where they stood.
                return Err(match Reader::new(self.cluster.clone(), node, self.index).contradiction(what).await {
                    Apart::Contradiction(what) => self.contradiction(what).await,
                    not_yet => not_yet,
                });
            }
        }
        collected.nodes.insert(self.node, self.finals(status).await?);
        if with_feed {
            let feed = self.feed().await?;
            let last = feed.last().map_or(0, |event| event.index);
            let checkpoint = status.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.0);
            if last > checkpoint {
                return Err(Apart::NotYet(format!("entry {last} waits for a checkpoint behind {checkpoint}")));
            }
            collected.feeds.insert(self.node, feed);
        }
        Ok(())
    }

    async fn list<T>(
        &self,
        path: &str,
        read: impl Fn(&Value) -> Option<T>,
        id: impl Fn(&T) -> &String,
    ) -> Result<BTreeMap<String, T>, Apart> {
        let mut all = BTreeMap::new();
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{joint}limit=200{cursor}")).await?;
            for row in page["data"].as_array().map_or(&[][..], Vec::as_slice) {
                let unread = || Apart::Contradiction(format!("node {}: {path}: cannot be read: {row}", self.node));
                let row = read(row).ok_or_else(unread)?;
                let id = id(&row).clone();
                if all.insert(id.clone(), row).is_some() {
                    return Err(self.contradiction(format!("node {}: {path}: {id} is listed twice", self.node)).await);
                }
            }
            if page["has_more"] != true {
                return Ok(all);
            }
            cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap_or_default());
        }
        Err(Apart::Contradiction(format!("node {}: {path}: more than {PAGES_MAX} pages", self.node)))
    }

    /// Everything but the feed.
    ///
    /// # Errors
    /// What could not be read, or that the node moved on meanwhile.
    pub async fn finals(&self, status: &Status) -> Result<NodeFinals, Apart> {
        let unread = |what: String| Apart::Contradiction(format!("node {}: {what}", self.node));
        let (digest_index, digest, chain_head) = status.checkpoint.clone().unwrap_or_default();
        let skus = self.list("/skus", codec::read_sku, |sku| &sku.id).await?;
        let mut stocks = BTreeMap::new();
        for sku in skus.keys() {
            let body = self.get(&format!("/skus/{sku}/stock")).await?;
            let stock = codec::read_stock(&body);
            let stock = stock.ok_or_else(|| unread(format!("stock of {sku} cannot be read: {body}")))?;
            stocks.insert(sku.clone(), stock);
        }
        let accounts = self.list("/accounts", codec::read_account, |account| &account.id).await?;
        let orders = self.list("/orders?sort=created_at", codec::read_order, |order| &order.id).await?;
        for status in ["CREATED", "PAID", "SHIPPED", "COMPLETED", "CANCELLED"] {
            let listed = self.list(&format!("/orders?status={status}"), codec::read_order, |order| &order.id).await?;
            let is = orders.values().filter(|order| order.status == status).map(|order| &order.id);
            if !is.clone().eq(listed.keys()) {
                let (is, listed) = (is.count(), listed.len());
                let what = format!("node {}: {is} orders are {status}, {listed} others or so are listed", self.node);
                return Err(self.contradiction(what).await);
            }
        }
        let body = self.get("/ledger/trial-balance").await?;
        let (debits, credits) =
            codec::read_totals(&body).ok_or_else(|| unread(format!("the trial balance cannot be read: {body}")))?;
        Ok(NodeFinals {
            index: self.index,
            digest_index,
            digest,
            chain_head,
            skus,
            stocks,
            accounts,
            orders,
            debits,
            credits,
        })
    }

    /// What is kept under a key: an order, a refusal, or nothing.
    ///
    /// # Errors
    /// As for [`Reader::finals`].
    pub async fn under_key(&self, key: &str) -> Result<String, Apart> {
        match self.get(&format!("/orders/by-idempotency-key/{key}")).await {
            Ok(body) => Ok(codec::read_order(&body).map_or_else(|| body.to_string(), |order| order.id)),
            Err(Apart::NotYet(why)) => match why.split_once("\"code\":\"").and_then(|(_, rest)| rest.split_once('"')) {
                Some((code, _)) if why.contains(": 4") => Ok(code.to_owned()),
                _ => Err(Apart::NotYet(why)),
            },
            Err(contradiction) => Err(contradiction),
        }
    }

    /// The whole feed.
    ///
    /// # Errors
    /// As for [`Reader::finals`].
    pub async fn feed(&self) -> Result<Vec<FeedEvent>, Apart> {
        let wrong = |what: String| Apart::Contradiction(format!("node {}: {what}", self.node));
        let mut all = Vec::new();
        let mut after = 0;
        for _ in 0..PAGES_MAX {
            let mut page = self.get(&format!("/changes?after={after}&limit={EVENTS}")).await?;
            let events: Vec<FeedEvent> = serde_json::from_value(page["data"].take())
                .map_err(|error| wrong(format!("the feed behind {after}: {error}")))?;
            all.extend(events);
            after =
                page["next_after"].as_u64().ok_or_else(|| wrong("a page of the feed without next_after".to_owned()))?;
            if after >= self.index {
                return Ok(all);
            }
        }
        Err(wrong(format!("the feed has more than {PAGES_MAX} pages")))
    }
}
