//! After a run: every node's own word on everything, read at one index.
//!
//! Each node is asked with consistency `local`, so that it answers from its own rows, and nothing is taken that was read at
//! another index than all of it is to stand at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

    async fn get(&self, path: &str) -> Result<Value, String> {
        let (key, _) = self.cluster.keys();
        let headers = vec![
            ("authorization".to_owned(), format!("Bearer {key}")),
            ("consistency".to_owned(), "local".to_owned()),
            ("min-index".to_owned(), self.index.to_string()),
        ];
        let mut last = String::new();
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
                    return serde_json::from_slice(&response.body).map_err(|error| format!("{path}: {error}"));
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
        Err(format!("node {}: {path}: {last}", self.node))
    }

    fn stands_still(&self, headers: &[(String, String)]) -> Result<(), String> {
        let index = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-log-index"));
        let index = index.and_then(|(_, value)| value.parse::<u64>().ok());
        if index == Some(self.index) {
            return Ok(());
        }
        Err(format!("node {} stood at {index:?} and not at {}", self.node, self.index))
    }

    async fn list<T>(
        &self,
        path: &str,
        read: impl Fn(&Value) -> Option<T>,
        id: impl Fn(&T) -> &String,
    ) -> Result<BTreeMap<String, T>, String> {
        let mut all = BTreeMap::new();
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{joint}limit=200{cursor}")).await?;
            for row in page["data"].as_array().map_or(&[][..], Vec::as_slice) {
                let row = read(row).ok_or_else(|| format!("node {}: {path}: cannot be read: {row}", self.node))?;
                let id = id(&row).clone();
                if all.insert(id.clone(), row).is_some() {
                    return Err(format!("node {}: {path}: {id} is listed twice", self.node));
                }
            }
            if page["has_more"] != true {
                return Ok(all);
            }
            cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap_or_default());
        }
        Err(format!("node {}: {path}: more than {PAGES_MAX} pages", self.node))
    }

    /// Everything but the feed.
    ///
    /// # Errors
    /// What could not be read, or that the node moved on meanwhile.
    pub async fn finals(&self, status: &Status) -> Result<NodeFinals, String> {
        let (digest_index, digest, chain_head) = status.checkpoint.clone().unwrap_or_default();
        let skus = self.list("/skus", codec::read_sku, |sku| &sku.id).await?;
        let mut stocks = BTreeMap::new();
        for sku in skus.keys() {
            let body = self.get(&format!("/skus/{sku}/stock")).await?;
            let stock = codec::read_stock(&body).ok_or_else(|| format!("stock of {sku} cannot be read: {body}"))?;
            stocks.insert(sku.clone(), stock);
        }
        let accounts = self.list("/accounts", codec::read_account, |account| &account.id).await?;
        let orders = self.list("/orders?sort=created_at", codec::read_order, |order| &order.id).await?;
        for status in ["CREATED", "PAID", "SHIPPED", "COMPLETED", "CANCELLED"] {
            let listed = self.list(&format!("/orders?status={status}"), codec::read_order, |order| &order.id).await?;
            let is = orders.values().filter(|order| order.status == status).map(|order| &order.id);
            if !is.clone().eq(listed.keys()) {
                let (is, listed) = (is.count(), listed.len());
                return Err(format!("node {}: {is} orders are {status}, {listed} others or so are listed", self.node));
            }
        }
        let body = self.get("/ledger/trial-balance").await?;
        let (debits, credits) =
            codec::read_totals(&body).ok_or_else(|| format!("the trial balance cannot be read: {body}"))?;
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
    pub async fn under_key(&self, key: &str) -> Result<String, String> {
        match self.get(&format!("/orders/by-idempotency-key/{key}")).await {
            Ok(body) => Ok(codec::read_order(&body).map_or_else(|| body.to_string(), |order| order.id)),
            Err(why) => match why.split_once("\"code\":\"").and_then(|(_, rest)| rest.split_once('"')) {
                Some((code, _)) if why.contains(": 4") => Ok(code.to_owned()),
                _ => Err(why),
            },
        }
    }

    /// The whole feed.
    ///
    /// # Errors
    /// As for [`Reader::finals`].
    pub async fn feed(&self) -> Result<Vec<FeedEvent>, String> {
        let mut all = Vec::new();
        let mut after = 0;
        for _ in 0..PAGES_MAX {
            let mut page = self.get(&format!("/changes?after={after}&limit={EVENTS}")).await?;
            let events: Vec<FeedEvent> = serde_json::from_value(page["data"].take())
                .map_err(|error| format!("node {}: the feed behind {after}: {error}", self.node))?;
            all.extend(events);
            after = page["next_after"].as_u64().ok_or("a page of the feed without next_after")?;
            if after >= self.index {
                return Ok(all);
            }
        }
        Err(format!("node {}: the feed has more than {PAGES_MAX} pages", self.node))
    }
}
