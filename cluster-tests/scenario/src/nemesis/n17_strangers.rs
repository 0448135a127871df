//! N17: people at the door: wrong keys, the shop's key for the cluster and the cluster's for the shop, floods of requests
//! without a key, oversized and malformed bodies, connections that say nothing, half a head, or no HTTP at all.
//!
//! Nobody gets in, nothing is changed, and who has the right key is served meanwhile. The product has no roles beyond two
//! keys, no certificates and no rotation of either while it runs, so there is nothing to rotate here.

use std::{sync::Arc, time::Duration};

use agora_history::NodeId;
use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;

use super::{Attack, Done, Turn, round::begin};
use crate::{
    cluster::{Act, Cluster, HttpRequest, Port},
    rng::Rng,
    schedule::Context,
};

/// N17.
pub struct Strangers;

/// Requests at once.
const CROWD: u64 = 16;
/// Requests of one round.
const REQUESTS_MAX: u64 = 400;
/// Bytes of a body beyond the limit of 1 MiB.
const OVERSIZED: usize = (1 << 20) + 4_096;
/// Deadline of one.
const PATIENCE: Duration = Duration::from_secs(2);

fn raw(node: NodeId, port: Port, count: u32, bytes: &'static [u8]) -> Act {
    Act::RawConnections { node, port, count, bytes: Bytes::from_static(bytes), hold_ms: 1_500 }
}

impl Attack for Strangers {
    fn name(&self) -> &'static str {
        "N17"
    }

    fn about(&self) -> &'static str {
        "wrong keys, floods, oversized and malformed requests, silent and half-open connections"
    }

    fn needs(&self) -> Vec<Act> {
        Vec::new()
    }

    fn wants(&self) -> Vec<Act> {
        vec![raw(1, Port::Http, 1, b""), raw(1, Port::Peer, 1, b"")]
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let node = scene.victim(rng);
            let count = rng.between(REQUESTS_MAX / 8, REQUESTS_MAX);
            let silent = rng.between(1, 100) as u32;
            let raws = [
                raw(node, Port::Http, silent, b""),
                raw(node, Port::Http, silent, b"POST /api/v2/orders HTTP/1.1\r\nHost: a\r\nContent-Le"),
                raw(node, Port::Http, silent, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00"),
                raw(node, Port::Peer, silent, b"GET / HTTP/1.1\r\n\r\n"),
                raw(node, Port::Peer, silent, b"AGORA-P\x02"),
            ];
            let opened: Vec<Act> = raws.into_iter().filter(|act| scene.can(act) && rng.per_mille(500)).collect();
            let detail = format!("node {node}, {count} requests, {opened:?}");
            let fault = begin(context, self.name(), "strangers", &[node], &detail).await;
            for act in opened {
                context.act(act).await?;
            }
            let result = flood(context, node, count, rng).await;
            context.end_fault(fault);
            result
        })
    }
}

/// What a stranger tries, and what he may be told: never a 2xx.
fn attempt(rng: &mut Rng, (shop, admin): (&str, &str), number: u64) -> (HttpRequest, &'static [u16]) {
    const OVERLOADED: u16 = 503;
    let bearer = |key: &str| vec![("authorization".to_owned(), format!("Bearer {key}"))];
    let json = |mut headers: Vec<(String, String)>| {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
        headers.push(("idempotency-key".to_owned(), format!("stranger-{number}")));
        headers
    };
    let order = Bytes::from_static(br#"{"sku_code":"STRANGER","name":"x","price":{"amount":1,"currency":"CNY"}}"#);
    let request = |method, path: &str, headers, body| HttpRequest { method, path: path.to_owned(), headers, body };
    match rng.below(8) {
        0 => (request(Method::POST, "/api/v2/skus", json(bearer("sk_live_wrong")), order), &[401, OVERLOADED]),
        1 => (request(Method::POST, "/api/v2/skus", json(Vec::new()), order), &[401, OVERLOADED]),
        2 => (request(Method::POST, "/api/v2/skus", json(bearer(admin)), order), &[403, OVERLOADED]),
        3 => (request(Method::DELETE, "/api/v2/cluster/members/1", bearer(shop), Bytes::new()), &[403, OVERLOADED]),
        4 => (
            request(Method::POST, "/api/v2/cluster/leader/transfer", json(bearer("x")), Bytes::from_static(b"{}")),
            &[401, OVERLOADED],
        ),
        5 => (
            request(Method::POST, "/api/v2/orders", json(bearer(shop)), Bytes::from_static(b"{\"user_id\":")),
            &[400, OVERLOADED],
        ),
        // Refused at the head or in the middle of the body.
        6 => (
            request(Method::POST, "/api/v2/orders", json(bearer(shop)), Bytes::from(vec![b' '; OVERSIZED])),
            &[400, 413, OVERLOADED],
        ),
        _ => (
            request(Method::GET, "/api/v2/skus/by-code/../../cluster/status", Vec::new(), Bytes::new()),
            &[400, 401, 404, OVERLOADED],
        ),
    }
}

async fn flood(context: &Context, node: NodeId, count: u64, rng: &mut Rng) -> Result<(), String> {
    let (shop, admin) = context.cluster().keys();
    let mut running: JoinSet<Result<(), String>> = JoinSet::new();
    let mut verdict = Ok(());
    for number in 0..count {
        if context.is_over() || verdict.is_err() {
            break;
        }
        if running.len() as u64 >= CROWD
            && let Some(done) = running.join_next().await
        {
            verdict = verdict.and(done.unwrap_or_else(|error| Err(format!("a stranger's task failed: {error}"))));
        }
        let (request, allowed) = attempt(rng, (&shop, &admin), number);
        let cluster = context.cluster().clone();
        running.spawn(async move { knock(cluster, node, request, allowed).await });
    }
    while let Some(done) = running.join_next().await {
        verdict = verdict.and(done.unwrap_or_else(|error| Err(format!("a stranger's task failed: {error}"))));
    }
    verdict
}

async fn knock(
    cluster: Arc<dyn Cluster>,
    node: NodeId,
    request: HttpRequest,
    allowed: &'static [u16],
) -> Result<(), String> {
    let what = format!("{} {} with {} bytes", request.method, request.path, request.body.len());
    // No answer is an answer: the connection may be closed on an oversized body, or the node may be busy.
    let Ok(response) = cluster.send(node, request, PATIENCE).await else { return Ok(()) };
    if allowed.contains(&response.status) {
        return Ok(());
    }
    Err(format!("a stranger's {what} was answered {} by node {node}, not one of {allowed:?}", response.status))
}
