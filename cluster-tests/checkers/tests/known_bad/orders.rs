//! Orders that go where they must not.

use super::*;

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
