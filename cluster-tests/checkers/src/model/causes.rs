//! What a request must cause, to the unit, in the state it meets.
//!
//! New ids cannot be foretold, so they are taken from what happened; everything else follows from the request and the
//! state just before.

use std::collections::BTreeMap;

use agora_history::{Basket, Op};

use super::World;
use crate::words::{Fact, Line, Money, Status, Units};

/// Lines of a request with a SKU named twice summed, by SKU.
pub(crate) fn summed(items: &[(String, u32)]) -> BTreeMap<&str, i64> {
    let mut sums = BTreeMap::new();
    for (sku, quantity) in items {
        *sums.entry(sku.as_str()).or_default() += i64::from(*quantity);
    }
    sums
}

/// Everything the request had to cause, given that it caused something. `happened` lends the new ids.
pub(crate) fn of_request<'a>(
    world: &World<'a>,
    request: &'a Op,
    happened: &[Fact<'a>],
) -> Result<Vec<Fact<'a>>, String> {
    match request {
        Op::CreateSku { code, price, sellable } => {
            let new = happened.iter().find_map(|fact| match fact {
                Fact::SkuCreated { sku, .. } => Some(*sku),
                _ => None,
            });
            let sku = new.ok_or("no SKU was created")?;
            let created = Fact::SkuCreated { sku, code, price: *price, sellable: *sellable };
            Ok(vec![Fact::CodeTaken { code, owner: sku }, created])
        }
        Op::ChangeSku { sku, expected_version, price, sellable } => {
            let known = world.skus.get(sku.as_str()).ok_or("there is no such SKU")?;
            let now = known.terms.now().ok_or("the SKU has no terms")?;
            if now.version != *expected_version {
                return Err(format!("version {expected_version} was expected and {} is there", now.version));
            }
            let (price, sellable) = (price.unwrap_or(now.price), sellable.unwrap_or(now.sellable));
            if (price, sellable) == (now.price, now.sellable) {
                return Ok(Vec::new());
            }
            Ok(vec![Fact::SkuChanged { sku, code: known.code, price, sellable }])
        }
        Op::Receive { lines } => {
            let stock = |(sku, amount)| Fact::Stock { sku, how: Units::Received, amount, order: "" };
            Ok(summed(lines).into_iter().map(stock).collect())
        }
        Op::AdjustStock { sku, delta } => {
            Ok(vec![Fact::Stock { sku, how: Units::Adjusted, amount: *delta, order: "" }])
        }
        Op::CreateAccount { name } => {
            let new = happened.iter().find_map(|fact| match fact {
                Fact::AccountCreated { account, .. } => Some(*account),
                _ => None,
            });
            Ok(vec![Fact::AccountCreated { account: new.ok_or("no account was created")?, name }])
        }
        Op::AdjustWallet { account, amount } => {
            Ok(vec![Fact::Wallet { account, how: Money::Adjusted, amount: *amount, order: "" }])
        }
        Op::Place(basket) => {
            let order = placed(happened).next().ok_or("no order was placed")?;
            order_of(world, basket, order)
        }
        Op::PlaceBatch(baskets) => batch(world, baskets, happened),
        Op::Pay { order } => step(world, order, Status::Paid, false),
        Op::Cancel { order } => step(world, order, Status::Cancelled, false),
        Op::Ship { order } => step(world, order, Status::Shipped, false),
        Op::Confirm { order } => step(world, order, Status::Completed, false),
        _ => Err("a read causes nothing".to_owned()),
    }
}

/// What the timer causes when an order's time has run out.
pub(crate) fn of_timer<'a>(world: &World<'a>, order: &'a str, time_ms: i64) -> Result<Vec<Fact<'a>>, String> {
    let known = world.orders.get(order).ok_or("there is no such order")?;
    if known.status() != Status::Created {
        return Err(format!("the order is {}, which does not expire", known.status().name()));
    }
    if time_ms < known.expire_ms {
        return Err(format!("the order has {} ms left", known.expire_ms - time_ms));
    }
    step(world, order, Status::Cancelled, true)
}

fn placed<'a, 'b>(happened: &'b [Fact<'a>]) -> impl Iterator<Item = &'b Fact<'a>> {
    happened.iter().filter(|fact| matches!(fact, Fact::Placed { .. }))
}

fn batch<'a>(world: &World<'a>, baskets: &'a [Basket], happened: &[Fact<'a>]) -> Result<Vec<Fact<'a>>, String> {
    let mut facts = Vec::new();
    let mut rest = baskets.iter();
    for order in placed(happened) {
        // An item may have been refused, so each order belongs to the next basket that it fits.
        let fits = |basket: &&Basket| match order {
            Fact::Placed { account, lines, held, .. } => {
                let sums = summed(&basket.items);
                *account == basket.account
                    && *held == basket.hold
                    && sums.len() == lines.len()
                    && lines.iter().all(|line| sums.get(line.sku) == Some(&line.quantity))
            }
            _ => false,
        };
        let basket = rest.by_ref().find(fits).ok_or("an order was placed that no item of the batch asks for")?;
        facts.extend(order_of(world, basket, order)?);
    }
    if facts.is_empty() {
        return Err("no order was placed".to_owned());
    }
    Ok(facts)
}

fn order_of<'a>(world: &World<'a>, basket: &'a Basket, told: &Fact<'a>) -> Result<Vec<Fact<'a>>, String> {
    let Fact::Placed { order, ttl_ms, .. } = told else { return Err("no order was placed".to_owned()) };
    if !world.accounts.contains_key(basket.account.as_str()) {
        return Err(format!("there is no account {}", basket.account));
    }
    let mut facts = Vec::new();
    let mut lines = Vec::new();
    for (sku, quantity) in summed(&basket.items) {
        let terms = world.skus.get(sku).and_then(|known| known.terms.now());
        let terms = terms.ok_or_else(|| format!("there is no SKU {sku}"))?;
        if !terms.sellable {
            return Err(format!("{sku} is not on sale"));
        }
        facts.push(Fact::Stock { sku, how: Units::Reserved, amount: quantity, order });
        lines.push(Line { sku, quantity, unit_price: terms.price, total: terms.price * quantity });
    }
    let total = lines.iter().map(|line| line.total).sum();
    if basket.hold {
        facts.push(Fact::Wallet { account: &basket.account, how: Money::Held, amount: total, order });
    }
    let (account, held) = (basket.account.as_str(), basket.hold);
    facts.push(Fact::Placed { order, account, lines, total, held, ttl_ms: *ttl_ms });
    Ok(facts)
}

fn step<'a>(world: &World<'a>, order: &'a str, to: Status, expired: bool) -> Result<Vec<Fact<'a>>, String> {
    let known = world.orders.get(order).ok_or("there is no such order")?;
    let from = known.status();
    if !from.may_become(to) {
        return Err(format!("the order is {}, it cannot become {}", from.name(), to.name()));
    }
    let mut facts = vec![Fact::Moved { order, to, expired }];
    let stock = match to {
        Status::Cancelled => Some(Units::Released),
        Status::Shipped => Some(Units::Deducted),
        _ => None,
    };
    if let Some(how) = stock {
        facts.extend(known.lines.iter().map(|line| Fact::Stock { sku: line.sku, how, amount: line.quantity, order }));
    }
    let money = match (to, from, known.held) {
        (Status::Paid, _, true) => Some(Money::Captured),
        (Status::Paid, _, false) => Some(Money::Paid),
        (Status::Cancelled, Status::Paid, _) => Some(Money::Refunded),
        (Status::Cancelled, _, true) => Some(Money::Released),
        _ => None,
    };
    facts.extend(money.map(|how| Fact::Wallet { account: known.account, how, amount: known.total, order }));
    Ok(facts)
}
