//! `/changes`: everything that happened, in the order in which it happened, without gaps.
//!
//! A reader remembers `next_after` and asks again from there; whole entries are answered, so that a place in the feed
//! is one number. With `wait` the answer is held back until there is something, or the time is over. When the feed has
//! been cut behind the place that was asked for, the answer is 410: the reader takes the present state and goes on
//! from `head_index`.

use std::time::Duration;

use agora_actors::{FeedItem, ReadView};
use agora_domain::{
    AccountEvent, Change, ClaimEvent, Money, OrderEvent, OrderId, OrderStatus, SkuEvent, SkuId, SkuTerms, order::Line,
};
use agora_planted::{self as planted, Bug};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    auth::Access,
    endpoint::{Call, Endpoint},
    headers::{Reading, duration},
    problem::{Code, Details, FieldError, Outcome, Problem, Success},
    reply::Reply,
    views::{Text, Time, Trace, account_kind, cause},
};

/// The longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Events of one answer unless the request says otherwise. The last entry is answered whole, so it may be more.
pub const EVENTS_DEFAULT: usize = 100;
/// Events of one answer that may be asked for.
pub const EVENTS_MAX: usize = 1_000;
/// Event types one request may name.
const TYPES_MAX: usize = 50;
/// Pages without a wanted event that one request may pass over before it says how far it came.
const PASSES_MAX: usize = 10;
/// Pause between looks for events of wanted types.
const FILTER_PAUSE: Duration = Duration::from_millis(20);
/// Event types that can occur, for the refusal of one that cannot.
const TYPES: [&str; 20] = [
    "catalog.sku.created",
    "catalog.sku.changed",
    "catalog.sku_code.taken",
    "inventory.stock.received",
    "inventory.stock.adjusted",
    "inventory.stock.reserved",
    "inventory.stock.released",
    "inventory.stock.deducted",
    "order.order.created",
    "order.order.paid",
    "order.order.shipped",
    "order.order.completed",
    "order.order.cancelled",
    "customer.account.created",
    "wallet.balance.adjusted",
    "wallet.balance.held",
    "wallet.balance.released",
    "wallet.balance.captured",
    "wallet.balance.paid",
    "wallet.balance.refunded",
];

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v2/changes", Access::Shop, "listChanges", list)
            .about("Events behind a log index, ordered and gap-free; with `wait`, a long poll.")
            .reads(&["after", "limit", "wait", "types"])
            .gives("Changes"),
    ]
}

#[derive(Serialize)]
struct ChangesView {
    data: Vec<EventView>,
    /// Index of the newest entry this node has applied.
    head_index: u64,
    /// What to ask for next.
    next_after: u64,
}

#[derive(Serialize)]
struct EventView {
    index: u64,
    sub: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Of the shape of `data`.
    version: u32,
    aggregate: &'static str,
    aggregate_id: String,
    aggregate_version: u64,
    time: Time,
    data: Value,
    /// Figures before and after, where the event is about stock.
    #[serde(skip_serializing_if = "Option::is_none")]
    stock: Option<StockMoveView>,
    trace_id: Text<Trace>,
    /// The audit chain before this entry.
    prev_hash: String,
}

#[derive(Serialize)]
struct StockMoveView {
    on_hand_pre: u64,
    on_hand_post: u64,
    reserved_pre: u64,
    reserved_post: u64,
}

struct Wanted {
    after: u64,
    limit: usize,
    wait: Duration,
    types: Vec<&'static str>,
}

fn wanted(call: &Call) -> Outcome<Wanted> {
    let query = call.query()?;
    let after = query.read("after", "a log index such as 120331", |text| text.parse().ok())?;
    let limit = query.read("limit", &format!("a whole number from 1 to {EVENTS_MAX}"), |text| {
        text.parse().ok().filter(|limit| (1..=EVENTS_MAX).contains(limit))
    })?;
    let wait =
        query.read("wait", "a duration of at most 30s", |text| duration(text).filter(|wait| *wait <= WAIT_MAX))?;
    let mut types = Vec::new();
    for name in query.get("types").into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty()) {
        let known = TYPES.into_iter().find(|known| *known == name);
        let Some(known) = known.filter(|_| types.len() < TYPES_MAX) else {
            let message = format!("types must be a comma-separated list of: {}", TYPES.join(", "));
            return Err(Problem::invalid(FieldError::parameter("types", "INVALID", message)));
        };
        types.push(known);
    }
    Ok(Wanted {
        after: after.unwrap_or(0),
        limit: limit.unwrap_or(EVENTS_DEFAULT),
        wait: wait.unwrap_or_default(),
        types,
    })
}

async fn list(call: Call) -> Outcome<Reply> {
    let mut wanted = wanted(&call)?;
    // One waiting reader costs a timer and a task; beyond the bound readers are answered at once and come back.
    let api = call.api.clone();
    let slot = if wanted.wait.is_zero() { None } else { api.metrics.polls.try_acquire().ok() };
    let mut until = Instant::now() + if slot.is_some() { wanted.wait } else { Duration::ZERO };
    let mut applied = api.shop.feed_wake();
    let mut stop = api.stop.subscribe();
    loop {
        applied.mark_unchanged();
        let view = call.view(Reading::Many).await?;
        let head_index = if planted::is(Bug::FeedFromUncommittedTail) {
            api.shop.cluster().status().last_log.max(view.index())
        } else {
            view.index()
        };
        let body = page(&view, head_index, &mut wanted)?;
        let has_something = !body.data.is_empty() || body.next_after < body.head_index;
        if has_something || Instant::now() >= until {
            return Ok(Reply::json(Success::Ok, &body).read(view.index(), view.staleness()));
        }
        drop(view);
        tokio::select! {
            _ = tokio::time::timeout_at(until, applied.changed()) => {}
            _ = stop.wait_for(|stop| *stop) => until = Instant::now(),
        }
        if !wanted.types.is_empty() {
            // Who wants few of many events is not woken for each entry.
            tokio::time::sleep(FILTER_PAUSE).await;
        }
    }
}

/// Reads on from `wanted.after`, which moves over what was looked at and not wanted, up to the last applied entry.
fn page(view: &ReadView, head_index: u64, wanted: &mut Wanted) -> Outcome<ChangesView> {
    let oldest = view.feed_oldest().map_err(Problem::storage)?;
    if wanted.after.saturating_add(1) < oldest && is_cut(view, oldest)? {
        return Err(truncated(oldest, head_index));
    }
    let mut data = Vec::new();
    for _ in 0..PASSES_MAX {
        let items = view.feed(wanted.after, wanted.limit).map_err(Problem::storage)?;
        let is_last = items.len() < wanted.limit;
        let last = items.last().map(|item| item.index);
        // Entries without events (a leader's first, a checkpoint) are passed over with the last page.
        wanted.after = if is_last { head_index.max(wanted.after) } else { last.unwrap_or(head_index) };
        data.extend(
            items.into_iter().map(event).filter(|event| wanted.types.is_empty() || wanted.types.contains(&event.kind)),
        );
        if is_last || !data.is_empty() {
            break;
        }
    }
    Ok(ChangesView { data, head_index, next_after: wanted.after })
}

/// Whether something was removed from the feed before its oldest entry: the audit chain of a whole one starts at zero.
fn is_cut(view: &ReadView, oldest: u64) -> Outcome<bool> {
    let items = view.feed(0, 1).map_err(Problem::storage)?;
    Ok(items.first().is_some_and(|first| first.index == oldest && first.prev_head != [0; 32]))
}

fn truncated(oldest: u64, head_index: u64) -> Box<Problem> {
    let oldest_after = oldest.saturating_sub(1);
    let detail = format!("the feed begins behind index {oldest_after}");
    Problem::new(Code::FeedTruncated, detail).with(Details::Feed {
        oldest_after,
        head_index,
        hint: "read the present state with Min-Index set to head_index, then go on with after=head_index",
    })
}

fn event(item: FeedItem) -> EventView {
    let Told { kind, aggregate, aggregate_id, data } = tell(&item.fact.change);
    EventView {
        index: item.index,
        sub: item.sub,
        kind,
        version: 1,
        aggregate,
        aggregate_id,
        aggregate_version: item.fact.version,
        time: Time(item.time_ms),
        data,
        stock: item.fact.stock.map(|stock| StockMoveView {
            on_hand_pre: stock.on_hand_pre,
            on_hand_post: stock.on_hand_post,
            reserved_pre: stock.reserved_pre,
            reserved_post: stock.reserved_post,
        }),
        trace_id: Text(Trace(item.fact.trace)),
        prev_hash: hex(&item.prev_head),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One event in the API's words.
struct Told {
    kind: &'static str,
    aggregate: &'static str,
    aggregate_id: String,
    data: Value,
}

fn tell(change: &Change) -> Told {
    let (aggregate, aggregate_id, (kind, data)) = match change {
        Change::Sku(id, event) => ("sku", id.to_string(), tell_sku(event)),
        Change::Order(id, event) => ("order", id.to_string(), tell_order(event)),
        Change::Account(id, event) => ("account", id.to_string(), tell_account(event)),
        Change::Claim(id, ClaimEvent::Taken { name, owner }) => {
            // Only SKU codes are claimed so far, so the owner is a SKU.
            let data = json!({"name": name, "owner": SkuId(*owner).to_string()});
            ("claim", id.to_string(), ("catalog.sku_code.taken", data))
        }
    };
    Told { kind, aggregate, aggregate_id, data }
}

fn money(money: &Money) -> Value {
    json!({"amount": money.minor, "currency": money.currency.as_str()})
}

fn terms(terms: &SkuTerms) -> Value {
    json!({
        "sku_code": terms.code,
        "name": terms.name,
        "price": money(&terms.price),
        "sellable": terms.sellable,
    })
}

fn of_order(order: OrderId, name: &str, value: &Value) -> Value {
    json!({"order_id": order.to_string(), "order_no": order.number(), name: value})
}

fn tell_sku(event: &SkuEvent) -> (&'static str, Value) {
    match event {
        SkuEvent::Created { terms: now, .. } => ("catalog.sku.created", terms(now)),
        SkuEvent::Changed { terms: now } => ("catalog.sku.changed", terms(now)),
        SkuEvent::Received { quantity, reason } => {
            ("inventory.stock.received", json!({"quantity": quantity, "reason": reason}))
        }
        SkuEvent::Adjusted { delta, reason } => ("inventory.stock.adjusted", json!({"delta": delta, "reason": reason})),
        SkuEvent::Reserved { order, quantity } => {
            ("inventory.stock.reserved", of_order(*order, "quantity", &json!(quantity)))
        }
        SkuEvent::Released { order, quantity } => {
            ("inventory.stock.released", of_order(*order, "quantity", &json!(quantity)))
        }
        SkuEvent::Shipped { order, quantity } => {
            ("inventory.stock.deducted", of_order(*order, "quantity", &json!(quantity)))
        }
    }
}

fn tell_order(event: &OrderEvent) -> (&'static str, Value) {
    match event {
        OrderEvent::Placed { id, account, lines, total, held, ttl_ms, note } => {
            let line = |line: &Line| {
                json!({
                    "sku_id": line.sku.to_string(),
                    "sku_code": line.code,
                    "quantity": line.quantity,
                    "unit_price": money(&line.unit_price),
                    "total": money(&line.total),
                })
            };
            let data = json!({
                "order_id": id.to_string(),
                "order_no": id.number(),
                "user_id": account.to_string(),
                "lines": lines.iter().map(line).collect::<Vec<_>>(),
                "grand_total": money(total),
                "held": held,
                "ttl_ms": ttl_ms,
                "note": note,
            });
            ("order.order.created", data)
        }
        OrderEvent::Moved { to, cause: why, note } => {
            let kind = match to {
                OrderStatus::Created => "order.order.created",
                OrderStatus::Paid => "order.order.paid",
                OrderStatus::Shipped => "order.order.shipped",
                OrderStatus::Completed => "order.order.completed",
                OrderStatus::Cancelled => "order.order.cancelled",
            };
            (kind, json!({"status": to.as_str(), "cause": cause(*why), "note": note}))
        }
    }
}

fn tell_account(event: &AccountEvent) -> (&'static str, Value) {
    let of_order = |order: &OrderId, amount| of_order(*order, "amount", &money(amount));
    match event {
        AccountEvent::Created { kind, name, .. } => {
            ("customer.account.created", json!({"name": name, "kind": account_kind(*kind)}))
        }
        AccountEvent::Adjusted { amount, reason } => {
            ("wallet.balance.adjusted", json!({"amount": money(amount), "reason": reason}))
        }
        AccountEvent::Held { order, amount } => ("wallet.balance.held", of_order(order, amount)),
        AccountEvent::HoldReleased { order, amount } => ("wallet.balance.released", of_order(order, amount)),
        AccountEvent::Captured { order, amount } => ("wallet.balance.captured", of_order(order, amount)),
        AccountEvent::Paid { order, amount } => ("wallet.balance.paid", of_order(order, amount)),
        AccountEvent::Refunded { order, amount } => ("wallet.balance.refunded", of_order(order, amount)),
    }
}

#[cfg(test)]
mod tests {
    use agora_domain::{
        AccountId, Uid,
        fact::{Fact, StockMove},
    };

    use super::*;

    #[test]
    fn an_event_tells_where_when_what_and_why() {
        let change = Change::Sku(SkuId(Uid(5)), SkuEvent::Reserved { order: OrderId(Uid(6)), quantity: 2 });
        let stock = StockMove { on_hand_pre: 9, on_hand_post: 9, reserved_pre: 0, reserved_post: 2 };
        let fact = Fact { trace: 7, version: 3, change, stock: Some(stock) };
        let item = FeedItem { index: 12, sub: 1, time_ms: 0, prev_head: [0xab; 32], fact };
        assert_eq!(
            serde_json::to_value(event(item)).unwrap(),
            json!({
                "index": 12, "sub": 1, "type": "inventory.stock.reserved", "version": 1,
                "aggregate": "sku", "aggregate_id": "sku_00000000000000000000000005", "aggregate_version": 3,
                "time": "1970-01-01T00:00:00.000Z",
                "data": {
                    "order_id": "ord_00000000000000000000000006", "order_no": "00000000000000000000000006",
                    "quantity": 2,
                },
                "stock": {"on_hand_pre": 9, "on_hand_post": 9, "reserved_pre": 0, "reserved_post": 2},
                "trace_id": "00000000000000000000000000000007",
                "prev_hash": "ab".repeat(32),
            })
        );
    }

    #[test]
    fn a_taken_code_names_its_sku_as_every_other_answer_does() {
        let taken = ClaimEvent::Taken { name: "sku_code:T-1".to_owned(), owner: Uid(5) };
        let told = tell(&Change::Claim(agora_domain::ClaimId(Uid(7)), taken));
        assert_eq!(told.data, json!({"name": "sku_code:T-1", "owner": "sku_00000000000000000000000005"}));
    }

    #[test]
    fn every_type_that_is_told_can_be_asked_for() {
        let (order, amount) = (OrderId(Uid(1)), Money::new(1, agora_domain::Currency::CNY));
        let reason = String::new;
        let mut told = vec![
            tell_sku(&SkuEvent::Received { quantity: 1, reason: reason() }).0,
            tell_sku(&SkuEvent::Adjusted { delta: 1, reason: reason() }).0,
            tell_sku(&SkuEvent::Reserved { order, quantity: 1 }).0,
            tell_sku(&SkuEvent::Released { order, quantity: 1 }).0,
            tell_sku(&SkuEvent::Shipped { order, quantity: 1 }).0,
            tell_account(&AccountEvent::Adjusted { amount, reason: reason() }).0,
            tell_account(&AccountEvent::Held { order, amount }).0,
            tell_account(&AccountEvent::HoldReleased { order, amount }).0,
            tell_account(&AccountEvent::Captured { order, amount }).0,
            tell_account(&AccountEvent::Paid { order, amount }).0,
            tell_account(&AccountEvent::Refunded { order, amount }).0,
            tell_account(&AccountEvent::Created {
                id: AccountId(Uid(1)),
                kind: agora_domain::AccountKind::House,
                name: reason(),
            })
            .0,
        ];
        for to in OrderStatus::ALL {
            told.push(
                tell_order(&OrderEvent::Moved { to, cause: agora_domain::order::Cause::Expired, note: reason() }).0,
            );
        }
        for kind in told {
            assert!(TYPES.contains(&kind), "{kind}");
        }
    }
}
