//! C5: what was acknowledged is there, exactly once: in every node's feed, and at the end.
//!
//! Looks at identities only, so that it holds even where the model of C1 is mistaken: the trace id of an acknowledged
//! write is in one entry, the one it was told; the order, SKU or account it made was made once and is there at the end,
//! and a step of an order that was told is one of its steps for ever.

use std::collections::{BTreeMap, HashMap};

use agora_history::{Answer, Call, FeedEvent, Item, NodeId, Op, Order, Reply, RunData};

use crate::{Checked, report::Report};

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C5", "every acknowledged write is there, exactly once");
    let acknowledged: Vec<&Call> =
        data.calls.iter().filter(|call| call.request.is_write() && matches!(call.reply, Reply::Yes { .. })).collect();
    report.looked_at(acknowledged.len() as u64);
    for (node, feed) in &data.feeds {
        in_feed(*node, feed, &acknowledged, &mut report);
    }
    for (node, finals) in &data.finals.nodes {
        for call in &acknowledged {
            if call.index.is_some_and(|index| index > finals.index) {
                let what = format!("node {node} ends at {}, before what was acknowledged", finals.index);
                report.find(what, &[call.op], call.index);
            }
            let Reply::Yes { answer, .. } = &call.reply else { continue };
            let lost = match answer {
                Answer::Sku(sku) => !finals.skus.contains_key(&sku.id) || !finals.stocks.contains_key(&sku.id),
                Answer::Account(account) => !finals.accounts.contains_key(&account.id),
                Answer::Stocks(stocks) => stocks.iter().any(|stock| !finals.stocks.contains_key(&stock.sku)),
                _ => !orders(answer).all(|order| is_kept(order, finals.orders.get(&order.id))),
            };
            if lost {
                report.find(format!("node {node} has lost {answer:?}"), &[call.op], call.index);
            }
        }
    }
    report.done()
}

fn orders(answer: &Answer) -> impl Iterator<Item = &Order> {
    let (one, many) = match answer {
        Answer::Order(order) => (Some(order), [].as_slice()),
        Answer::Orders(items) => (None, items.as_slice()),
        _ => (None, [].as_slice()),
    };
    one.into_iter().chain(many.iter().filter_map(|item| match item {
        Item::Order(order) => Some(order),
        Item::Refused(_) => None,
    }))
}

/// What was bought stays as it was, and what was told of its life is the beginning of it.
fn is_kept(told: &Order, now: Option<&Order>) -> bool {
    now.is_some_and(|now| {
        let same = (&told.account, told.total, &told.lines) == (&now.account, now.total, &now.lines);
        same && now.steps.starts_with(&told.steps)
    })
}

#[derive(Default)]
struct Trace {
    /// Index of each entry that names it; more than one is a second effect.
    entries: Vec<u64>,
    orders: u32,
}

fn in_feed(node: NodeId, feed: &[FeedEvent], acknowledged: &[&Call], report: &mut Report) {
    let mut traces: HashMap<&str, Trace> = HashMap::new();
    let mut made: BTreeMap<&str, u32> = BTreeMap::new();
    for event in feed {
        let trace = traces.entry(event.trace_id.as_str()).or_default();
        if trace.entries.last() != Some(&event.index) {
            trace.entries.push(event.index);
        }
        match event.kind.as_str() {
            "order.order.created" => trace.orders += 1,
            "catalog.sku.created" | "customer.account.created" => {}
            _ => continue,
        }
        let times = made.entry(event.aggregate_id.as_str()).or_default();
        *times += 1;
        if *times == 2 {
            report.find(format!("node {node}: {} was made twice", event.aggregate_id), &[], Some(event.index));
        }
    }
    for call in acknowledged {
        let Reply::Yes { answer, .. } = &call.reply else { continue };
        let Some(index) = call.index else {
            report.find("acknowledged without an index", &[call.op], None);
            continue;
        };
        let trace = traces.get(call.trace.as_str());
        let entries = trace.map(|trace| trace.entries.as_slice()).unwrap_or_default();
        if entries.is_empty() && may_be_so_already(&call.request, answer) {
            continue;
        }
        if entries != [index] {
            let what = format!("node {node}: acknowledged at {index}, the feed has it at {entries:?}");
            report.find(what, &[call.op], Some(index));
        }
        if matches!(call.request, Op::Place(_) | Op::PlaceBatch(_)) {
            let told = orders(answer).count() as u32;
            let there = trace.map_or(0, |trace| trace.orders);
            if told != there {
                let what = format!("node {node}: {told} orders were acknowledged, {there} were placed");
                report.find(what, &[call.op], Some(index));
            }
        }
        let unmade = match (&call.request, answer) {
            (Op::CreateSku { .. }, Answer::Sku(sku)) => !made.contains_key(sku.id.as_str()),
            (Op::CreateAccount { .. }, Answer::Account(account)) => !made.contains_key(account.id.as_str()),
            _ => orders(answer).any(|order| !made.contains_key(order.id.as_str())),
        };
        if unmade {
            report.find(format!("node {node}: the feed does not make {answer:?}"), &[call.op], Some(index));
        }
    }
}

/// A yes that needs no event: nothing was to be changed, or no item of the batch could be placed.
fn may_be_so_already(request: &Op, answer: &Answer) -> bool {
    match (request, answer) {
        (Op::ChangeSku { .. }, _) => true,
        (Op::PlaceBatch(_), answer) => orders(answer).next().is_none(),
        (_, Answer::Order(order)) => order.no_change,
        _ => false,
    }
}
