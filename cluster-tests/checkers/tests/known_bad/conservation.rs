//! Stock and money from nowhere, and gone.

use super::*;

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
