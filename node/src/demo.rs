//! The small catalogue `agora dev` loads, so that there is something to order at once.
//!
//! It is loaded through the public API like anybody else's goods, under fixed idempotency keys, and what was made is
//! noted in a file beside the data. So a restart changes nothing: not within the life of a key, because the same key
//! has the same answer, and not later, because of the file.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    client::{Answer, Client},
    config::Address,
};

/// What the demo shop sells: code, name, price in minor units, units received.
const GOODS: &[(&str, &str, i64, u32)] = &[
    ("DEMO-TEA-100", "Green tea, 100 g", 3_900, 500),
    ("DEMO-POT-1", "Clay teapot", 18_800, 40),
    ("DEMO-CUP-6", "Six porcelain cups", 9_900, 120),
    ("DEMO-LAST-1", "Last one on the shelf", 99_900, 1),
];
const CURRENCY: &str = "CNY";
const NOTE: &str = "demo.json";

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demo {
    /// A customer with money in the wallet.
    pub account: String,
    /// Code and id of each SKU.
    pub skus: Vec<(String, String)>,
}

/// Loads the catalogue, or reads what an earlier run noted in `dir`.
pub async fn load(dir: &Path, endpoints: Vec<Address>, shop_key: &str) -> anyhow::Result<Demo> {
    let note = dir.join(NOTE);
    if let Ok(text) = fs::read_to_string(&note) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{}: unreadable, remove it to load the demo anew", note.display()));
    }
    let client = Client::new(endpoints, Some(shop_key), Duration::from_secs(30))?;
    let demo = create(&client).await.context("cannot load the demo catalogue")?;
    fs::write(&note, serde_json::to_string_pretty(&demo)?)
        .with_context(|| format!("cannot write {}", note.display()))?;
    Ok(demo)
}

async fn create(client: &Client) -> anyhow::Result<Demo> {
    let mut skus = Vec::new();
    let mut lines = Vec::new();
    for (code, name, price, units) in GOODS {
        let price = json!({"amount": price, "currency": CURRENCY});
        let body = json!({"sku_code": code, "name": name, "price": price});
        let sku = client.post("/api/v2/skus", &format!("demo-sku-{code}"), &body).await?;
        let id = id_of(&sku)?;
        lines.push(json!({"sku_id": id, "quantity": units}));
        skus.push(((*code).to_owned(), id));
    }
    let body = json!({"lines": lines, "reason": "demo"});
    client.post("/api/v2/stock/receive", "demo-receive", &body).await?;
    let account =
        client.post("/api/v2/accounts", "demo-account", &json!({"name": "Demo customer", "kind": "customer"})).await?;
    let account = id_of(&account)?;
    let body = json!({"amount": {"amount": 1_000_000, "currency": CURRENCY}, "reason": "demo"});
    client.post(&format!("/api/v2/wallets/{account}/adjust"), "demo-wallet", &body).await?;
    Ok(Demo { account, skus })
}

/// The `id` of an answer.
pub fn id_of(answer: &Answer) -> anyhow::Result<String> {
    let id = answer.body.get("id").and_then(|id| id.as_str());
    id.map(str::to_owned).with_context(|| format!("an answer without id: {}", answer.body))
}
