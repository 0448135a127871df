//! C9: nodes at the same index are the same.
//!
//! Equal digest and audit chain where their last checkpoint is the same, every entity equal where their index is, and
//! feeds equal event by event as far as both go. A chain value stands before an entry: it is one within the entry, and
//! another before the next.

use std::collections::BTreeMap;

use agora_history::{FeedEvent, NodeFinals, NodeId, RunData};

use crate::{Checked, report::Report};

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C9", "equal index, equal digest, equal feed");
    let nodes: Vec<(&NodeId, &NodeFinals)> = data.finals.nodes.iter().collect();
    for (at, (one, finals)) in nodes.iter().enumerate() {
        // The first node with the same place is enough: sameness is transitive.
        let digest_place = |other: &&(&NodeId, &NodeFinals)| place(other.1) == place(finals);
        if let Some((other, first)) = nodes[..at].iter().find(digest_place) {
            report.looked_at(1);
            if (&first.digest, &first.chain_head) != (&finals.digest, &finals.chain_head) {
                let what = format!(
                    "nodes {other} and {one} differ: digest {} and {}, chain {} and {}",
                    first.digest, finals.digest, first.chain_head, finals.chain_head
                );
                report.find(what, &[], Some(place(finals)));
            }
        }
        if let Some((other, first)) = nodes[..at].iter().find(|other| other.1.index == finals.index) {
            for what in differences(first, finals) {
                report.find(format!("nodes {other} and {one} differ: {what}"), &[], Some(finals.index));
            }
            report.looked_at((finals.orders.len() + finals.skus.len() + finals.accounts.len()) as u64);
        }
    }
    if nodes.len() < data.run.nodes.len() {
        report.figure("nodes_without_a_last_word", (data.run.nodes.len() - nodes.len()) as f64);
    }
    let feeds: Vec<(&NodeId, &Vec<FeedEvent>)> = data.feeds.iter().collect();
    if let Some((first_node, first)) = feeds.first() {
        chain(**first_node, first, &mut report);
        for (node, feed) in &feeds[1..] {
            same_feed((first_node, first), (node, feed), data, &mut report);
        }
    }
    report.done()
}

/// Where a node's digest and chain were taken. Histories without checkpoints have taken them at the end.
fn place(finals: &NodeFinals) -> u64 {
    if finals.digest_index == 0 { finals.index } else { finals.digest_index }
}

fn differences(one: &NodeFinals, other: &NodeFinals) -> Vec<String> {
    let mut wrong = differ(&one.skus, &other.skus);
    wrong.extend(differ(&one.stocks, &other.stocks));
    wrong.extend(differ(&one.accounts, &other.accounts));
    wrong.extend(differ(&one.orders, &other.orders));
    let (debits, credits) = ((one.debits, one.credits), (other.debits, other.credits));
    if debits != credits {
        wrong.push(format!("(debits, credits) {debits:?} and {credits:?}"));
    }
    wrong
}

fn differ<T: PartialEq + std::fmt::Debug>(one: &BTreeMap<String, T>, other: &BTreeMap<String, T>) -> Vec<String> {
    if one == other {
        return Vec::new();
    }
    let changed = one.iter().filter(|(id, value)| other.get(*id) != Some(value));
    let added = other.iter().filter(|(id, _)| !one.contains_key(*id));
    let changed = changed.map(|(id, value)| format!("{id} is {value:?} and {:?}", other.get(id)));
    changed.chain(added.map(|(id, value)| format!("{id} is not there and {value:?}"))).collect()
}

/// One chain value per entry, and never the same one again.
fn chain(node: NodeId, feed: &[FeedEvent], report: &mut Report) {
    for pair in feed.windows(2) {
        let same_entry = pair[0].index == pair[1].index;
        if same_entry != (pair[0].prev_hash == pair[1].prev_hash) {
            let what = format!(
                "node {node}: chain {} before entry {}, {} before entry {}",
                pair[0].prev_hash, pair[0].index, pair[1].prev_hash, pair[1].index
            );
            report.find(what, &[], Some(pair[1].index));
        }
    }
}

/// Equal as far as both nodes had come.
fn same_feed(
    (one, first): (&NodeId, &Vec<FeedEvent>),
    (other, feed): (&NodeId, &Vec<FeedEvent>),
    data: &RunData,
    report: &mut Report,
) {
    let end = |node: &NodeId, feed: &Vec<FeedEvent>| {
        let told = data.finals.nodes.get(node).map_or(0, |finals| finals.index);
        told.max(feed.last().map_or(0, |event| event.index))
    };
    let both = end(one, first).min(end(other, feed));
    let part = |feed: &Vec<FeedEvent>| feed.partition_point(|event| event.index <= both);
    let (mine, theirs) = (&first[..part(first)], &feed[..part(feed)]);
    report.looked_at(theirs.len() as u64);
    if let Some((here, there)) = mine.iter().zip(theirs).find(|(here, there)| here != there) {
        let what = format!("feeds of nodes {one} and {other} differ: {here:?} and {there:?}");
        report.find(what, &[], Some(here.index.min(there.index)));
    } else if mine.len() != theirs.len() {
        let what = format!("up to {both} node {one} tells {} events, node {other} {}", mine.len(), theirs.len());
        report.find(what, &[], Some(both));
    }
}
