//! Between what a client wants and the bytes of the API: an intention becomes a request, an answer becomes a reply.
//!
//! How an answer is understood decides what checkers may conclude, so it is kept as strict as the API's own words:
//!
//! | answer | reply |
//! |---|---|
//! | 2xx that can be read | yes |
//! | 4xx with `X-Log-Index` | refused: the no is an entry of the log |
//! | `applied: "unknown"`, whatever the status | unknown |
//! | 4xx without an index, 5xx with `applied: false` | not done |
//! | a connection that could not be opened | not done |
//! | anything else: no answer, half of one, a 5xx that does not say, a 2xx that cannot be read | unknown |
//!
//! `IDEMPOTENCY_IN_FLIGHT` and `IDEMPOTENCY_KEY_REUSED` are not done: this attempt did nothing. What an earlier attempt
//! under the key did is told by the earlier attempt.

use agora_history::{
    Account, Answer, Basket, FeedPage, Item, Level, Op, Order, OrderLine, Refusal, Reply, Shortage, Sku, Stock,
};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::{
    cluster::{HttpRequest, HttpResponse, SendError},
    recorder::{Answered, Intent},
};

/// The only currency of all runs.
pub const CURRENCY: &str = "CNY";

fn money(minor: i64) -> Value {
    json!({"amount": minor, "currency": CURRENCY})
}

fn items(lines: &[(String, u32)]) -> Value {
    lines.iter().map(|(sku, quantity)| json!({"sku_id": sku, "quantity": quantity})).collect()
}

fn basket(basket: &Basket) -> Value {
    let mut body = json!({"user_id": basket.account, "items": items(&basket.items)});
    if basket.hold {
        body["payment_provider"] = json!("balance");
    }
    body
}

/// Method, path below `/api/v2`, body.
fn shape(op: &Op) -> (Method, String, Option<Value>) {
    let post = |path: String, body: Value| (Method::POST, path, Some(body));
    let get = |path: String| (Method::GET, path, None);
    match op {
        Op::CreateSku { code, price, sellable } => post(
            "/skus".to_owned(),
            json!({"sku_code": code, "name": format!("goods {code}"), "price": money(*price), "sellable": sellable}),
        ),
        Op::ChangeSku { sku, price, sellable, .. } => {
            let mut body = json!({});
            if let Some(price) = price {
                body["price"] = money(*price);
            }
            if let Some(sellable) = sellable {
                body["sellable"] = json!(sellable);
            }
            (Method::PATCH, format!("/skus/{sku}"), Some(body))
        }
        Op::Receive { lines } => {
            post("/stock/receive".to_owned(), json!({"lines": items(lines), "reason": "delivery"}))
        }
        Op::AdjustStock { sku, delta } => {
            post("/stock/adjust".to_owned(), json!({"sku_id": sku, "delta": delta, "reason": "count"}))
        }
        Op::CreateAccount { name } => post("/accounts".to_owned(), json!({"name": name, "kind": "customer"})),
        Op::AdjustWallet { account, amount } => {
            post(format!("/wallets/{account}/adjust"), json!({"amount": money(*amount), "reason": "by hand"}))
        }
        Op::Place(order) => post("/orders".to_owned(), basket(order)),
        Op::PlaceBatch(orders) => {
            let orders: Vec<Value> = orders.iter().map(basket).collect();
            post("/orders/batch".to_owned(), json!({"orders": orders}))
        }
        Op::Pay { order } => post(format!("/orders/{order}/pay"), json!({"provider": "balance"})),
        Op::Cancel { order } => post(format!("/orders/{order}/cancel"), json!({"reason": "changed my mind"})),
        Op::Ship { order } => post(format!("/orders/{order}/ship"), json!({"carrier": "mule"})),
        Op::Confirm { order } => post(format!("/orders/{order}/confirm-receipt"), json!({})),
        Op::ReadSku { sku } => get(format!("/skus/{sku}")),
        Op::ReadStock { sku } => get(format!("/skus/{sku}/stock")),
        Op::ReadOrder { order } => get(format!("/orders/{order}")),
        Op::ReadWallet { account } => get(format!("/wallets/{account}?currency={CURRENCY}")),
        Op::ReadKey { key } => get(format!("/orders/by-idempotency-key/{key}")),
        Op::ReadLedger => get("/ledger/trial-balance".to_owned()),
        Op::ReadFeed { after, limit } => get(format!("/changes?after={after}&limit={limit}")),
    }
}

/// The request for an intention, with the shop's bearer key.
pub fn request(intent: &Intent, shop_key: &str) -> HttpRequest {
    let (method, path, body) = shape(&intent.request);
    let mut headers = vec![
        ("authorization".to_owned(), format!("Bearer {shop_key}")),
        ("traceparent".to_owned(), format!("00-{}-{:016x}-01", intent.trace, intent.op.max(1))),
    ];
    let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
    if let Some(key) = &intent.key {
        add("idempotency-key", key.clone());
    }
    if let Op::ChangeSku { expected_version, .. } = &intent.request {
        add("if-match", format!("\"v{expected_version}\""));
    }
    if let Some(level) = intent.level {
        let word = match level {
            Level::Linearizable => "linearizable",
            Level::Leader => "leader",
            Level::Bounded => "bounded",
            Level::Local => "local",
        };
        add("consistency", word.to_owned());
    }
    if let Some(index) = intent.min_index {
        add("min-index", index.to_string());
    }
    let body = body.map_or_else(Bytes::new, |body| {
        add("content-type", "application/json".to_owned());
        Bytes::from(body.to_string())
    });
    HttpRequest { method, path: format!("/api/v2{path}"), headers, body }
}

/// What an answer, or the want of one, means to the client that asked.
pub fn understand(op: &Op, answer: &Result<HttpResponse, SendError>) -> Answered {
    let nothing = |reply| Answered { reply, index: None, staleness_ms: None, replayed: false, body_hash: None };
    let response = match answer {
        Ok(response) => response,
        Err(SendError::NotSent(_)) => {
            return nothing(Reply::NotDone { status: 0, code: "NOT_SENT".to_owned() });
        }
        Err(SendError::Lost(why)) => return nothing(Reply::Unknown { status: None, why: format!("lost: {why}") }),
        Err(SendError::TimedOut) => return nothing(Reply::Unknown { status: None, why: "timed out".to_owned() }),
    };
    let number = |name: &str| header(response, name).and_then(|text| text.parse::<u64>().ok());
    let index = number("x-log-index");
    let reply = understand_response(op, response, index);
    let is_kept = matches!(reply, Reply::Yes { .. } | Reply::Refused { .. });
    Answered {
        reply,
        index,
        staleness_ms: number("x-staleness-ms"),
        replayed: header(response, "idempotent-replayed") == Some("true"),
        body_hash: is_kept.then(|| fingerprint(&response.body)),
    }
}

fn understand_response(op: &Op, response: &HttpResponse, index: Option<u64>) -> Reply {
    let status = response.status;
    let body: Option<Value> = serde_json::from_slice(&response.body).ok();
    if (200..300).contains(&status) {
        return match body.as_ref().and_then(|body| read_answer(op, body)) {
            Some(answer) => Reply::Yes { status, answer },
            None => {
                let start = String::from_utf8_lossy(&response.body[..response.body.len().min(200)]).into_owned();
                Reply::Unknown { status: Some(status), why: format!("the answer cannot be read: {start}") }
            }
        };
    }
    let Some(body) = body else {
        return Reply::Unknown { status: Some(status), why: "no problem document".to_owned() };
    };
    let code = body["code"].as_str().unwrap_or("?").to_owned();
    let is_no = body["applied"] == false;
    match status {
        400..500 if is_no && index.is_some() => Reply::Refused { status, refusal: read_refusal(&body) },
        400.. if is_no => Reply::NotDone { status, code },
        _ => Reply::Unknown { status: Some(status), why: code },
    }
}

fn header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// FNV-1a over the bytes.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn read_answer(op: &Op, body: &Value) -> Option<Answer> {
    Some(match op {
        Op::CreateSku { .. } | Op::ChangeSku { .. } | Op::ReadSku { .. } => Answer::Sku(read_sku(body)?),
        Op::Receive { .. } => Answer::Stocks(list(&body["lines"], read_stock)?),
        Op::AdjustStock { .. } | Op::ReadStock { .. } => Answer::Stocks(vec![read_stock(body)?]),
        Op::CreateAccount { .. } => Answer::Account(read_account(body)?),
        Op::AdjustWallet { .. } | Op::ReadWallet { .. } => Answer::Account(read_wallet(body)?),
        Op::Place(_)
        | Op::Pay { .. }
        | Op::Cancel { .. }
        | Op::Ship { .. }
        | Op::Confirm { .. }
        | Op::ReadOrder { .. }
        | Op::ReadKey { .. } => Answer::Order(read_order(body)?),
        Op::PlaceBatch(_) => Answer::Orders(list(&body["results"], |item| {
            if item["order"].is_object() {
                return read_order(&item["order"]).map(Item::Order);
            }
            item["problem"].is_object().then(|| Item::Refused(read_refusal(&item["problem"])))
        })?),
        Op::ReadLedger => {
            let (debits, credits) = read_totals(body)?;
            Answer::Ledger { debits, credits }
        }
        Op::ReadFeed { .. } => Answer::Feed(FeedPage {
            places: list(&body["data"], |event| {
                Some((event["index"].as_u64()?, u32::try_from(event["sub"].as_u64()?).ok()?))
            })?,
            head_index: body["head_index"].as_u64()?,
            next_after: body["next_after"].as_u64()?,
        }),
    })
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A SKU's terms.
pub fn read_sku(body: &Value) -> Option<Sku> {
    Some(Sku {
        id: text(&body["id"])?,
        code: text(&body["sku_code"])?,
        price: body["price"]["amount"].as_i64()?,
        sellable: body["sellable"].as_bool()?,
        version: body["version"].as_u64()?,
    })
}

/// A SKU's units.
pub fn read_stock(body: &Value) -> Option<Stock> {
    Some(Stock {
        sku: text(&body["sku_id"])?,
        on_hand: body["on_hand"].as_u64()?,
        reserved: body["reserved"].as_u64()?,
        available: body["available"].as_u64()?,
        version: body["version"].as_u64()?,
    })
}

/// An account as `/accounts` shows it; without a wallet it has no money.
pub fn read_account(body: &Value) -> Option<Account> {
    let wallets = body["wallets"].as_array()?;
    let (balance, held) = match wallets.iter().find(|wallet| wallet["currency"] == CURRENCY) {
        Some(wallet) => (wallet["balance"]["amount"].as_i64()?, wallet["held"]["amount"].as_i64()?),
        None => (0, 0),
    };
    Some(Account { id: text(&body["id"])?, balance, held, version: body["version"].as_u64()? })
}

/// An account as `/wallets` shows it.
fn read_wallet(body: &Value) -> Option<Account> {
    Some(Account {
        id: text(&body["account_id"])?,
        balance: body["balance"]["amount"].as_i64()?,
        held: body["held"]["amount"].as_i64()?,
        version: body["version"].as_u64()?,
    })
}

/// An order.
pub fn read_order(body: &Value) -> Option<Order> {
    Some(Order {
        id: text(&body["id"])?,
        account: text(&body["user_id"])?,
        status: text(&body["status"])?,
        total: body["totals"]["grand_total"]["amount"].as_i64()?,
        lines: list(&body["lines"], |line| {
            Some(OrderLine {
                sku: text(&line["sku_id"])?,
                quantity: u32::try_from(line["quantity"].as_u64()?).ok()?,
                unit_price: line["unit_price"]["amount"].as_i64()?,
            })
        })?,
        version: body["version"].as_u64()?,
        no_change: body["no_change"] == true,
        steps: list(&body["history"], |step| Some((text(&step["status"])?, step["log_index"].as_u64()?)))?,
    })
}

/// Debits and credits of a trial balance.
pub fn read_totals(body: &Value) -> Option<(i64, i64)> {
    let totals = body["totals"].as_array()?;
    match totals.iter().find(|total| total["currency"] == CURRENCY) {
        Some(total) => Some((total["debit"].as_i64()?, total["credit"].as_i64()?)),
        None => Some((0, 0)),
    }
}

/// A definite no, with both sides of the comparison.
pub fn read_refusal(problem: &Value) -> Refusal {
    let details = &problem["details"];
    let shortages = list(&details["shortages"], |short| {
        Some(Shortage {
            sku: text(&short["sku_id"])?,
            requested: short["requested"].as_u64()?,
            available: short["available"].as_u64()?,
        })
    });
    let amount = |name: &str| details[name]["amount"].as_i64();
    Refusal {
        code: problem["code"].as_str().unwrap_or("?").to_owned(),
        shortages: shortages.unwrap_or_default(),
        money: amount("requested").zip(amount("available")),
        transition: text(&details["status"]).zip(text(&details["requested"])),
        versions: details["expected_version"].as_u64().zip(details["current_version"].as_u64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: Value) -> Result<HttpResponse, SendError> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(HttpResponse { status, headers, body: Bytes::from(body.to_string()) })
    }

    fn word(answered: &Answered) -> &'static str {
        match answered.reply {
            Reply::Yes { .. } => "yes",
            Reply::Refused { .. } => "refused",
            Reply::NotDone { .. } => "not done",
            Reply::Unknown { .. } => "unknown",
        }
    }

    #[test]
    fn unknown_is_whatever_does_not_say_no() {
        let op = Op::Pay { order: "ord_1".to_owned() };
        let index: &[(&str, &str)] = &[("X-Log-Index", "7")];
        for (expected, answer) in [
            ("not done", Err(SendError::NotSent("refused".to_owned()))),
            ("unknown", Err(SendError::Lost("reset".to_owned()))),
            ("unknown", Err(SendError::TimedOut)),
            ("refused", response(409, index, json!({"code": "INVALID_TRANSITION", "applied": false}))),
            ("refused", response(404, index, json!({"code": "NOT_FOUND", "applied": false}))),
            ("not done", response(404, &[], json!({"code": "NOT_FOUND", "applied": false}))),
            ("not done", response(422, &[], json!({"code": "IDEMPOTENCY_KEY_REUSED", "applied": false}))),
            ("not done", response(503, &[], json!({"code": "NO_LEADER", "applied": false}))),
            ("unknown", response(504, &[], json!({"code": "OUTCOME_UNKNOWN", "applied": "unknown"}))),
            ("unknown", response(503, &[], json!({"code": "OVERLOADED"}))),
            ("unknown", response(502, &[], json!("bad gateway"))),
            ("unknown", response(200, index, json!({"id": "ord_1"}))),
            ("unknown", response(302, &[], json!({}))),
        ] {
            assert_eq!(word(&understand(&op, &answer)), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_refusal_tells_both_sides() {
        let refusal = read_refusal(&json!({"code": "INVENTORY_SHORTAGE", "details": {
            "shortages": [{"sku_id": "sku_1", "requested": 6, "available": 4, "location_id": null}],
            "invalid_coupons": []}}));
        assert_eq!(refusal.shortages, [Shortage { sku: "sku_1".to_owned(), requested: 6, available: 4 }]);
        let refusal = read_refusal(&json!({"code": "INSUFFICIENT_BALANCE", "details": {
            "requested": money(9), "available": money(-2)}}));
        assert_eq!(refusal.money, Some((9, -2)));
        let refusal = read_refusal(&json!({"code": "INVALID_TRANSITION", "details": {
            "order_no": "1", "status": "PAID", "requested": "COMPLETED", "allowed_transitions": []}}));
        assert_eq!(refusal.transition, Some(("PAID".to_owned(), "COMPLETED".to_owned())));
        let refusal = read_refusal(&json!({"code": "VERSION_MISMATCH", "details": {
            "expected_version": 1, "current_version": 3, "current": {}}}));
        assert_eq!(refusal.versions, Some((1, 3)));
    }
}
