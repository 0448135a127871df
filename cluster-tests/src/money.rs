//! Money as the feed tells it, added up by the bench's own arithmetic: a trial balance from outside.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::shop::text;

/// One wallet, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    /// What is owed to its holder.
    pub balance: i128,
    /// The part of it set aside for orders.
    pub held: i128,
}

/// All money of a feed: by (account, currency), by order, and the two sides that face the wallets.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Wallets.
    pub purses: BTreeMap<(String, String), Purse>,
    /// Paid less refunded, by order number and currency.
    pub earned: BTreeMap<(String, String), i128>,
    /// Put in less taken out by hand, by currency.
    pub funded: BTreeMap<String, i128>,
}

impl Books {
    /// Adds up a feed and checks it at every event: no wallet below nothing, nothing held that is not there, no order paid
    /// twice or refunded beyond what was paid, and at every event what was put in is what wallets hold and orders
    /// earned.
    ///
    /// # Panics
    /// At the first event for which one of them does not hold.
    pub fn of_feed(changes: &[Value]) -> Books {
        let mut books = Books::default();
        for change in changes {
            books.post(change);
        }
        books
    }

    fn post(&mut self, change: &Value) {
        let kind = text(change, "type");
        let Some(event) = kind.strip_prefix("wallet.balance.") else { return };
        let data = &change["data"];
        let amount = i128::from(data["amount"]["amount"].as_i64().unwrap_or_else(|| panic!("no amount in {change}")));
        let currency = text(&data["amount"], "currency");
        let purse = self.purses.entry((text(change, "aggregate_id"), currency.clone())).or_default();
        let mut earn = 0;
        match event {
            "adjusted" => {
                purse.balance += amount;
                *self.funded.entry(currency.clone()).or_default() += amount;
            }
            "held" => purse.held += amount,
            "released" => purse.held -= amount,
            "captured" => {
                purse.held -= amount;
                purse.balance -= amount;
                earn = amount;
            }
            "paid" => {
                purse.balance -= amount;
                earn = amount;
            }
            "refunded" => {
                purse.balance += amount;
                earn = -amount;
            }
            other => panic!("money moved by {other}: {change}"),
        }
        assert!(purse.held >= 0 && purse.held <= purse.balance, "more set aside than is there after {change}");
        if event != "adjusted" {
            assert!(amount >= 0, "an amount the wrong way: {change}");
        }
        if earn != 0 {
            let earned = self.earned.entry((text(data, "order_no"), currency.clone())).or_default();
            assert!(earn < 0 || *earned == 0, "an order paid twice: {change}");
            *earned += earn;
            assert!(*earned >= 0, "refunded beyond what was paid: {change}");
        }
        let here: i128 =
            self.purses.iter().filter(|((_, of), _)| *of == currency).map(|(_, purse)| purse.balance).sum();
        let there: i128 = self.earned.iter().filter(|((_, of), _)| *of == currency).map(|(_, minor)| *minor).sum();
        let funded = self.funded.get(&currency).copied().unwrap_or_default();
        assert_eq!(here + there, funded, "money appeared or vanished by {change}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, amount: i64, order: &str) -> Value {
        let amount = json!({"amount": amount, "currency": "CNY"});
        json!({"type": format!("wallet.balance.{kind}"), "aggregate_id": "acc_1",
            "data": {"amount": amount, "order_no": order}})
    }

    #[test]
    fn honest_books_add_up() {
        let feed = [
            event("adjusted", 1_000, ""),
            event("held", 300, "a"),
            event("captured", 300, "a"),
            event("paid", 500, "b"),
            event("refunded", 500, "b"),
        ];
        let books = Books::of_feed(&feed);
        let purse = books.purses[&("acc_1".to_owned(), "CNY".to_owned())];
        assert_eq!(purse, Purse { balance: 700, held: 0 });
    }

    #[test]
    fn each_kind_of_cheating_is_seen() {
        let cheats: [&[Value]; 5] = [
            &[event("adjusted", 100, ""), event("paid", 200, "a")],
            &[event("adjusted", 100, ""), event("held", 200, "a")],
            &[event("adjusted", 900, ""), event("paid", 200, "a"), event("paid", 200, "a")],
            &[event("adjusted", 900, ""), event("paid", 200, "a"), event("refunded", 300, "a")],
            &[event("adjusted", 900, ""), event("minted", 200, "a")],
        ];
        for cheat in cheats {
            assert!(std::panic::catch_unwind(|| Books::of_feed(cheat)).is_err(), "not seen: {cheat:?}");
        }
    }
}
