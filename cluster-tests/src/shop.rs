//! The requests most tests make.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Call, Client};

/// Currency of the tests' shop.
pub const CURRENCY: &str = "CNY";

/// A SKU as the tests know it.
#[derive(Clone, Debug)]
pub struct Goods {
    /// `sku_…`.
    pub id: String,
    /// Price in minor units.
    pub price: i64,
}

/// Units of one SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    /// In the warehouse.
    pub on_hand: u64,
    /// Promised.
    pub reserved: u64,
    /// Not promised.
    pub available: u64,
    /// Changes so far.
    pub version: u64,
}

/// A field that must be text.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_else(|| panic!("no text {field} in {body}")).to_owned()
}

/// A field that must be a whole number.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn number(body: &Value, field: &str) -> u64 {
    body[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {body}"))
}

/// An amount in the tests' currency.
pub fn money(minor: i64) -> Value {
    json!({"amount": minor, "currency": CURRENCY})
}

/// Creates a SKU without stock.
pub async fn create_sku(client: &Client, code: &str, price: i64) -> Goods {
    let body = json!({"sku_code": code, "name": format!("goods {code}"), "price": money(price)});
    let sku = client.must(0, &Call::post("/skus", body), 201).await;
    Goods { id: text(&sku, "id"), price }
}

/// Puts units into the warehouse.
pub async fn receive(client: &Client, sku: &str, quantity: u64) -> Value {
    let body = json!({"lines": [{"sku_id": sku, "quantity": quantity}], "reason": "delivery"});
    client.must(0, &Call::post("/stock/receive", body), 200).await
}

/// Creates a SKU with stock.
pub async fn stocked_sku(client: &Client, code: &str, price: i64, quantity: u64) -> Goods {
    let goods = create_sku(client, code, price).await;
    receive(client, &goods.id, quantity).await;
    goods
}

/// Creates a customer.
pub async fn create_account(client: &Client, name: &str) -> String {
    let account = client.must(0, &Call::post("/accounts", json!({"name": name, "kind": "customer"})), 201).await;
    text(&account, "id")
}

/// Puts money into a wallet.
pub async fn fund(client: &Client, account: &str, minor: i64) -> Value {
    let body = json!({"amount": money(minor), "reason": "top up"});
    client.must(0, &Call::post(&format!("/wallets/{account}/adjust"), body), 200).await
}

/// The body of an order.
pub fn order_body(account: &str, items: &[(&str, u64)]) -> Value {
    let items: Vec<Value> = items.iter().map(|(sku, quantity)| json!({"sku_id": sku, "quantity": quantity})).collect();
    json!({"user_id": account, "items": items})
}

/// An order under a key of its own.
pub fn order(account: &str, items: &[(&str, u64)]) -> Call {
    Call::post("/orders", order_body(account, items))
}

/// Places an order that must be accepted; returns its body.
pub async fn place(client: &Client, first: usize, account: &str, items: &[(&str, u64)]) -> Value {
    client.must(first, &order(account, items), 201).await
}

/// An action on an order, under a key of its own.
pub fn act(order_no: &str, action: &str, body: Value) -> Call {
    Call::post(&format!("/orders/{order_no}/{action}"), body)
}

/// Stock of one SKU as a node sees it at this level.
pub async fn stock(client: &Client, node: u64, sku: &str, level: &str) -> Stock {
    let call = Call::get(&format!("/skus/{sku}/stock")).consistency(level);
    let body = read(client, node, &call).await;
    Stock {
        on_hand: number(&body, "on_hand"),
        reserved: number(&body, "reserved"),
        available: number(&body, "available"),
        version: number(&body, "version"),
    }
}

/// A read that must succeed within a few tries: a leader may be missing for a moment.
///
/// # Panics
/// When it does not.
pub async fn read(client: &Client, node: u64, call: &Call) -> Value {
    let mut last = String::new();
    for _ in 0..100 {
        match client.send(node, call).await {
            crate::client::Reply::Answer(answer) if answer.status == 200 => return answer.json(),
            crate::client::Reply::Answer(answer) if answer.status < 500 => {
                panic!("node {node} answered {}: {}", answer.status, answer.text())
            }
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("node {node} did not answer {call:?}: {last}")
}

/// All rows of a list, page by page.
pub async fn list(client: &Client, node: u64, path: &str, level: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let from = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let call = Call::get(&format!("{path}{joint}limit=200{from}")).consistency(level);
        let page = read(client, node, &call).await;
        rows.extend(page["data"].as_array().unwrap_or_else(|| panic!("no data in {page}")).iter().cloned());
        if page["has_more"] != true {
            return rows;
        }
        cursor = Some(text(&page, "next_cursor"));
    }
}

/// All orders of an account.
pub async fn orders_of(client: &Client, node: u64, account: &str) -> Vec<Value> {
    list(client, node, &format!("/orders?user_id={account}"), "linearizable").await
}
