//! How commands are read and answers written, kind by kind.

use std::sync::Arc;

use agora_domain::{
    Account, AccountCommand, AccountEvent, AccountId, AccountKind, Claim, ClaimCommand, ClaimEvent, Currency, Entity,
    Money, Order, OrderCommand, OrderEvent, OrderId, Sku, SkuCommand, SkuEvent, SkuId, SkuTerms, Uid,
    account::AccountRefusal,
    claim::ClaimRefusal,
    order::{Cause, Line, OrderRefusal, Provider},
    sku::SkuRefusal,
};

/// Text in, text out.
pub trait Words: Entity {
    /// What happened before the first line.
    fn opening() -> Vec<Self::Event>;
    /// Reads a command.
    fn command(words: &[&str]) -> Self::Command;
    /// Writes an event.
    fn event(event: &Self::Event) -> String;
    /// Writes a refusal.
    fn refusal(refusal: &Self::Refusal) -> String;
    /// Writes a committed state.
    fn state(&self) -> String;
}

fn number<N: std::str::FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

/// `o1` is order 1, `v1` version 1, `n1` owner 1.
fn named<N: std::str::FromStr>(word: &str) -> N {
    number(&word[1..])
}

fn order(word: &str) -> OrderId {
    OrderId(Uid(named(word)))
}

fn cny(minor: i64) -> Money {
    Money::new(minor, Currency::CNY)
}

fn money(word: &str, currency: &str) -> Money {
    Money::new(number(word), currency.parse().expect("a currency"))
}

impl Words for Sku {
    fn opening() -> Vec<SkuEvent> {
        let terms = SkuTerms { code: "T-1".into(), name: "Tea".into(), price: cny(100), sellable: true };
        vec![SkuEvent::Created { terms: Arc::new(terms), id: SkuId(Uid(1)) }]
    }

    fn command(words: &[&str]) -> SkuCommand {
        let reason = String::new();
        match words {
            ["receive", quantity] => SkuCommand::Receive { quantity: number(quantity), reason },
            ["adjust", delta] => SkuCommand::Adjust { delta: number(delta), reason },
            ["reserve", id, quantity] => SkuCommand::Reserve { order: order(id), quantity: number(quantity) },
            ["release", id, quantity] => SkuCommand::Release { order: order(id), quantity: number(quantity) },
            ["ship", id, quantity] => SkuCommand::Ship { order: order(id), quantity: number(quantity) },
            ["price", minor, currency, "if", version] => SkuCommand::Change {
                expected_version: named(version),
                price: Some(money(minor, currency)),
                name: None,
                sellable: None,
            },
            ["sellable", yes, "if", version] => SkuCommand::Change {
                expected_version: named(version),
                price: None,
                name: None,
                sellable: Some(*yes == "yes"),
            },
            _ => panic!("a SKU does not understand {words:?}"),
        }
    }

    fn event(event: &SkuEvent) -> String {
        match event {
            SkuEvent::Created { .. } => "Created".into(),
            SkuEvent::Changed { terms } => {
                format!("Changed to {}, {}", terms.price, if terms.sellable { "sellable" } else { "not sellable" })
            }
            SkuEvent::Received { quantity, .. } => format!("Received {quantity}"),
            SkuEvent::Adjusted { delta, .. } => format!("Adjusted {delta}"),
            SkuEvent::Reserved { order, quantity } => format!("Reserved o{} {quantity}", order.0.0),
            SkuEvent::Released { order, quantity } => format!("Released o{} {quantity}", order.0.0),
            SkuEvent::Shipped { order, quantity } => format!("Shipped o{} {quantity}", order.0.0),
        }
    }

    fn refusal(refusal: &SkuRefusal) -> String {
        match refusal {
            SkuRefusal::NotFound => "no such SKU".into(),
            SkuRefusal::NotSellable => "not sellable".into(),
            SkuRefusal::VersionMismatch { expected, current } => {
                format!("expected v{expected}, current v{} with {}", current.version, current.state())
            }
            SkuRefusal::CurrencyMismatch { given, current } => format!("given {given}, current {current}"),
            SkuRefusal::Short { requested, available } => format!("requested {requested}, available {available}"),
            SkuRefusal::TooMany { would_hold } => format!("would hold {would_hold}"),
        }
    }

    fn state(&self) -> String {
        format!("on hand {}, reserved {}", self.on_hand_units, self.reserved_units)
    }
}

impl Words for Order {
    /// Placed at second 1 for 5.00, it expires a minute later.
    fn opening() -> Vec<OrderEvent> {
        let line = Line {
            sku: SkuId(Uid(1)),
            code: "T-1".into(),
            name: "Tea".into(),
            quantity: 5,
            unit_price: cny(100),
            total: cny(500),
        };
        vec![OrderEvent::Placed {
            id: OrderId(Uid(1)),
            account: AccountId(Uid(7)),
            lines: vec![line],
            total: cny(500),
            held: false,
            ttl_ms: 60_000,
            note: String::new(),
        }]
    }

    fn command(words: &[&str]) -> OrderCommand {
        match words {
            ["pay"] => OrderCommand::Pay { provider: Provider::Balance },
            ["cancel"] => OrderCommand::Cancel { reason: String::new() },
            ["expire", "at", second] => OrderCommand::Expire { now_ms: number::<i64>(second) * 1_000 },
            ["ship"] => OrderCommand::Ship { note: String::new() },
            ["confirm"] => OrderCommand::ConfirmReceipt,
            _ => panic!("an order does not understand {words:?}"),
        }
    }

    fn event(event: &OrderEvent) -> String {
        match event {
            OrderEvent::Placed { .. } => "Placed".into(),
            OrderEvent::Moved { to, cause: Cause::Request, .. } => format!("Moved to {}", to.as_str()),
            OrderEvent::Moved { to, cause: Cause::Expired, .. } => format!("Moved to {}, expired", to.as_str()),
        }
    }

    fn refusal(refusal: &OrderRefusal) -> String {
        match refusal {
            OrderRefusal::NotFound => "no such order".into(),
            OrderRefusal::InvalidTransition { from, to } => format!("{} cannot become {}", from.as_str(), to.as_str()),
            OrderRefusal::NotDue { expire_ms } => format!("not due before second {}", expire_ms / 1_000),
        }
    }

    fn state(&self) -> String {
        self.status().as_str().into()
    }
}

impl Words for Account {
    fn opening() -> Vec<AccountEvent> {
        vec![AccountEvent::Created { id: AccountId(Uid(7)), kind: AccountKind::Customer, name: "Li".into() }]
    }

    fn command(words: &[&str]) -> AccountCommand {
        match words {
            ["use"] => AccountCommand::Use,
            ["adjust", minor, currency] => {
                AccountCommand::Adjust { amount: money(minor, currency), reason: String::new() }
            }
            ["hold", id, minor, currency] => AccountCommand::Hold { order: order(id), amount: money(minor, currency) },
            ["release", id, minor, currency] => {
                AccountCommand::ReleaseHold { order: order(id), amount: money(minor, currency) }
            }
            ["capture", id, minor, currency] => {
                AccountCommand::Capture { order: order(id), amount: money(minor, currency) }
            }
            ["pay", id, minor, currency] => AccountCommand::Pay { order: order(id), amount: money(minor, currency) },
            ["refund", id, minor, currency] => {
                AccountCommand::Refund { order: order(id), amount: money(minor, currency) }
            }
            _ => panic!("an account does not understand {words:?}"),
        }
    }

    fn event(event: &AccountEvent) -> String {
        match event {
            AccountEvent::Created { .. } => "Created".into(),
            AccountEvent::Adjusted { amount, .. } => format!("Adjusted {amount}"),
            AccountEvent::Held { order, amount } => format!("Held o{} {amount}", order.0.0),
            AccountEvent::HoldReleased { order, amount } => format!("HoldReleased o{} {amount}", order.0.0),
            AccountEvent::Captured { order, amount } => format!("Captured o{} {amount}", order.0.0),
            AccountEvent::Paid { order, amount } => format!("Paid o{} {amount}", order.0.0),
            AccountEvent::Refunded { order, amount } => format!("Refunded o{} {amount}", order.0.0),
        }
    }

    fn refusal(refusal: &AccountRefusal) -> String {
        match refusal {
            AccountRefusal::NotFound => "no such account".into(),
            AccountRefusal::Insufficient { requested, available } => {
                format!("requested {requested}, available {available}")
            }
            AccountRefusal::TooMuch { amount } => format!("no room for {amount}"),
            AccountRefusal::TooManyCurrencies { limit } => format!("no more than {limit} currencies"),
        }
    }

    fn state(&self) -> String {
        let wallets = self.wallets.iter().map(|(currency, wallet)| {
            let (balance, held) = (Money::new(wallet.balance_minor, *currency), wallet.held_minor);
            if held == 0 { balance.to_string() } else { format!("{balance}, {} held", Money::new(held, *currency)) }
        });
        let wallets: Vec<String> = wallets.collect();
        if wallets.is_empty() { "no money".into() } else { wallets.join("; ") }
    }
}

impl Words for Claim {
    fn opening() -> Vec<ClaimEvent> {
        Vec::new()
    }

    fn command(words: &[&str]) -> ClaimCommand {
        match words {
            ["take", owner] => ClaimCommand::Take { name: "sku_code:T-1".into(), owner: Uid(named(owner)) },
            _ => panic!("a name does not understand {words:?}"),
        }
    }

    fn event(event: &ClaimEvent) -> String {
        let ClaimEvent::Taken { owner, .. } = event;
        format!("Taken by n{}", owner.0)
    }

    fn refusal(refusal: &ClaimRefusal) -> String {
        let ClaimRefusal::Taken { owner } = refusal;
        format!("n{} has it", owner.0)
    }

    fn state(&self) -> String {
        format!("n{}", self.owner.0)
    }
}
