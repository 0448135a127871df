//! Feeds with gaps, splits and two tongues.

use super::*;

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
