//! A small load of its own: a few SKUs, accounts with money, and clients that order, pay and call off.
//!
//! For looking at the simulation itself. The workloads that are checked are those of the scenarios.

use std::{sync::Arc, time::Duration};

use agora_history::NodeId;
use agora_scenario::{
    cluster::{Cluster, HttpRequest, HttpResponse, SendError},
    rng::Rng,
};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::cluster::SimCluster;

/// How long a client waits for one answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Requests sent.
    pub sent: u64,
    /// 2xx.
    pub yes: u64,
    /// 4xx.
    pub no: u64,
    /// 5xx.
    pub failed: u64,
    /// No whole answer.
    pub lost: u64,
}

/// One client.
pub struct Client {
    cluster: SimCluster,
    rng: Rng,
    number: u64,
    sent: u64,
    node: NodeId,
    /// What came of its requests.
    pub tally: Tally,
}

impl Client {
    /// The client of this number.
    pub fn new(cluster: &SimCluster, seed: u64, number: u64) -> Client {
        let nodes = cluster.nodes();
        let node = nodes[usize::try_from(number).unwrap_or(0) % nodes.len()];
        let rng = Rng::new(seed).fork(&format!("load {number}"));
        Client { cluster: cluster.clone(), rng, number, sent: 0, node, tally: Tally::default() }
    }

    async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let key = format!("c{}-{}", self.number, self.sent);
        self.sent += 1;
        // A careful client repeats under the same key, on another node.
        for _ in 0..5 {
            let mut headers = vec![
                ("authorization".to_owned(), format!("Bearer {}", self.cluster.keys().0)),
                ("idempotency-key".to_owned(), key.clone()),
            ];
            if body.is_some() {
                headers.push(("content-type".to_owned(), "application/json".to_owned()));
            }
            let request = HttpRequest {
                method: method.clone(),
                path: path.to_owned(),
                headers,
                body: body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())),
            };
            let answer = self.cluster.send(self.node, request, DEADLINE).await;
            self.count(&answer);
            if let Ok(response) = &answer
                && response.status < 500
            {
                return Some((response.status, serde_json::from_slice(&response.body).unwrap_or(Value::Null)));
            }
            let nodes = self.cluster.nodes();
            self.node = *self.rng.pick(&nodes).unwrap_or(&1);
            tokio::time::sleep(Duration::from_millis(self.rng.between(20, 200))).await;
        }
        None
    }

    fn count(&mut self, answer: &Result<HttpResponse, SendError>) {
        let tally = &mut self.tally;
        tally.sent += 1;
        match answer.as_ref().map(|response| response.status) {
            Ok(200..300) => tally.yes += 1,
            Ok(300..500) => tally.no += 1,
            Ok(_) => tally.failed += 1,
            Err(_) => tally.lost += 1,
        }
    }

    /// Makes SKUs and accounts; their ids.
    pub async fn set_up(&mut self, skus: u64, accounts: u64) -> (Vec<String>, Vec<String>) {
        let (mut sku_ids, mut account_ids) = (Vec::new(), Vec::new());
        let id = |answer: Option<(u16, Value)>| {
            answer.and_then(|(_, body)| Some(body.get("id")?.as_str()?.to_owned())).unwrap_or_default()
        };
        for number in 0..skus {
            let body = json!({"sku_code": format!("S-{}-{number}", self.number), "name": "thing", "price": {"amount": 100, "currency": "CNY"}});
            let sku = id(self.ask(Method::POST, "/api/v2/skus", Some(&body)).await);
            let body = json!({"lines": [{"sku_id": sku, "quantity": 200}], "reason": "first"});
            self.ask(Method::POST, "/api/v2/stock/receive", Some(&body)).await;
            sku_ids.push(sku);
        }
        for number in 0..accounts {
            let body = json!({"name": format!("A {number}"), "kind": "CUSTOMER"});
            let account = id(self.ask(Method::POST, "/api/v2/accounts", Some(&body)).await);
            let body = json!({"amount": {"amount": 100_000, "currency": "CNY"}, "reason": "first"});
            self.ask(Method::POST, &format!("/api/v2/wallets/{account}/adjust"), Some(&body)).await;
            account_ids.push(account);
        }
        (sku_ids, account_ids)
    }

    /// Orders, pays and calls off until the time is over.
    pub async fn shop(&mut self, skus: &[String], accounts: &[String], until: u64, pause_ms: u64) {
        while self.cluster.now() < until {
            let account = self.rng.pick(accounts).cloned().unwrap_or_default();
            let items: Vec<_> = (0..self.rng.between(1, 2))
                .map(|_| json!({"sku_id": self.rng.pick(skus), "quantity": self.rng.between(1, 2)}))
                .collect();
            let body = json!({"user_id": account, "items": items});
            let placed = self.ask(Method::POST, "/api/v2/orders", Some(&body)).await;
            let order = placed.and_then(|(_, body)| Some(body.get("id")?.as_str()?.to_owned()));
            if let Some(order) = order {
                let step = *self.rng.pick(&["pay", "pay", "cancel"]).unwrap_or(&"pay");
                self.ask(Method::POST, &format!("/api/v2/orders/{order}/{step}"), Some(&json!({}))).await;
            }
            let sku = self.rng.pick(skus).cloned().unwrap_or_default();
            self.ask(Method::GET, &format!("/api/v2/skus/{sku}/stock"), None).await;
            tokio::time::sleep(Duration::from_millis(self.rng.between(pause_ms / 2, pause_ms * 3 / 2))).await;
        }
    }
}

/// Clients beside each other until the time is over; what came of all their requests.
pub async fn run(cluster: &SimCluster, seed: u64, clients: u64, until: u64, pause_ms: u64) -> Tally {
    let mut first = Client::new(cluster, seed, 0);
    let (skus, accounts) = first.set_up(4, 6).await;
    let (skus, accounts) = (Arc::new(skus), Arc::new(accounts));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=clients {
        let mut client = Client::new(cluster, seed, number);
        let (skus, accounts) = (skus.clone(), accounts.clone());
        tasks.spawn(async move {
            client.shop(&skus, &accounts, until, pause_ms).await;
            client.tally
        });
    }
    let mut all = first.tally;
    while let Some(done) = tasks.join_next().await {
        let tally = done.unwrap_or_default();
        all.sent += tally.sent;
        all.yes += tally.yes;
        all.no += tally.no;
        all.failed += tally.failed;
        all.lost += tally.lost;
    }
    all
}
