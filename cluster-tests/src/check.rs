//! What must hold afterwards, judged from outside.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::{Call, Client},
    cluster::{Cluster, SETTLE_TIMEOUT},
    shop::{create_account, number, read, text},
};

/// Changes read per page of the feed.
const PAGE: usize = 1_000;

/// Waits until all running nodes report equal digests at a common checkpoint at or after `index`.
///
/// A node that was just rebuilt has no checkpoint of its own until the next one is written, and an idle cluster writes
/// none: so a small write is made now and then.
///
/// # Panics
/// When two digests at one index differ, or nodes do not come together in time.
pub async fn wait_equal_digests(cluster: &Cluster, client: &Client, index: u64) {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut seen: BTreeMap<u64, BTreeMap<u64, String>> = BTreeMap::new();
    let mut polls = 0;
    loop {
        let running = cluster.running();
        let mut statuses = Vec::new();
        for id in &running {
            if let Some(status) = cluster.status_of(client, *id).await {
                collect_digests(&status, &mut seen);
                statuses.push(status);
            }
        }
        for (at, digests) in &seen {
            let mut values: Vec<&String> = digests.values().collect();
            values.dedup();
            assert!(values.len() <= 1, "digests differ at index {at}: {digests:?}");
        }
        let agreed = seen.range(index..).any(|(_, digests)| running.iter().all(|id| digests.contains_key(id)));
        if agreed {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no common checkpoint at or after index {index} within {SETTLE_TIMEOUT:?}; seen {seen:?}; statuses {statuses:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        polls += 1;
        if polls % 10 == 0 {
            create_account(client, "nobody, to move the log").await;
        }
    }
}

/// Notes what a status says of each member's digest at its last checkpoint.
fn collect_digests(status: &Value, seen: &mut BTreeMap<u64, BTreeMap<u64, String>>) {
    for member in status["members"].as_array().into_iter().flatten() {
        let (id, checkpoint) = (member["id"].as_u64(), &member["checkpoint"]);
        if let (Some(id), Some(at), Some(digest)) = (id, checkpoint["index"].as_u64(), checkpoint["digest"].as_str()) {
            seen.entry(at).or_default().insert(id, digest.to_owned());
        }
    }
}

/// The whole feed as one node serves it, after `after`, up to the index `until`.
pub async fn feed(client: &Client, node: u64, after: u64, until: u64) -> Vec<Value> {
    let mut changes: Vec<Value> = Vec::new();
    let mut after = after;
    loop {
        let call = Call::get(&format!("/changes?after={after}&limit={PAGE}")).consistency("local").min_index(until);
        let page = read(client, node, &call).await;
        let rows = page["data"].as_array().unwrap_or_else(|| panic!("no data in {page}"));
        let Some(last) = rows.last() else { return changes };
        after = number(last, "index");
        changes.extend(rows.iter().filter(|row| number(row, "index") <= until).cloned());
        if after >= until {
            return changes;
        }
    }
}

/// A SKU as folded from the feed by this bench's own arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Received.
    pub received: i128,
    /// Corrected.
    pub adjusted: i128,
    /// Promised now.
    pub reserved: i128,
    /// Gone to buyers.
    pub shipped: i128,
    /// In the warehouse by the last event.
    pub on_hand: i128,
}

/// Folds the feed and checks it at every event: indexes rise, places within an entry are gap-free, each event's figures
/// before it are the last event's figures after it, and `received + adjusted = on_hand + shipped`,
/// `0 ≤ reserved ≤ on_hand` hold after it.
///
/// # Panics
/// At the first event for which one of them does not hold.
pub fn fold_feed(changes: &[Value]) -> BTreeMap<String, Folded> {
    let mut skus: BTreeMap<String, Folded> = BTreeMap::new();
    let mut place = (0, 0);
    for change in changes {
        let (index, sub) = (number(change, "index"), number(change, "sub"));
        let next = if index == place.0 { (index, place.1 + 1) } else { (index, 1) };
        assert!(index >= place.0, "the feed goes back from {place:?} to ({index}, {sub})");
        assert_eq!((index, sub), next, "the feed has a gap after {place:?}");
        place = next;
        let Some(movement) = change.get("stock").filter(|movement| movement.is_object()) else { continue };
        let sku = skus.entry(text(change, "aggregate_id")).or_default();
        let figure = |field: &str| i128::from(number(movement, field));
        assert_eq!(figure("on_hand_pre"), sku.on_hand, "on hand before {change}");
        assert_eq!(figure("reserved_pre"), sku.reserved, "reserved before {change}");
        let on_hand_delta = figure("on_hand_post") - figure("on_hand_pre");
        let reserved_delta = figure("reserved_post") - figure("reserved_pre");
        match text(change, "type").rsplit('.').next().unwrap_or_default() {
            "received" => sku.received += on_hand_delta,
            "adjusted" => sku.adjusted += on_hand_delta,
            "shipped" | "deducted" => sku.shipped -= on_hand_delta,
            "reserved" | "released" => assert_eq!(on_hand_delta, 0, "a promise moved goods: {change}"),
            other => panic!("stock moved by {other}: {change}"),
        }
        sku.on_hand += on_hand_delta;
        sku.reserved += reserved_delta;
        assert!(0 <= sku.reserved && sku.reserved <= sku.on_hand, "promised more than is there after {change}");
        assert_eq!(sku.received + sku.adjusted, sku.on_hand + sku.shipped, "units appeared or vanished by {change}");
    }
    skus
}

/// Every node's feed from the beginning to `until` is the same, and folds.
///
/// # Panics
/// When two nodes tell different stories.
pub async fn equal_feeds(cluster: &Cluster, client: &Client, until: u64) -> BTreeMap<String, Folded> {
    let running = cluster.running();
    let first = feed(client, running[0], 0, until).await;
    for id in &running[1..] {
        let other = feed(client, *id, 0, until).await;
        let differing = first.iter().zip(&other).find(|(left, right)| left != right);
        assert!(differing.is_none(), "nodes {} and {id} tell different stories: {differing:?}", running[0]);
        assert_eq!(first.len(), other.len(), "nodes {} and {id} tell stories of different length", running[0]);
    }
    fold_feed(&first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn moved(place: (u64, u64), kind: &str, on_hand: (u64, u64), reserved: (u64, u64)) -> Value {
        json!({"index": place.0, "sub": place.1, "type": format!("inventory.stock.{kind}"), "aggregate_id": "sku_1",
            "stock": {"on_hand_pre": on_hand.0, "on_hand_post": on_hand.1,
                "reserved_pre": reserved.0, "reserved_post": reserved.1}})
    }

    #[test]
    fn an_honest_feed_folds() {
        let feed = [
            moved((3, 1), "received", (0, 5), (0, 0)),
            moved((4, 1), "reserved", (5, 5), (0, 2)),
            moved((4, 2), "reserved", (5, 5), (2, 5)),
            moved((9, 1), "released", (5, 5), (5, 3)),
            moved((9, 2), "deducted", (5, 2), (3, 0)),
            moved((12, 1), "adjusted", (2, 1), (0, 0)),
        ];
        let expected = Folded { received: 5, adjusted: -1, reserved: 0, shipped: 3, on_hand: 1 };
        assert_eq!(fold_feed(&feed)["sku_1"], expected);
    }

    #[test]
    fn each_kind_of_broken_feed_is_seen() {
        let received = moved((3, 1), "received", (0, 5), (0, 0));
        let broken = [
            ("oversold", moved((4, 1), "reserved", (5, 5), (0, 6))),
            ("a lost event", moved((4, 1), "reserved", (5, 5), (1, 2))),
            ("a gap in the entry", moved((4, 2), "reserved", (5, 5), (0, 1))),
            ("an event twice", received.clone()),
            ("backwards", moved((2, 1), "reserved", (5, 5), (0, 1))),
            ("a promise that moves goods", moved((4, 1), "reserved", (5, 4), (0, 0))),
            ("goods out of nothing", moved((4, 1), "created", (5, 9), (0, 0))),
        ];
        for (what, event) in broken {
            let feed = [received.clone(), event];
            assert!(std::panic::catch_unwind(|| fold_feed(&feed)).is_err(), "not seen: {what}");
        }
    }
}
