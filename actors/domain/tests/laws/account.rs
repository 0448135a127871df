//! An account under test.

use std::collections::BTreeMap;

use agora_domain::{
    Account, AccountCommand, AccountEvent, AccountId, AccountKind, Currency, Money, OrderId, Uid,
    account::{AccountRefusal, CURRENCIES_MAX},
    money::AMOUNT_MINOR_MAX,
};
use proptest::{prelude::*, sample::Index};

use crate::subject::{Subject, order_id, pick};

/// Currencies the account has from the start: one fewer than it may have.
const OPEN: usize = CURRENCIES_MAX - 1;

/// What is wished of an account.
#[derive(Clone, Debug)]
pub enum Wish {
    Use,
    Adjust(Money),
    Hold(Money),
    ReleaseHold(Index),
    Capture(Index),
    Pay(Money),
    Refund(Index),
}

/// Money held for and paid by orders.
#[derive(Clone, Debug, Default)]
pub struct Book {
    next: u128,
    held: BTreeMap<OrderId, Money>,
    paid: BTreeMap<OrderId, Money>,
}

fn currency(number: usize) -> Currency {
    let letter = char::from(b'A' + u8::try_from(number).unwrap());
    format!("X{letter}X").parse().unwrap()
}

/// Mostly of one currency, so that there is something to contend for; now and then of one that is not open yet.
fn any_currency() -> impl Strategy<Value = Currency> {
    prop_oneof![6 => Just(0), 1 => 1..OPEN, 1 => OPEN..OPEN + 3].prop_map(currency)
}

fn sum() -> impl Strategy<Value = Money> {
    (0..5i64, any_currency()).prop_map(|(minor, currency)| Money::new(minor, currency))
}

fn adjustment() -> impl Strategy<Value = Money> {
    let half = AMOUNT_MINOR_MAX / 2;
    let minor = prop_oneof![Just(-2i64), Just(-1), Just(1), Just(2), Just(3), Just(half), Just(-half)];
    (minor, any_currency()).prop_map(|(minor, currency)| Money::new(minor, currency))
}

impl Subject for Account {
    type Wish = Wish;
    type Book = Book;

    fn wish() -> BoxedStrategy<Wish> {
        prop_oneof![
            1 => Just(Wish::Use),
            4 => adjustment().prop_map(Wish::Adjust),
            5 => sum().prop_map(Wish::Hold),
            2 => any::<Index>().prop_map(Wish::ReleaseHold),
            2 => any::<Index>().prop_map(Wish::Capture),
            3 => sum().prop_map(Wish::Pay),
            2 => any::<Index>().prop_map(Wish::Refund),
        ]
        .boxed()
    }

    fn event() -> BoxedStrategy<AccountEvent> {
        let amount = || {
            let minor = prop_oneof![6 => -2..4i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
            (minor, 0..2usize).prop_map(|(minor, number)| Money::new(minor, currency(number)))
        };
        let order = order_id(1);
        prop_oneof![
            1 => Just(Account::opening().swap_remove(0)),
            2 => amount().prop_map(|amount| AccountEvent::Adjusted { amount, reason: String::new() }),
            2 => amount().prop_map(move |amount| AccountEvent::Held { order, amount }),
            1 => amount().prop_map(move |amount| AccountEvent::HoldReleased { order, amount }),
            1 => amount().prop_map(move |amount| AccountEvent::Captured { order, amount }),
            1 => amount().prop_map(move |amount| AccountEvent::Paid { order, amount }),
            1 => amount().prop_map(move |amount| AccountEvent::Refunded { order, amount }),
        ]
        .boxed()
    }

    fn opening() -> Vec<AccountEvent> {
        let created =
            AccountEvent::Created { id: AccountId(Uid(7)), kind: AccountKind::Customer, name: "Li".to_owned() };
        let funded = (0..OPEN)
            .map(|number| AccountEvent::Adjusted { amount: Money::new(3, currency(number)), reason: String::new() });
        std::iter::once(created).chain(funded).collect()
    }

    fn command(wish: &Wish, book: &mut Book, _state: Option<&Self>) -> Option<AccountCommand> {
        book.next += 1;
        let fresh = order_id(book.next);
        Some(match *wish {
            Wish::Use => AccountCommand::Use,
            Wish::Adjust(amount) => AccountCommand::Adjust { amount, reason: String::new() },
            Wish::Hold(amount) => AccountCommand::Hold { order: fresh, amount },
            Wish::Pay(amount) => AccountCommand::Pay { order: fresh, amount },
            Wish::ReleaseHold(index) => {
                let order = pick(&book.held, index)?;
                AccountCommand::ReleaseHold { order, amount: book.held[&order] }
            }
            Wish::Capture(index) => {
                let order = pick(&book.held, index)?;
                AccountCommand::Capture { order, amount: book.held[&order] }
            }
            Wish::Refund(index) => {
                let order = pick(&book.paid, index)?;
                AccountCommand::Refund { order, amount: book.paid[&order] }
            }
        })
    }

    fn granted(book: &mut Book, event: &AccountEvent) {
        match event {
            AccountEvent::HoldReleased { order, .. } | AccountEvent::Captured { order, .. } => {
                book.held.remove(order);
            }
            AccountEvent::Refunded { order, .. } => {
                book.paid.remove(order);
            }
            _ => {}
        }
    }

    fn committed(book: &mut Book, event: &AccountEvent) {
        match event {
            AccountEvent::Held { order, amount } => {
                book.held.insert(*order, *amount);
            }
            AccountEvent::Captured { order, amount } | AccountEvent::Paid { order, amount } => {
                book.paid.insert(*order, *amount);
            }
            _ => {}
        }
    }

    fn lost(book: &mut Book, event: &AccountEvent) {
        match event {
            AccountEvent::HoldReleased { order, amount } | AccountEvent::Captured { order, amount } => {
                book.held.insert(*order, *amount);
            }
            AccountEvent::Refunded { order, amount } => {
                book.paid.insert(*order, *amount);
            }
            _ => {}
        }
    }

    fn sound(&self) -> bool {
        self.wallets.values().all(|wallet| {
            let is_a_row = wallet.available_minor() == wallet.balance_minor - wallet.held_minor;
            0 <= wallet.held_minor && wallet.held_minor <= wallet.balance_minor && is_a_row
        })
    }

    fn within_limits(&self) -> bool {
        // Refunds may go beyond what can be put in by hand.
        let most = AMOUNT_MINOR_MAX.saturating_mul(4);
        self.wallets.len() <= CURRENCIES_MAX && self.wallets.values().all(|wallet| wallet.balance_minor <= most)
    }

    fn again(command: &AccountCommand, _after: &Self) -> Result<Vec<AccountEvent>, AccountRefusal> {
        panic!("{command:?} commutes")
    }
}
