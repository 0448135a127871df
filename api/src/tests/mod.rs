//! The API over a real shop: one node, its disk in memory, no HTTP sockets but where sockets are the point.
//!
//! Every answer that passes through the bench is held against the schema that the OpenAPI document gives for it, and
//! against what every answer must carry; so each test also tests the document.

mod access;
mod bad_input;
mod feed;
mod orders;
mod problems;
mod sockets;
mod stock_and_skus;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use agora_actors::{RaftConfig, Shop, ShopConfig, World};
use agora_raft::{Boot, Member};
use agora_storage::MemDisk;
use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{ApiConfig, ApiState, endpoint::Endpoint, endpoints, openapi, router};

pub const SHOP_KEY: &str = "shop-key-of-the-tests";
pub const ADMIN_KEY: &str = "admin-key-of-the-tests";

/// A shop with its API.
pub struct Bench {
    pub state: ApiState,
    router: Router,
    endpoints: Vec<Endpoint>,
    document: Value,
    keys: AtomicU64,
}

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub fn get(path: &str) -> Ask {
    ask(Method::GET, path)
}

pub fn post(path: &str, body: Value) -> Ask {
    ask(Method::POST, path).json(&body)
}

pub fn patch(path: &str, version: u64, body: Value) -> Ask {
    ask(Method::PATCH, path).json(&body).header("if-match", &format!("\"v{version}\""))
}

/// With the key that the path needs.
pub fn ask(method: Method, path: &str) -> Ask {
    let is_admin = path.starts_with("/api/v2/cluster") || path == "/metrics";
    let key = if is_admin { ADMIN_KEY } else { SHOP_KEY };
    Ask { method, path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
        .header("authorization", &format!("Bearer {key}"))
}

impl Ask {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.bytes(body.to_string()).header("content-type", "application/json")
    }

    pub fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn key(self, key: &str) -> Self {
        self.without("idempotency-key").header("idempotency-key", key)
    }
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        problem
    }
}

impl Bench {
    pub async fn start() -> Self {
        Self::with(ApiConfig::default()).await
    }

    pub async fn with(config: ApiConfig) -> Self {
        let raft = RaftConfig { node_id: 1, cluster: "test".to_owned(), ..RaftConfig::default() };
        let me = Member { id: 1, peer_addr: "127.0.0.1:0".to_owned(), http_addr: "127.0.0.1:0".to_owned() };
        let boot = Boot::Create { lineage: 7, members: vec![me] };
        let world = World::real(Arc::new(MemDisk::new()));
        let shop = Shop::start(world, raft, boot, ShopConfig::default()).await.unwrap();
        let config = ApiConfig { shop_key: SHOP_KEY.to_owned(), admin_key: ADMIN_KEY.to_owned(), ..config };
        let state = ApiState::new(shop, config);
        let endpoints = endpoints();
        Self {
            router: router(state.clone()),
            document: openapi::document(&endpoints),
            endpoints,
            state,
            keys: AtomicU64::new(0),
        }
    }

    /// Sends a write under a key of its own unless it has one.
    pub async fn write(&self, ask: Ask) -> Got {
        if ask.headers.iter().any(|(name, _)| name.ends_with("idempotency-key")) {
            return self.send(ask).await;
        }
        let key = format!("key-{}", self.keys.fetch_add(1, Ordering::Relaxed));
        self.send(ask.key(&key)).await
    }

    pub async fn send(&self, ask: Ask) -> Got {
        let mut request = Request::builder().method(ask.method.clone()).uri(&ask.path);
        for (name, value) in &ask.headers {
            request = request.header(name, value.as_bytes());
        }
        let length = ask.body.len();
        if length > 0 {
            request = request.header("content-length", length);
        }
        let request = request.body(Body::from(ask.body.clone())).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let got = Got { status: parts.status.as_u16(), headers: parts.headers, body };
        self.check(&ask, &got);
        got
    }

    #[track_caller]
    fn check(&self, ask: &Ask, got: &Got) {
        let what = format!("{} {}: {} {}", ask.method, ask.path, got.status, String::from_utf8_lossy(&got.body));
        assert_eq!(got.header("x-trace-id").map(str::len), Some(32), "{what}");
        assert_eq!(got.header("x-node"), Some("1"), "{what}");
        if got.status >= 400 {
            let problem = got.json();
            self.conforms(&json!({"$ref": "#/components/schemas/Problem"}), &problem, &what);
            assert_eq!(problem["status"], got.status, "{what}");
            assert_eq!(problem["instance"], ask.path.split('?').next().unwrap(), "{what}");
            if got.status == 400 {
                assert!(problem["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{what}");
            }
            return;
        }
        let path = ask.path.split('?').next().unwrap();
        let found = self.endpoints.iter().find(|one| one.method == ask.method && matches_path(one.path, path));
        let Some((schema, is_new)) = found.and_then(|endpoint| endpoint.gives) else { return };
        if got.status != 304 {
            assert_eq!(got.status, if is_new { 201 } else { 200 }, "{what}");
            self.conforms(&json!({"$ref": format!("#/components/schemas/{schema}")}), &got.json(), &what);
        }
    }

    /// The part of JSON Schema that the document uses, but for patterns and lengths.
    #[track_caller]
    fn conforms(&self, schema: &Value, value: &Value, what: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            let schema = self.document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere"));
            return self.conforms(schema, value, what);
        }
        if let Some(options) = schema["oneOf"].as_array() {
            let schema = options.iter().find(|option| (option["type"] == "null") == value.is_null());
            return self.conforms(
                schema.unwrap_or_else(|| panic!("{value} is none of {options:?} in {what}")),
                value,
                what,
            );
        }
        if let Some(values) = schema["enum"].as_array() {
            assert!(values.contains(value), "{value} is none of {values:?} in {what}");
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => return,
        };
        let fits = kinds.iter().any(|kind| match *kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("unknown type {other}"),
        });
        assert!(fits, "{value} is no {kinds:?} in {what}");
        for item in value.as_array().into_iter().flatten() {
            self.conforms(&schema["items"], item, what);
        }
        let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else { return };
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(fields.contains_key(name.as_str().unwrap()), "{name} is missing in {what}");
        }
        for (name, value) in fields {
            let schema = properties.get(name).unwrap_or_else(|| panic!("{name} is not in the document: {what}"));
            self.conforms(schema, value, what);
        }
    }

    // ------------------------------------------------------------------------------------- what most tests begin with

    pub async fn sku(&self, code: &str, price: i64, stock: u64) -> String {
        let body = json!({"sku_code": code, "name": format!("goods {code}"), "price": money(price)});
        let id = text(&self.write(post("/api/v2/skus", body)).await.expect(201)["id"]);
        if stock > 0 {
            self.receive(&[(&id, stock)]).await.expect(200);
        }
        id
    }

    pub async fn receive(&self, lines: &[(&str, u64)]) -> Got {
        let body = json!({"lines": items(lines), "reason": "delivery"});
        self.write(post("/api/v2/stock/receive", body)).await
    }

    pub async fn account(&self, balance: i64) -> String {
        let body = json!({"name": "Ada", "kind": "customer"});
        let id = text(&self.write(post("/api/v2/accounts", body)).await.expect(201)["id"]);
        if balance > 0 {
            let body = json!({"amount": money(balance), "reason": "top up"});
            self.write(post(&format!("/api/v2/wallets/{id}/adjust"), body)).await.expect(200);
        }
        id
    }

    pub async fn place(&self, account: &str, lines: &[(&str, u64)]) -> Got {
        self.write(post("/api/v2/orders", order(account, lines))).await
    }

    pub async fn stock(&self, sku: &str) -> (u64, u64, u64) {
        let stock = self.send(get(&format!("/api/v2/skus/{sku}/stock"))).await.expect(200);
        let figure = |name: &str| stock[name].as_u64().unwrap();
        (figure("on_hand"), figure("reserved"), figure("available"))
    }
}

fn matches_path(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    let same = template.split('/').all(|part| parts.next().is_some_and(|given| part.starts_with('{') || part == given));
    same && parts.next().is_none() && !(template.ends_with('}') && path.ends_with("/batch"))
}

pub fn money(minor: i64) -> Value {
    json!({"amount": minor, "currency": "CNY"})
}

pub fn items(lines: &[(&str, u64)]) -> Value {
    lines.iter().map(|(sku, quantity)| json!({"sku_id": sku, "quantity": quantity})).collect()
}

pub fn order(account: &str, lines: &[(&str, u64)]) -> Value {
    json!({"user_id": account, "items": items(lines)})
}

#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
