//! Refusals that were not true.

use super::*;

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
