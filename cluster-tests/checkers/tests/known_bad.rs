//! Histories that are known to be wrong: each breaks one promise in one place, and the checkers that keep that promise
//! must say so. The histories are true ones with one lie.

use std::collections::BTreeMap;

use agora_checkers::{
    Checked, all,
    testing::{Plan, each_feed, perfect_run},
};
use agora_history::{Answer, Call, FeedEvent, Item, Level, Op, Order, Outcome, Refusal, Reply, RunData, operations};
use serde_json::{Value, json};

fn verdicts(data: &RunData) -> BTreeMap<String, Checked> {
    all().into_iter().map(|checker| checker(data)).map(|checked| (checked.checker.clone(), checked)).collect()
}

/// Breaks a true history, and expects all of `checkers` to reject it.
#[track_caller]
fn caught_by(checkers: &[&str], lie: impl Fn(&mut RunData) -> Option<()>) {
    let mut data = perfect_run(&Plan { operations: 1_500, ..Plan::default() });
    let truth = format!("{data:?}");
    lie(&mut data).expect("the history has what is to be broken");
    assert!(format!("{data:?}") != truth, "the lie changed nothing");
    let verdicts = verdicts(&data);
    for name in checkers {
        let checked = verdicts.get(*name).expect("a checker");
        assert!(!checked.findings.is_empty(), "{name} found nothing: {checked:#?}");
    }
}

/// Calls whose write was acknowledged and took effect.
fn acknowledged(data: &RunData) -> impl Iterator<Item = (usize, &Call)> {
    let happened = |call: &Call| data.feeds[&1].iter().any(|event| event.trace_id == call.trace);
    data.calls
        .iter()
        .enumerate()
        .filter(move |(_, call)| call.key.is_some() && matches!(call.reply, Reply::Yes { .. }) && happened(call))
}

fn first(data: &RunData, wanted: impl Fn(&Call) -> bool) -> Option<(usize, Call)> {
    // Not the very first ones: a history in full swing is harder to judge.
    let (at, call) = acknowledged(data).filter(|(_, call)| wanted(call)).nth(3)?;
    Some((at, call.clone()))
}

fn is_place(call: &Call) -> bool {
    matches!(call.request, Op::Place(_))
}

fn order_of(reply: &mut Reply) -> Option<&mut Order> {
    match reply {
        Reply::Yes { answer: Answer::Order(order), .. } => Some(order),
        _ => None,
    }
}

fn refusal(reply: &Reply, code: &str) -> Option<Refusal> {
    match reply {
        Reply::Refused { refusal, .. } if refusal.code == code => Some(refusal.clone()),
        _ => None,
    }
}

/// Changes a refusal with that code, somewhere in the middle.
fn change_refusal(data: &mut RunData, code: &str, change: impl Fn(&mut Refusal) -> bool) -> Option<()> {
    for call in data.calls.iter_mut().skip(150) {
        if let Reply::Refused { refusal, .. } = &mut call.reply
            && refusal.code == code
            && change(refusal)
        {
            return Some(());
        }
    }
    None
}

/// Every entry begins with sub 1 and has no gap.
fn renumber(feed: &mut [FeedEvent]) {
    let (mut index, mut sub) = (0, 0);
    for event in feed {
        sub = if event.index == index { sub + 1 } else { 1 };
        (index, event.sub) = (event.index, sub);
    }
}

/// The n-th event of a kind, in every feed.
fn change_event(data: &mut RunData, kind: &str, nth: usize, change: impl Fn(&mut FeedEvent)) -> Option<()> {
    let mut found = None;
    each_feed(data, |feed| {
        let event = feed.iter_mut().filter(|event| event.kind == kind).nth(nth);
        found = event.map(&change);
    });
    found
}

fn remove_event(data: &mut RunData, kind: &str, nth: usize) -> Option<()> {
    let mut found = None;
    each_feed(data, |feed| {
        let at = feed.iter().enumerate().filter(|(_, event)| event.kind == kind).nth(nth).map(|(at, _)| at);
        found = at.map(|at| {
            feed.remove(at);
            renumber(feed);
        });
    });
    found
}

/// The events of a request once more, right behind (`None`) or in an entry at the end.
fn repeat(data: &mut RunData, trace: &str, at_the_end: bool) {
    each_feed(data, |feed| {
        let from = feed.iter().position(|event| event.trace_id == trace).expect("its events");
        let mut again: Vec<FeedEvent> = feed.iter().filter(|event| event.trace_id == trace).cloned().collect();
        let last = feed.last().cloned().expect("events");
        let to = from + again.len();
        if at_the_end {
            for event in &mut again {
                (event.index, event.time) = (last.index + 1, last.time.clone());
                event.prev_hash = "ab".repeat(32);
            }
            feed.extend(again);
        } else {
            feed.splice(to..to, again);
        }
        renumber(feed);
    });
}

// ------------------------------------------------------------------------------------------ lost, doubled, unasked

#[test]
fn a_lost_acknowledged_order() {
    caught_by(&["C1", "C5"], |data| {
        let (at, call) = first(data, is_place)?;
        let order = order_of(&mut data.calls[at].reply)?.id.clone();
        each_feed(data, |feed| {
            feed.retain(|event| event.trace_id != call.trace);
            renumber(feed);
        });
        data.finals.nodes.values_mut().for_each(|node| drop(node.orders.remove(&order)));
        Some(())
    });
}

#[test]
fn an_order_that_one_node_has_lost() {
    caught_by(&["C1", "C5", "C9"], |data| {
        let (at, _) = first(data, is_place)?;
        let order = order_of(&mut data.calls[at].reply)?.id.clone();
        data.finals.nodes.get_mut(&2)?.orders.remove(&order).map(drop)
    });
}

#[test]
fn an_order_that_all_nodes_have_forgotten_at_the_end() {
    caught_by(&["C1", "C5"], |data| {
        let (at, _) = first(data, is_place)?;
        let order = order_of(&mut data.calls[at].reply)?.id.clone();
        data.finals.nodes.values_mut().try_for_each(|node| node.orders.remove(&order).map(drop))
    });
}

#[test]
fn a_step_that_was_acknowledged_and_undone() {
    caught_by(&["C1", "C5", "C7"], |data| {
        let (at, _) = first(data, |call| matches!(call.request, Op::Pay { .. }))?;
        let id = order_of(&mut data.calls[at].reply)?.id.clone();
        data.finals.nodes.values_mut().try_for_each(|node| {
            let order = node.orders.get_mut(&id)?;
            order.steps.remove(1);
            Some(())
        })
    });
}

#[test]
fn a_second_effect_under_one_key() {
    caught_by(&["C1", "C5", "C6"], |data| {
        let (_, call) = first(data, |call| matches!(call.request, Op::Receive { .. }))?;
        repeat(data, &call.trace, true);
        Some(())
    });
}

#[test]
fn a_second_effect_in_the_same_entry() {
    caught_by(&["C1", "C4"], |data| {
        let (_, call) = first(data, |call| matches!(call.request, Op::AdjustWallet { .. }))?;
        repeat(data, &call.trace, false);
        Some(())
    });
}

#[test]
fn an_unknown_that_happened_twice() {
    caught_by(&["C1", "C6"], |data| {
        let calls = data.calls.clone();
        let unknown = operations(&calls).into_iter().filter(|operation| operation.outcome == Outcome::Unknown);
        let trace = unknown
            .map(|operation| operation.attempts[0].trace.clone())
            .find(|trace| data.feeds[&1].iter().any(|event| event.trace_id == *trace))?;
        repeat(data, &trace, true);
        Some(())
    });
}

#[test]
fn a_definite_no_that_happened() {
    caught_by(&["C1"], |data| {
        let (at, _) = first(data, |call| is_place(call) && call.attempt == 0)?;
        data.calls[at].reply = Reply::NotDone { status: 503, code: "NO_LEADER".to_owned() };
        data.calls[at].index = None;
        Some(())
    });
}

#[test]
fn a_refusal_that_happened() {
    caught_by(&["C1"], |data| {
        let (at, _) = first(data, |call| is_place(call) && call.attempt == 0)?;
        let refusal = Refusal { code: "NOT_FOUND".to_owned(), ..Refusal::default() };
        data.calls[at].reply = Reply::Refused { status: 404, refusal };
        Some(())
    });
}

#[test]
fn a_yes_that_never_happened() {
    caught_by(&["C1", "C5"], |data| {
        let (_, call) = first(data, |call| matches!(call.request, Op::AdjustWallet { .. }))?;
        let at = data.calls.iter().position(|other| {
            matches!(other.reply, Reply::Unknown { .. })
                && matches!(other.request, Op::AdjustWallet { .. } | Op::Place(_))
                && !data.feeds[&1].iter().any(|event| event.trace_id == other.trace)
        })?;
        data.calls[at].reply = call.reply;
        data.calls[at].index = call.index;
        Some(())
    });
}

#[test]
fn an_effect_that_nobody_asked_for() {
    caught_by(&["C1", "C5"], |data| {
        let (_, call) = first(data, |call| matches!(call.request, Op::Receive { .. }))?;
        each_feed(data, |feed| {
            for event in feed.iter_mut().filter(|event| event.trace_id == call.trace) {
                event.trace_id = "f".repeat(32);
            }
        });
        Some(())
    });
}

#[test]
fn an_altered_body_that_was_applied() {
    caught_by(&["C1", "C5", "C6"], |data| {
        let reused =
            |call: &Call| matches!(&call.reply, Reply::NotDone { code, .. } if code == "IDEMPOTENCY_KEY_REUSED");
        let altered = data.calls.iter().find(|call| reused(call))?.clone();
        let first =
            data.calls.iter().find(|call| call.key == altered.key && call.trace != altered.trace)?.trace.clone();
        each_feed(data, |feed| {
            for event in feed.iter_mut().filter(|event| event.trace_id == first) {
                event.trace_id.clone_from(&altered.trace);
            }
        });
        Some(())
    });
}

#[test]
fn two_requests_under_one_key_both_answered() {
    caught_by(&["C6"], |data| {
        let (at, _) = first(data, is_place)?;
        let key = data.calls[at].key.clone();
        let (other, _) = acknowledged(data).filter(|(_, call)| is_place(call)).nth(9)?;
        data.calls[other].key = key;
        Some(())
    });
}

/// A client asks once more under the key of an answered write, and gets the answer that `change` makes of the first.
fn asked_again(data: &mut RunData, change: impl Fn(&mut Call)) -> Option<()> {
    let (_, mut again) = first(data, is_place)?;
    again.attempt += 1;
    again.replayed = true;
    again.invoked = data.calls.last()?.returned + 10;
    again.returned = again.invoked + 100;
    change(&mut again);
    data.calls.push(again);
    Some(())
}

#[test]
fn asking_again_gets_the_same_answer() {
    let mut data = perfect_run(&Plan { operations: 1_500, ..Plan::default() });
    asked_again(&mut data, |_| ()).unwrap();
    for name in ["C1", "C4", "C5", "C6", "C7", "C9"] {
        assert!(verdicts(&data)[name].findings.is_empty(), "{:#?}", verdicts(&data)[name]);
    }
}

#[test]
fn an_answer_that_differs_by_a_byte_when_it_is_given_again() {
    caught_by(&["C6"], |data| asked_again(data, |again| again.body_hash = again.body_hash.map(|hash| hash ^ 1)));
}

#[test]
fn an_answer_that_names_another_entry_when_it_is_given_again() {
    caught_by(&["C5", "C6"], |data| asked_again(data, |again| again.index = again.index.map(|index| index + 1)));
}

#[test]
fn a_no_after_a_yes_under_one_key() {
    caught_by(&["C6"], |data| {
        asked_again(data, |again| {
            let refusal = Refusal { code: "INVENTORY_SHORTAGE".to_owned(), ..Refusal::default() };
            again.reply = Reply::Refused { status: 409, refusal };
        })
    });
}

// ------------------------------------------------------------------------------------------------- false refusals

#[test]
fn a_shortage_of_what_was_there() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INVENTORY_SHORTAGE", |refusal| {
            let short = &mut refusal.shortages[0];
            let higher = short.available + 1;
            let may = higher < short.requested;
            short.available = higher;
            may
        })
    });
}

#[test]
fn a_shortage_that_was_over_before_it_was_asked_for() {
    caught_by(&["C1"], |data| {
        // The same refusal, told of a request that came long after it.
        let end = data.calls.last()?.returned;
        let late = data.calls.iter_mut().skip(300).find(|call| {
            call.attempt == 0
                && refusal(&call.reply, "INVENTORY_SHORTAGE").is_some_and(|refusal| refusal.shortages[0].available > 0)
        })?;
        late.invoked = end + 10;
        late.returned = end + 20;
        late.index = late.index.map(|index| index + 1_000_000);
        Some(())
    });
}

#[test]
fn a_short_sku_that_is_not_listed() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INVENTORY_SHORTAGE", |refusal| {
            refusal.shortages.len() > 1 && refusal.shortages.pop().is_some()
        })
    });
}

#[test]
fn a_shortage_of_something_else() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INVENTORY_SHORTAGE", |refusal| {
            refusal.shortages[0].requested += 1;
            true
        })
    });
}

#[test]
fn a_balance_that_was_not_there() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INSUFFICIENT_BALANCE", |refusal| {
            let money = refusal.money.as_mut().filter(|(requested, available)| available + 1 < *requested);
            money.map(|money| money.1 += 1).is_some()
        })
    });
}

#[test]
fn an_amount_nobody_asked_for() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INSUFFICIENT_BALANCE", |refusal| {
            refusal.money.as_mut().map(|money| money.0 += 1).is_some()
        })
    });
}

#[test]
fn a_transition_from_where_the_order_was_not() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INVALID_TRANSITION", |refusal| {
            refusal.transition.as_mut().is_some_and(|(from, to)| {
                let was = std::mem::replace(from, "SHIPPED".to_owned());
                was != "SHIPPED" && to != "COMPLETED"
            })
        })
    });
}

#[test]
fn a_version_that_was_not_there() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "VERSION_MISMATCH", |refusal| {
            refusal.versions.as_mut().map(|versions| versions.1 += 1).is_some()
        })
    });
}

#[test]
fn a_code_that_was_free() {
    caught_by(&["C1"], |data| {
        let taken = |call: &&mut Call| call.attempt == 0 && refusal(&call.reply, "DUPLICATE_EXTERNAL_ID").is_some();
        let call = data.calls.iter_mut().find(taken)?;
        call.request = Op::CreateSku { code: "nobody's".to_owned(), price: 1, sellable: true };
        Some(())
    });
}

#[test]
fn a_sku_that_was_on_sale_all_the_time() {
    caught_by(&["C1"], |data| {
        let call = data.calls.iter_mut().find(|call| refusal(&call.reply, "SKU_NOT_SELLABLE").is_some())?;
        let Op::Place(basket) = &mut call.request else { return None };
        // Made on sale and never changed.
        let changed: Vec<&str> = data.feeds[&1]
            .iter()
            .filter(|event| event.kind == "catalog.sku.changed" && event.data["sellable"] == false)
            .map(|event| event.aggregate_id.as_str())
            .collect();
        let always = data.feeds[&1]
            .iter()
            .find(|event| event.kind == "catalog.sku.created" && !changed.contains(&event.aggregate_id.as_str()))?;
        basket.items = vec![(always.aggregate_id.clone(), 1)];
        Some(())
    });
}

#[test]
fn something_that_was_there_and_is_not_found() {
    caught_by(&["C1"], |data| {
        change_refusal(data, "INVALID_TRANSITION", |refusal| {
            *refusal = Refusal { code: "NOT_FOUND".to_owned(), ..Refusal::default() };
            true
        })
    });
}

// --------------------------------------------------------------------------------------------------- wrong answers

#[test]
fn a_wrong_total() {
    caught_by(&["C1", "C4", "C5"], |data| {
        let (at, _) = first(data, is_place)?;
        order_of(&mut data.calls[at].reply)?.total += 1;
        Some(())
    });
}

#[test]
fn a_price_that_was_not_the_price() {
    // Consistent everywhere: only who knows the price of that moment can tell.
    caught_by(&["C1"], |data| {
        let (at, _) = first(data, |call| matches!(&call.request, Op::Place(basket) if !basket.hold))?;
        let id = order_of(&mut data.calls[at].reply)?.id.clone();
        let paid = |event: &FeedEvent| event.aggregate_id == id && event.kind == "order.order.paid";
        let free = !data.feeds[&1].iter().any(paid);
        let cheaper = |order: &mut Order| {
            order.lines[0].unit_price -= 1;
            order.total -= i64::from(order.lines[0].quantity);
        };
        if !free {
            return None;
        }
        for call in &mut data.calls {
            order_of(&mut call.reply).filter(|order| order.id == id).into_iter().for_each(cheaper);
        }
        for node in data.finals.nodes.values_mut() {
            node.orders.get_mut(&id).into_iter().for_each(cheaper);
        }
        each_feed(data, |feed| {
            let placed = |event: &&mut FeedEvent| event.aggregate_id == id && event.kind == "order.order.created";
            for event in feed.iter_mut().filter(placed) {
                let units = event.data["lines"][0]["quantity"].as_i64().unwrap_or_default();
                let less = |value: &mut Value, by: i64| *value = json!(value.as_i64().unwrap_or_default() - by);
                less(&mut event.data["lines"][0]["unit_price"]["amount"], 1);
                less(&mut event.data["lines"][0]["total"]["amount"], units);
                less(&mut event.data["grand_total"]["amount"], units);
            }
        });
        Some(())
    });
}

#[test]
fn an_answer_at_the_wrong_index() {
    caught_by(&["C1", "C5"], |data| {
        let (at, _) = first(data, is_place)?;
        data.calls[at].index = data.calls[at].index.map(|index| index + 1);
        Some(())
    });
}

#[test]
fn stock_that_was_not_so_in_an_answer() {
    caught_by(&["C1"], |data| {
        let (at, _) = first(data, |call| matches!(call.request, Op::AdjustStock { .. }))?;
        let Reply::Yes { answer: Answer::Stocks(stocks), .. } = &mut data.calls[at].reply else { return None };
        stocks[0].on_hand += 1;
        stocks[0].available += 1;
        Some(())
    });
}

#[test]
fn money_that_was_not_so_in_an_answer() {
    caught_by(&["C1"], |data| {
        let (at, _) = first(data, |call| matches!(call.request, Op::AdjustWallet { .. }))?;
        let Reply::Yes { answer: Answer::Account(account), .. } = &mut data.calls[at].reply else { return None };
        account.balance += 1;
        Some(())
    });
}

#[test]
fn stock_that_was_not_so_in_a_read() {
    caught_by(&["C1", "C4"], |data| {
        let read = |call: &&mut Call| matches!(call.request, Op::ReadStock { .. });
        let call = data.calls.iter_mut().filter(read).filter(|call| call.index.is_some()).nth(5)?;
        let Reply::Yes { answer: Answer::Stocks(stocks), .. } = &mut call.reply else { return None };
        stocks[0].available += 1;
        Some(())
    });
}

#[test]
fn a_ledger_out_of_balance_in_a_read() {
    caught_by(&["C1", "C4"], |data| {
        let ledgers = data.calls.iter_mut().filter_map(|call| match &mut call.reply {
            Reply::Yes { answer: Answer::Ledger { debits, .. }, .. } => Some(debits),
            _ => None,
        });
        *ledgers.into_iter().nth(3)? += 1;
        Some(())
    });
}

#[test]
fn a_change_that_is_called_none() {
    caught_by(&["C1"], |data| {
        let (at, _) = first(data, |call| matches!(call.request, Op::Cancel { .. }))?;
        order_of(&mut data.calls[at].reply)?.no_change = true;
        Some(())
    });
}

#[test]
fn a_nothing_that_is_called_a_change() {
    caught_by(&["C1", "C5"], |data| {
        let none = data.calls.iter_mut().filter_map(|call| order_of(&mut call.reply)).find(|order| order.no_change);
        none?.no_change = false;
        Some(())
    });
}

#[test]
fn an_item_of_a_batch_that_is_not_told() {
    caught_by(&["C1", "C5"], |data| {
        for call in &mut data.calls {
            let Reply::Yes { answer: Answer::Orders(items), .. } = &mut call.reply else { continue };
            let Some(at) = items.iter().position(|item| matches!(item, Item::Order(_))) else { continue };
            let refusal = Refusal { code: "SKU_NOT_SELLABLE".to_owned(), ..Refusal::default() };
            items[at] = Item::Refused(refusal);
            return Some(());
        }
        None
    });
}

#[test]
fn a_page_of_the_feed_with_a_gap() {
    caught_by(&["C1"], |data| {
        let pages = data.calls.iter_mut().filter_map(|call| match &mut call.reply {
            Reply::Yes { answer: Answer::Feed(page), .. } if page.places.len() > 3 => Some(page),
            _ => None,
        });
        pages.into_iter().nth(2)?.places.remove(1);
        Some(())
    });
}

// ------------------------------------------------------------------------------------------------------- real time

/// An operation of one attempt is asked and answered later than it was.
fn later(data: &mut RunData, wanted: impl Fn(&Call) -> bool) -> Option<()> {
    let late = |call: &&mut Call| call.attempt == 0 && matches!(call.reply, Reply::Yes { .. }) && wanted(call);
    let call = data.calls.iter_mut().filter(late).nth(40)?;
    call.invoked += 60_000;
    call.returned += 60_000;
    Some(())
}

#[test]
fn a_write_before_what_was_told_before_it() {
    caught_by(&["C1"], |data| later(data, |call| call.key.is_some()));
}

#[test]
fn a_linearizable_read_of_the_past() {
    caught_by(&["C1"], |data| later(data, |call| call.level == Some(Level::Linearizable)));
}

#[test]
fn a_linearizable_read_that_finds_nothing() {
    caught_by(&["C1"], |data| {
        let late = data.calls.iter_mut().filter(|call| {
            call.level == Some(Level::Linearizable)
                && matches!(call.request, Op::ReadOrder { .. })
                && call.index.is_some()
        });
        let call = late.last()?;
        call.reply = Reply::NotDone { status: 404, code: "NOT_FOUND".to_owned() };
        call.index = None;
        Some(())
    });
}

// -------------------------------------------------------------------------------------------------------- the feed

#[test]
fn a_gap_in_an_entry() {
    caught_by(&["C1"], |data| {
        let mut done = None;
        each_feed(data, |feed| {
            let at = feed.iter().rposition(|event| event.sub == 2).unwrap_or_default();
            feed.remove(at);
            done = Some(());
        });
        done
    });
}

#[test]
fn a_gap_in_one_nodes_feed() {
    caught_by(&["C9"], |data| {
        let feed = data.feeds.get_mut(&3)?;
        feed.remove(feed.len() / 2);
        renumber(feed);
        Some(())
    });
}

#[test]
fn a_feed_that_one_node_tells_otherwise() {
    caught_by(&["C9"], |data| {
        let event = data.feeds.get_mut(&2)?.iter_mut().rfind(|event| event.kind == "inventory.stock.received")?;
        event.data["reason"] = json!("another");
        Some(())
    });
}

#[test]
fn a_transaction_split_over_two_entries() {
    caught_by(&["C1", "C6", "C9"], |data| {
        let (_, call) = first(data, |call| matches!(&call.request, Op::Place(basket) if basket.items.len() > 2))?;
        each_feed(data, |feed| {
            let from = feed.iter().position(|event| event.trace_id == call.trace).unwrap_or_default();
            let index = feed[from].index;
            // Entries behind it make room.
            for event in &mut feed[from + 1..] {
                event.index += 1;
            }
            assert!(feed[from + 1].index == index + 1);
            renumber(feed);
        });
        Some(())
    });
}

#[test]
fn entries_in_the_wrong_order() {
    caught_by(&["C1"], |data| {
        each_feed(data, |feed| {
            let middle = feed.len() / 2;
            let from = (middle..feed.len()).find(|at| feed[*at].sub == 1).unwrap_or(middle);
            let to = (from + 1..feed.len()).find(|at| feed[*at].sub == 1).unwrap_or(feed.len());
            let end = (to + 1..feed.len()).find(|at| feed[*at].sub == 1).unwrap_or(feed.len());
            feed[from..end].rotate_left(to - from);
        });
        Some(())
    });
}

#[test]
fn time_that_goes_back() {
    caught_by(&["C1"], |data| {
        each_feed(data, |feed| {
            let from = feed.len() / 2;
            let index = feed[from].index;
            let early = feed[1].time.clone();
            for event in feed.iter_mut().filter(|event| event.index == index) {
                event.time.clone_from(&early);
            }
        });
        Some(())
    });
}

#[test]
fn an_event_of_a_wrong_version() {
    caught_by(&["C1"], |data| change_event(data, "inventory.stock.reserved", 30, |event| event.aggregate_version += 1));
}

#[test]
fn an_event_nobody_can_read() {
    caught_by(&["C1"], |data| {
        change_event(data, "inventory.stock.reserved", 30, |event| event.data["quantity"] = json!("two"))
    });
}

#[test]
fn a_chain_that_changes_within_an_entry() {
    caught_by(&["C9"], |data| {
        each_feed(data, |feed| {
            let event = feed.iter_mut().rfind(|event| event.sub == 2).expect("an entry of two events");
            event.prev_hash = "cd".repeat(32);
        });
        Some(())
    });
}

#[test]
fn digests_that_differ() {
    caught_by(&["C9"], |data| {
        data.finals.nodes.get_mut(&3)?.digest.push('0');
        Some(())
    });
}

#[test]
fn chains_that_differ() {
    caught_by(&["C9"], |data| {
        data.finals.nodes.get_mut(&1)?.chain_head.push('0');
        Some(())
    });
}

// ------------------------------------------------------------------------------------------------- stock and money

#[test]
fn an_oversold_sku() {
    caught_by(&["C1", "C4"], |data| {
        // Nothing was ever received, and all figures follow.
        let feed = &data.feeds[&1];
        let sku = feed.iter().find(|event| event.kind == "inventory.stock.received")?.aggregate_id.clone();
        each_feed(data, |feed| {
            let mut less = 0;
            for event in feed.iter_mut().filter(|event| event.aggregate_id == sku) {
                let Some(stock) = &mut event.stock else { continue };
                stock.on_hand_pre = stock.on_hand_pre.saturating_sub(less);
                if event.kind == "inventory.stock.received" {
                    less += event.data["quantity"].as_u64().unwrap_or_default();
                    event.data["quantity"] = json!(0);
                }
                stock.on_hand_post = stock.on_hand_post.saturating_sub(less);
            }
        });
        Some(())
    });
}

#[test]
fn stock_before_an_event_that_is_not_stock_after_the_last() {
    caught_by(&["C1", "C4"], |data| {
        change_event(data, "inventory.stock.reserved", 30, |event| {
            event.stock.as_mut().expect("figures").on_hand_pre += 1;
        })
    });
}

#[test]
fn stock_after_an_event_that_does_not_follow() {
    caught_by(&["C1", "C4"], |data| {
        change_event(data, "inventory.stock.released", 10, |event| {
            event.stock.as_mut().expect("figures").reserved_post += 1;
        })
    });
}

#[test]
fn a_promise_that_is_not_taken_back() {
    caught_by(&["C1", "C4"], |data| remove_event(data, "inventory.stock.released", 5));
}

#[test]
fn a_promise_that_is_taken_back_in_part() {
    caught_by(&["C1", "C4"], |data| {
        change_event(data, "inventory.stock.released", 20, |event| {
            let units = event.data["quantity"].as_i64().unwrap_or_default();
            event.data["quantity"] = json!(units - 1);
        })
    });
}

#[test]
fn a_line_that_was_not_reserved() {
    caught_by(&["C1", "C4"], |data| remove_event(data, "inventory.stock.reserved", 25));
}

#[test]
fn a_hold_that_was_not_taken() {
    caught_by(&["C1", "C4"], |data| remove_event(data, "wallet.balance.held", 5));
}

#[test]
fn a_hold_that_is_not_given_back() {
    caught_by(&["C1", "C4"], |data| remove_event(data, "wallet.balance.released", 5));
}

#[test]
fn a_hold_that_is_paid_again() {
    caught_by(&["C1", "C4"], |data| {
        change_event(data, "wallet.balance.captured", 3, |event| event.kind = "wallet.balance.paid".to_owned())
    });
}

#[test]
fn a_refund_given_twice() {
    caught_by(&["C1", "C4"], |data| {
        let mut done = None;
        each_feed(data, |feed| {
            let at = feed.iter().position(|event| event.kind == "wallet.balance.refunded");
            done = at.map(|at| {
                let again = feed[at].clone();
                feed.insert(at, again);
                renumber(feed);
            });
        });
        done
    });
}

#[test]
fn a_refund_of_more_than_was_paid() {
    caught_by(&["C1", "C4"], |data| {
        change_event(data, "wallet.balance.refunded", 1, |event| {
            let amount = event.data["amount"]["amount"].as_i64().unwrap_or_default();
            event.data["amount"]["amount"] = json!(amount + 100);
        })
    });
}

#[test]
fn money_from_nowhere() {
    caught_by(&["C1", "C4"], |data| {
        change_event(data, "wallet.balance.adjusted", 10, |event| {
            let amount = event.data["amount"]["amount"].as_i64().unwrap_or_default();
            event.data["amount"]["amount"] = json!(amount + 100);
        })
    });
}

#[test]
fn an_order_that_is_not_paid_for() {
    caught_by(&["C1", "C4"], |data| remove_event(data, "wallet.balance.paid", 3));
}

#[test]
fn debits_that_are_no_credits() {
    caught_by(&["C1", "C4"], |data| {
        data.finals.nodes.values_mut().for_each(|node| node.debits += 1);
        Some(())
    });
}

#[test]
fn stock_at_the_end_that_nobody_holds() {
    caught_by(&["C1", "C4"], |data| {
        data.finals.nodes.values_mut().for_each(|node| {
            let stock = node.stocks.values_mut().next().expect("a SKU");
            stock.reserved += 1;
            stock.available -= 1;
        });
        Some(())
    });
}

// ---------------------------------------------------------------------------------------------------------- orders

#[test]
fn an_illegal_transition() {
    caught_by(&["C1", "C7"], |data| {
        change_event(data, "order.order.paid", 4, |event| {
            event.kind = "order.order.completed".to_owned();
            event.data["status"] = json!("COMPLETED");
        })
    });
}

#[test]
fn a_step_taken_twice() {
    caught_by(&["C1", "C7"], |data| {
        let (_, call) = first(data, |call| matches!(call.request, Op::Pay { .. }))?;
        repeat(data, &call.trace, true);
        Some(())
    });
}

#[test]
fn a_step_told_that_was_not_taken() {
    caught_by(&["C1", "C5", "C7"], |data| {
        let (at, call) = first(data, |call| matches!(call.request, Op::Pay { .. }))?;
        let order = order_of(&mut data.calls[at].reply)?;
        order.steps.push(("SHIPPED".to_owned(), call.index?));
        (order.status, order.version) = ("SHIPPED".to_owned(), order.version + 1);
        Some(())
    });
}

#[test]
fn an_order_that_expired_too_early() {
    caught_by(&["C1"], |data| {
        each_feed(data, |feed| {
            for event in feed.iter_mut().filter(|event| event.kind == "order.order.created") {
                let ttl_ms = event.data["ttl_ms"].as_u64().unwrap_or_default();
                event.data["ttl_ms"] = json!(ttl_ms + 20);
            }
        });
        Some(())
    });
}

#[test]
fn an_expiry_that_was_a_request() {
    caught_by(&["C1"], |data| {
        let mut done = None;
        each_feed(data, |feed| {
            let asked = feed
                .iter_mut()
                .filter(|event| event.kind == "order.order.cancelled" && event.data["cause"] == "REQUEST")
                .nth(2);
            done = asked.map(|event| event.data["cause"] = json!("EXPIRED"));
        });
        done
    });
}

#[test]
fn an_expiry_that_keeps_stock() {
    caught_by(&["C1", "C4"], |data| {
        let nobody = "0".repeat(32);
        let mut done = None;
        each_feed(data, |feed| {
            let at = feed
                .iter()
                .enumerate()
                .filter(|(_, event)| event.trace_id == nobody && event.kind == "inventory.stock.released")
                .nth(7)
                .map(|(at, _)| at);
            done = at.map(|at| {
                feed.remove(at);
                renumber(feed);
            });
        });
        done
    });
}

#[test]
fn a_batch_whose_items_changed_places() {
    caught_by(&["C1"], |data| {
        for call in &mut data.calls {
            let Reply::Yes { answer: Answer::Orders(items), .. } = &mut call.reply else { continue };
            if items.iter().filter(|item| matches!(item, Item::Order(_))).count() > 1 {
                items.reverse();
                return Some(());
            }
        }
        None
    });
}
