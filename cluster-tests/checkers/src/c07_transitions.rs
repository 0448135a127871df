//! C7: an order only takes steps that there are, each once.
//!
//! ```text
//! CREATED -> PAID -> SHIPPED -> COMPLETED
//!    |        |
//!    +--------+-> CANCELLED
//! ```
//!
//! Looks at every order's events, and at every order that was ever told: its steps begin with CREATED, follow the lines
//! of the drawing, none in an entry before the one before it, and are those of the feed.

use std::collections::HashMap;

use agora_history::{Answer, Item, Order, Reply, RunData};

use crate::{
    Checked,
    report::Report,
    words::{Fact, Status, fact, longest_feed},
};

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C7", "only legal transitions, each once");
    let mut lives: HashMap<&str, Vec<(Status, u64)>> = HashMap::new();
    for event in longest_feed(data) {
        let (order, to) = match fact(event) {
            Some(Fact::Placed { order, .. }) => (order, Status::Created),
            Some(Fact::Moved { order, to, .. }) => (order, to),
            _ => continue,
        };
        report.looked_at(1);
        let life = lives.entry(order).or_default();
        let is_legal = match life.last() {
            None => to == Status::Created,
            Some((from, before)) => from.may_become(to) && event.index >= *before,
        };
        if !is_legal {
            let what = format!("{order} becomes {} after {life:?}", to.name());
            report.find(what, &[], Some(event.index));
        }
        life.push((to, event.index));
        if event.aggregate_version != life.len() as u64 {
            let what = format!("step {} of {order} says version {}", life.len(), event.aggregate_version);
            report.find(what, &[], Some(event.index));
        }
    }
    for call in &data.calls {
        let Reply::Yes { answer, .. } = &call.reply else { continue };
        let items = match answer {
            Answer::Orders(items) => items.as_slice(),
            _ => &[],
        };
        let one = match answer {
            Answer::Order(order) => Some(order),
            _ => None,
        };
        let many = items.iter().filter_map(|item| match item {
            Item::Order(order) => Some(order),
            Item::Refused(_) => None,
        });
        for order in one.into_iter().chain(many) {
            report.looked_at(1);
            if let Err(why) = told(order, lives.get(order.id.as_str())) {
                report.find(format!("{}: {why}", order.id), &[call.op], call.index);
            }
        }
    }
    for (node, finals) in &data.finals.nodes {
        for (id, order) in &finals.orders {
            report.looked_at(1);
            if let Err(why) = told(order, lives.get(id.as_str())) {
                report.find(format!("node {node} at the end, {id}: {why}"), &[], Some(finals.index));
            }
        }
    }
    report.done()
}

/// An order as it was told, against its life in the feed.
fn told(order: &Order, life: Option<&Vec<(Status, u64)>>) -> Result<(), String> {
    let steps: Option<Vec<(Status, u64)>> =
        order.steps.iter().map(|(status, index)| Some((Status::of(status)?, *index))).collect();
    let steps = steps.filter(|steps| !steps.is_empty()).ok_or_else(|| format!("steps {:?}", order.steps))?;
    let legal = |pair: &[(Status, u64)]| pair[0].0.may_become(pair[1].0) && pair[0].1 <= pair[1].1;
    if steps[0].0 != Status::Created || !steps.windows(2).all(legal) {
        return Err(format!("illegal steps {steps:?}"));
    }
    let last = steps[steps.len() - 1].0;
    if last.name() != order.status || order.version != steps.len() as u64 {
        return Err(format!("{} at version {} after {steps:?}", order.status, order.version));
    }
    match life {
        Some(life) if life.starts_with(&steps) => Ok(()),
        life => Err(format!("steps {steps:?}, and the feed has {life:?}")),
    }
}
