//! What was lost, done twice, or done without being asked.

use super::*;

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
    for (name, checker) in CHECKERS {
        let checked = checker(&data);
        assert!(checked.findings.is_empty(), "{name}: {checked:#?}");
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

#[test]
fn a_fresh_key_that_is_called_used() {
    caught_by(&["C6"], |data| {
        let reused =
            |call: &&mut Call| matches!(&call.reply, Reply::NotDone { code, .. } if code == "IDEMPOTENCY_KEY_REUSED");
        data.calls.iter_mut().find(reused)?.key = Some("never used before".to_owned());
        Some(())
    });
}
