//! The feed's events as typed facts, read from their JSON by name.

use agora_history::{FeedEvent, RunData};
use serde_json::Value;

/// The feed that goes furthest: C9 sees to it that the others are the same as far as they go.
pub(crate) fn longest_feed(data: &RunData) -> &[FeedEvent] {
    let longest = data.feeds.values().max_by_key(|feed| (feed.last().map(|event| event.index), feed.len()));
    longest.map(Vec::as_slice).unwrap_or_default()
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Created,
    Paid,
    Shipped,
    Completed,
    Cancelled,
}

impl Status {
    /// As the API writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Created => "CREATED",
            Status::Paid => "PAID",
            Status::Shipped => "SHIPPED",
            Status::Completed => "COMPLETED",
            Status::Cancelled => "CANCELLED",
        }
    }

    /// Read from the API's word.
    pub(crate) fn of(name: &str) -> Option<Status> {
        [Status::Created, Status::Paid, Status::Shipped, Status::Completed, Status::Cancelled]
            .into_iter()
            .find(|status| status.name() == name)
    }

    /// Whether an order may go there from here in one step.
    pub(crate) fn may_become(self, to: Status) -> bool {
        match self {
            Status::Created => matches!(to, Status::Paid | Status::Cancelled),
            Status::Paid => matches!(to, Status::Shipped | Status::Cancelled),
            Status::Shipped => to == Status::Completed,
            Status::Completed | Status::Cancelled => false,
        }
    }
}

/// How units move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Units {
    Received,
    Adjusted,
    Reserved,
    Released,
    Deducted,
}

impl Units {
    /// What it does to (on hand, reserved).
    pub(crate) fn moves(self, amount: i64) -> (i64, i64) {
        match self {
            Units::Received | Units::Adjusted => (amount, 0),
            Units::Reserved => (0, amount),
            Units::Released => (0, -amount),
            Units::Deducted => (-amount, -amount),
        }
    }
}

/// How money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Money {
    Adjusted,
    Held,
    Released,
    Captured,
    Paid,
    Refunded,
}

impl Money {
    /// What it does to (balance, held).
    pub(crate) fn moves(self, amount: i64) -> (i64, i64) {
        match self {
            Money::Adjusted | Money::Refunded => (amount, 0),
            Money::Held => (0, amount),
            Money::Released => (0, -amount),
            Money::Captured => (-amount, -amount),
            Money::Paid => (-amount, 0),
        }
    }
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line<'a> {
    pub(crate) sku: &'a str,
    pub(crate) quantity: i64,
    pub(crate) unit_price: i64,
    pub(crate) total: i64,
}

/// One event, as a fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact<'a> {
    CodeTaken { code: &'a str, owner: &'a str },
    SkuCreated { sku: &'a str, code: &'a str, price: i64, sellable: bool },
    SkuChanged { sku: &'a str, code: &'a str, price: i64, sellable: bool },
    Stock { sku: &'a str, how: Units, amount: i64, order: &'a str },
    AccountCreated { account: &'a str, name: &'a str },
    Wallet { account: &'a str, how: Money, amount: i64, order: &'a str },
    Placed { order: &'a str, account: &'a str, lines: Vec<Line<'a>>, total: i64, held: bool, ttl_ms: u64 },
    Moved { order: &'a str, to: Status, expired: bool },
}

impl<'a> Fact<'a> {
    /// The order it is about, if it is about one.
    pub(crate) fn order(&self) -> Option<&'a str> {
        match self {
            Fact::Stock { order, .. } | Fact::Wallet { order, .. } if !order.is_empty() => Some(order),
            Fact::Placed { order, .. } | Fact::Moved { order, .. } => Some(order),
            _ => None,
        }
    }
}

fn text<'a>(data: &'a Value, name: &str) -> Option<&'a str> {
    data.get(name)?.as_str()
}

/// Only money of the run's one currency is known.
fn amount(data: &Value, name: &str) -> Option<i64> {
    data.get(name)?.get("amount")?.as_i64()
}

/// Reads an event; `None` for one that cannot be understood.
pub(crate) fn fact(event: &FeedEvent) -> Option<Fact<'_>> {
    let (id, data) = (event.aggregate_id.as_str(), &event.data);
    let stock = |how, name| {
        let order = text(data, "order_id").unwrap_or_default();
        Some(Fact::Stock { sku: id, how, amount: data.get(name)?.as_i64()?, order })
    };
    let wallet = |how| {
        let order = text(data, "order_id").unwrap_or_default();
        Some(Fact::Wallet { account: id, how, amount: amount(data, "amount")?, order })
    };
    let moved = |to| {
        let expired = match text(data, "cause")? {
            "REQUEST" => false,
            "EXPIRED" => true,
            _ => return None,
        };
        (text(data, "status")? == Status::name(to)).then_some(Fact::Moved { order: id, to, expired })
    };
    let (aggregate, fact) = match event.kind.as_str() {
        "catalog.sku_code.taken" => {
            let code = text(data, "name")?.strip_prefix("sku_code:")?;
            ("claim", Fact::CodeTaken { code, owner: text(data, "owner")? })
        }
        kind @ ("catalog.sku.created" | "catalog.sku.changed") => {
            let (code, price) = (text(data, "sku_code")?, amount(data, "price")?);
            let sellable = data.get("sellable")?.as_bool()?;
            (
                "sku",
                match kind {
                    "catalog.sku.created" => Fact::SkuCreated { sku: id, code, price, sellable },
                    _ => Fact::SkuChanged { sku: id, code, price, sellable },
                },
            )
        }
        "inventory.stock.received" => ("sku", stock(Units::Received, "quantity")?),
        "inventory.stock.adjusted" => ("sku", stock(Units::Adjusted, "delta")?),
        "inventory.stock.reserved" => ("sku", stock(Units::Reserved, "quantity")?),
        "inventory.stock.released" => ("sku", stock(Units::Released, "quantity")?),
        "inventory.stock.deducted" => ("sku", stock(Units::Deducted, "quantity")?),
        "customer.account.created" => ("account", Fact::AccountCreated { account: id, name: text(data, "name")? }),
        "wallet.balance.adjusted" => ("account", wallet(Money::Adjusted)?),
        "wallet.balance.held" => ("account", wallet(Money::Held)?),
        "wallet.balance.released" => ("account", wallet(Money::Released)?),
        "wallet.balance.captured" => ("account", wallet(Money::Captured)?),
        "wallet.balance.paid" => ("account", wallet(Money::Paid)?),
        "wallet.balance.refunded" => ("account", wallet(Money::Refunded)?),
        "order.order.created" => ("order", placed(id, data)?),
        "order.order.paid" => ("order", moved(Status::Paid)?),
        "order.order.shipped" => ("order", moved(Status::Shipped)?),
        "order.order.completed" => ("order", moved(Status::Completed)?),
        "order.order.cancelled" => ("order", moved(Status::Cancelled)?),
        _ => return None,
    };
    (aggregate == event.aggregate).then_some(fact)
}

fn placed<'a>(id: &'a str, data: &'a Value) -> Option<Fact<'a>> {
    let line = |line: &'a Value| {
        Some(Line {
            sku: text(line, "sku_id")?,
            quantity: line.get("quantity")?.as_i64()?,
            unit_price: amount(line, "unit_price")?,
            total: amount(line, "total")?,
        })
    };
    Some(Fact::Placed {
        order: text(data, "order_id").filter(|named| *named == id)?,
        account: text(data, "user_id")?,
        lines: data.get("lines")?.as_array()?.iter().map(line).collect::<Option<_>>()?,
        total: amount(data, "grand_total")?,
        held: data.get("held")?.as_bool()?,
        ttl_ms: data.get("ttl_ms")?.as_u64()?,
    })
}

/// Milliseconds since the Unix epoch of `2026-01-31T23:59:59.123Z`; days by Howard Hinnant's `days_from_civil`.
pub(crate) fn time_ms(time: &str) -> Option<i64> {
    let bytes = time.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];
    if bytes.len() != 24 || marks.iter().any(|(at, mark)| bytes[*at] != *mark) {
        return None;
    }
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // The year begins in March, so that the day that is sometimes there is its last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    let seconds = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    Some((days * 86_400 + seconds) * 1_000 + number(20, 23)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_millisecond() {
        for (text, expected) in [
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("2000-02-29T12:34:56.789Z", Some(951_827_696_789)),
            ("2026-01-01T00:00:00.000Z", Some(1_767_225_600_000)),
            ("2026-11-20T10:18:38.001Z", Some(1_795_169_918_001)),
            ("2026-01-01T00:00:00Z", None),
            ("2026-01-01 00:00:00.000Z", None),
        ] {
            assert_eq!(time_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn only_the_drawn_steps_are_legal() {
        let all = [Status::Created, Status::Paid, Status::Shipped, Status::Completed, Status::Cancelled];
        let legal = all.iter().flat_map(|from| all.iter().filter(|to| from.may_become(**to))).count();
        assert_eq!(legal, 5);
    }
}
