//! Is a refusal true?
//!
//! It must have been true somewhere between what everybody could know when it was asked for and its own place, both
//! sides of its comparison included. A refusal that names several SKUs should be true of all of them at one place; where
//! each line is true at a place of its own and no place has all of them, it is counted, and not held against the shop:
//! the request could not have been granted anywhere in between.

use agora_history::{Basket, Op, Refusal};

use super::{Place, World, causes::summed};
use crate::words::Status;

/// Most units of one SKU in one request, most a SKU and most a wallet may hold, as the API documents them.
const REQUEST_UNITS_MAX: i64 = 1_000_000;
const ON_HAND_UNITS_MAX: i64 = 1_000_000_000_000;
const AMOUNT_MINOR_MAX: i64 = 1_000_000_000_000_000;

/// What a refusal is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    /// Every line is, at some place each.
    LineByLine,
    False(String),
    /// The model knows nothing of such a reason.
    Unknown,
}

/// Between which places, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Place,
    pub(crate) to: Place,
}

/// What earlier items of the same batch hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own<'a> {
    pub(crate) units: std::collections::BTreeMap<&'a str, i64>,
    pub(crate) money: std::collections::BTreeMap<&'a str, i64>,
}

fn truth(is_true: bool, why_not: impl FnOnce() -> String) -> Truth {
    if is_true { Truth::True } else { Truth::False(why_not()) }
}

/// Judges the refusal of a whole request.
pub(crate) fn of_request(world: &World<'_>, request: &Op, refusal: &Refusal, window: Window) -> Truth {
    let own = Own::default();
    match (refusal.code.as_str(), request) {
        (_, Op::Place(basket)) => of_basket(world, basket, refusal, window, &own),
        (_, Op::PlaceBatch(_)) => Truth::Unknown,
        ("NOT_FOUND", _) => missing(world, request, window),
        ("VERSION_MISMATCH", Op::ChangeSku { sku, expected_version, .. }) => {
            let there = |version| refusal.versions.is_none_or(|told| told == (*expected_version, version));
            let terms = world.skus.get(sku.as_str()).map(|known| known.terms.during(window.from, window.to));
            let mut versions = terms.into_iter().flatten().map(|(_, terms)| terms.version);
            let is_true = versions.any(|version| version != *expected_version && there(version));
            truth(is_true, || format!("{sku} never had another version there: {:?}", refusal.versions))
        }
        ("INVENTORY_SHORTAGE", Op::AdjustStock { sku, delta }) if *delta < 0 => {
            let one = std::collections::BTreeMap::from([(sku.as_str(), -delta)]);
            short(world, &one, refusal, window, &own, false)
        }
        ("DUPLICATE_EXTERNAL_ID", Op::CreateSku { code, .. }) => {
            let taken = world.codes.get(code.as_str());
            truth(taken.is_some_and(|place| *place <= window.to), || format!("the code {code} was free"))
        }
        ("INSUFFICIENT_BALANCE", Op::AdjustWallet { account, amount }) if *amount < 0 => {
            poor(world, account, |requested| requested == -amount, -amount, refusal, window, 0)
        }
        ("INSUFFICIENT_BALANCE", Op::Pay { order }) => match world.orders.get(order.as_str()) {
            Some(known) if !known.held => {
                let total = known.total;
                poor(world, known.account, |requested| requested == total, total, refusal, window, 0)
            }
            _ => Truth::False("the order needs no more money than is held for it".to_owned()),
        },
        ("INVALID_TRANSITION", _) => transition(world, request, refusal, window),
        ("LIMIT_EXCEEDED", _) => limit(world, request, window),
        _ => Truth::False(format!("{} is no answer to that", refusal.code)),
    }
}

/// Judges the refusal of one order, which may be an item of a batch.
pub(crate) fn of_basket(world: &World<'_>, basket: &Basket, refusal: &Refusal, window: Window, own: &Own<'_>) -> Truth {
    let lines = summed(&basket.items);
    match refusal.code.as_str() {
        "NOT_FOUND" => {
            let buyer_missing =
                is_missing(world.accounts.get(basket.account.as_str()).map(|past| past.at(window.from)));
            let sku = |sku: &&str| is_missing(world.skus.get(*sku).map(|known| known.terms.at(window.from)));
            truth(buyer_missing || lines.keys().any(sku), || "all that it names was there".to_owned())
        }
        "SKU_NOT_SELLABLE" => {
            let unsellable = |sku: &&str| {
                let terms = world.skus.get(*sku).map(|known| known.terms.during(window.from, window.to));
                terms.into_iter().flatten().any(|(_, terms)| !terms.sellable)
            };
            truth(lines.keys().any(unsellable), || "all of it was on sale".to_owned())
        }
        "INVENTORY_SHORTAGE" => short(world, &lines, refusal, window, own, true),
        "INSUFFICIENT_BALANCE" if basket.hold => {
            let totals = totals(world, &lines, window);
            let least = totals.iter().copied().min().unwrap_or(i64::MAX);
            let held = own.money.get(basket.account.as_str()).copied().unwrap_or_default();
            poor(world, &basket.account, |requested| totals.contains(&requested), least, refusal, window, held)
        }
        "LIMIT_EXCEEDED" => {
            let most = totals(world, &lines, window).into_iter().max().unwrap_or_default();
            let beyond = most > AMOUNT_MINOR_MAX || lines.values().any(|units| *units > REQUEST_UNITS_MAX);
            truth(beyond, || "no limit was exceeded".to_owned())
        }
        code => Truth::False(format!("{code} is no answer to that")),
    }
}

fn is_missing<T>(value: Option<Option<T>>) -> bool {
    value.flatten().is_none()
}

fn missing(world: &World<'_>, request: &Op, window: Window) -> Truth {
    let no_sku = |sku: &str| is_missing(world.skus.get(sku).map(|known| known.terms.at(window.from)));
    let no_order = |order: &str| world.orders.get(order).is_none_or(|known| known.version_at(window.from) == 0);
    let is_true = match request {
        Op::ChangeSku { sku, .. } | Op::AdjustStock { sku, .. } => no_sku(sku),
        Op::Receive { lines } => lines.iter().any(|(sku, _)| no_sku(sku)),
        Op::AdjustWallet { account, .. } => {
            is_missing(world.accounts.get(account.as_str()).map(|past| past.at(window.from)))
        }
        Op::Pay { order } | Op::Cancel { order } | Op::Ship { order } | Op::Confirm { order } => no_order(order),
        _ => false,
    };
    truth(is_true, || "what it names was there".to_owned())
}

fn transition(world: &World<'_>, request: &Op, refusal: &Refusal, window: Window) -> Truth {
    let (order, to) = match request {
        Op::Pay { order } => (order, Status::Paid),
        Op::Cancel { order } => (order, Status::Cancelled),
        Op::Ship { order } => (order, Status::Shipped),
        Op::Confirm { order } => (order, Status::Completed),
        _ => return Truth::False("it moves no order".to_owned()),
    };
    let told = match &refusal.transition {
        Some((from, told_to)) if Status::of(told_to) == Some(to) => Some(Status::of(from)),
        Some(told) => return Truth::False(format!("{told:?} is told, {} was asked for", to.name())),
        None => None,
    };
    let Some(known) = world.orders.get(order.as_str()) else { return Truth::False(format!("{order} never was")) };
    let first = known.version_at(window.from).saturating_sub(1);
    let there = &known.steps[first..known.version_at(window.to).max(first)];
    let agrees =
        |status: Status| status != to && !status.may_become(to) && told.is_none_or(|told| told == Some(status));
    truth(there.iter().any(|step| agrees(step.status)), || {
        let statuses: Vec<&str> = there.iter().map(|step| step.status.name()).collect();
        format!("{:?} is told, and the order was {}", refusal.transition, statuses.join(", "))
    })
}

fn limit(world: &World<'_>, request: &Op, window: Window) -> Truth {
    let most = |sku: &str| {
        let stock = world.skus.get(sku).map(|known| known.stock.during(window.from, window.to));
        stock.into_iter().flatten().map(|(_, stock)| stock.on_hand).max().unwrap_or_default()
    };
    let beyond = match request {
        Op::Receive { lines } => summed(lines)
            .into_iter()
            .any(|(sku, units)| units > REQUEST_UNITS_MAX || most(sku) + units > ON_HAND_UNITS_MAX),
        Op::AdjustStock { sku, delta } => most(sku) + delta > ON_HAND_UNITS_MAX,
        Op::AdjustWallet { account, amount } => {
            let wallet = world.accounts.get(account.as_str()).map(|past| past.during(window.from, window.to));
            let most = wallet.into_iter().flatten().map(|(_, wallet)| wallet.balance).max().unwrap_or_default();
            most + amount > AMOUNT_MINOR_MAX
        }
        _ => false,
    };
    truth(beyond, || "no limit was exceeded".to_owned())
}

/// Money asked for and there. `least` is what must be beyond what is there when no figures are told.
fn poor(
    world: &World<'_>,
    account: &str,
    asks: impl Fn(i64) -> bool,
    least: i64,
    refusal: &Refusal,
    window: Window,
    own: i64,
) -> Truth {
    let Some(past) = world.accounts.get(account) else { return Truth::False(format!("{account} never was")) };
    let mut there = past.during(window.from, window.to).map(|(_, wallet)| wallet.available());
    match refusal.money {
        None => truth(there.any(|available| least > available - own), || "there was enough money".to_owned()),
        Some((requested, told)) => {
            let is_there = there.any(|available| told == available || told == (available - own).max(0));
            let is_true = is_there && asks(requested) && requested > told;
            truth(is_true, || format!("({requested}, {told}) is told as asked for and there, and was not so"))
        }
    }
}

/// What the lines may have cost: prices are looked at together, at every place where one of them changed.
fn totals(world: &World<'_>, lines: &std::collections::BTreeMap<&str, i64>, window: Window) -> Vec<i64> {
    let pasts: Vec<_> = lines.iter().filter_map(|(sku, units)| Some((&world.skus.get(sku)?.terms, *units))).collect();
    let changes = pasts.iter().flat_map(|(past, _)| past.during(window.from, window.to).map(|(place, _)| place));
    let mut places: Vec<Place> = changes.chain([window.from]).collect();
    places.sort_unstable();
    places.dedup();
    let cost = |place| pasts.iter().map(|(past, units)| past.at(place).map_or(0, |terms| terms.price * units)).sum();
    places.into_iter().map(cost).collect()
}

/// Every SKU that is told short was so, by the figures told, and every other one was not.
fn short(
    world: &World<'_>,
    lines: &std::collections::BTreeMap<&str, i64>,
    refusal: &Refusal,
    window: Window,
    own: &Own<'_>,
    must_be_sellable: bool,
) -> Truth {
    let mut told = std::collections::BTreeMap::new();
    for shortage in &refusal.shortages {
        let (requested, available) = (shortage.requested as i64, shortage.available as i64);
        if lines.get(shortage.sku.as_str()) != Some(&requested) || requested <= available {
            return Truth::False(format!("{shortage:?} is told, {lines:?} was asked for"));
        }
        if told.insert(shortage.sku.as_str(), available).is_some() {
            return Truth::False(format!("{} is told twice", shortage.sku));
        }
    }
    if told.is_empty() {
        return Truth::False("no SKU is told".to_owned());
    }
    let agrees = |sku: &str, requested: i64, place: Place| {
        let Some(known) = world.skus.get(sku) else { return false };
        let (Some(stock), Some(terms)) = (known.stock.at(place), known.terms.at(place)) else { return false };
        let (there, mine) = (stock.available(), own.units.get(sku).copied().unwrap_or_default());
        let sellable = terms.sellable || !must_be_sellable;
        sellable
            && match told.get(sku) {
                Some(told) => *told == there || *told == (there - mine).max(0),
                None => there - mine >= requested,
            }
    };
    let mut places: Vec<Place> = Vec::new();
    for sku in lines.keys() {
        let Some(known) = world.skus.get(sku) else { return Truth::False(format!("{sku} never was")) };
        places.extend(known.stock.during(window.from, window.to).map(|(place, _)| place));
        places.extend(known.terms.during(window.from, window.to).map(|(place, _)| place));
    }
    places.push(window.from);
    places.sort_unstable();
    places.dedup();
    // Most refusals are decided shortly before they are written.
    let all = |place: &Place| lines.iter().all(|(sku, requested)| agrees(sku, *requested, *place));
    if places.iter().rev().any(all) {
        return Truth::True;
    }
    let one = |(sku, requested): (&&str, &i64)| places.iter().any(|place| agrees(sku, *requested, *place));
    if lines.len() > 1 && lines.iter().all(one) {
        return Truth::LineByLine;
    }
    Truth::False(format!("{:?} is told short, and was not so", refusal.shortages))
}
