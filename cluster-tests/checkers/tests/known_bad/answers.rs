//! Answers that tell of another shop.

use super::*;

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
