//! Does what a node said agree with the shop as it was at one place?

use std::fmt::Debug;

use agora_history::{Account, Order, OrderLine, Sku, Stock};

use super::{Place, World};

/// Nothing when all is as it should be, else what is not.
pub(crate) type Verdict = Result<(), String>;

fn same<T: PartialEq + Debug>(what: &str, told: T, truth: T) -> Verdict {
    if told == truth { Ok(()) } else { Err(format!("{what} {told:?} is told, {truth:?} is so")) }
}

fn units(stock: i64) -> u64 {
    u64::try_from(stock).unwrap_or(u64::MAX)
}

/// Terms of a SKU.
pub(crate) fn sku(world: &World<'_>, told: &Sku, place: Place) -> Verdict {
    let known = world.skus.get(told.id.as_str()).ok_or_else(|| format!("{} never was", told.id))?;
    let terms = known.terms.at(place).ok_or_else(|| format!("{} was not there yet", told.id))?;
    same("code", told.code.as_str(), known.code)?;
    same("price", told.price, terms.price)?;
    same("sellable", told.sellable, terms.sellable)?;
    same("version", told.version, terms.version)
}

/// Units of a SKU.
pub(crate) fn stock(world: &World<'_>, told: &Stock, place: Place) -> Verdict {
    let known = world.skus.get(told.sku.as_str()).ok_or_else(|| format!("{} never was", told.sku))?;
    let stock = known.stock.at(place).ok_or_else(|| format!("{} was not there yet", told.sku))?;
    let in_order = (told.on_hand, told.reserved, told.available, told.version);
    let truth = (units(stock.on_hand), units(stock.reserved), units(stock.available()), stock.version);
    same("(on hand, reserved, available, version)", in_order, truth)
}

/// An account with its money.
pub(crate) fn account(world: &World<'_>, told: &Account, place: Place) -> Verdict {
    let known = world.accounts.get(told.id.as_str()).ok_or_else(|| format!("{} never was", told.id))?;
    let wallet = known.at(place).ok_or_else(|| format!("{} was not there yet", told.id))?;
    let truth = (wallet.balance, wallet.held, wallet.version);
    same("(balance, held, version)", (told.balance, told.held, told.version), truth)
}

/// An order as it was behind a transaction.
pub(crate) fn order(world: &World<'_>, told: &Order, place: Place) -> Verdict {
    let known = world.orders.get(told.id.as_str()).ok_or_else(|| format!("{} never was", told.id))?;
    let version = known.version_at(place);
    let steps = &known.steps[..version];
    let Some(last) = steps.last() else { return Err(format!("{} was not there yet", told.id)) };
    same("version", told.version, version as u64)?;
    same("status", told.status.as_str(), last.status.name())?;
    same("account", told.account.as_str(), known.account)?;
    same("total", told.total, known.total)?;
    let mut lines: Vec<&OrderLine> = told.lines.iter().collect();
    lines.sort_by(|one, other| one.sku.cmp(&other.sku));
    let told_lines = lines.iter().map(|line| (line.sku.as_str(), i64::from(line.quantity), line.unit_price));
    if !told_lines.eq(known.lines.iter().map(|line| (line.sku, line.quantity, line.unit_price))) {
        return Err(format!("lines {:?} are told, {:?} are so", told.lines, known.lines));
    }
    let told_steps = told.steps.iter().map(|(status, index)| (status.as_str(), *index));
    if !told_steps.eq(steps.iter().map(|step| (step.status.name(), step.index))) {
        return Err(format!("steps {:?} are told, {steps:?} are so", told.steps));
    }
    Ok(())
}

/// Sums of the ledger.
pub(crate) fn ledger(world: &World<'_>, told: (i64, i64), place: Place) -> Verdict {
    let posted = world.posted.at(place).unwrap_or_default();
    same("(debits, credits)", told, (posted, posted))
}
