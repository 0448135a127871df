//! A SKU under test.

use std::{collections::BTreeMap, sync::Arc};

use agora_domain::{
    Currency, Money, OrderId, Sku, SkuCommand, SkuEvent, SkuId, SkuTerms, Uid,
    sku::{ON_HAND_UNITS_MAX, SkuRefusal},
};
use proptest::{option, prelude::*, sample::Index};

use crate::subject::{Subject, order_id, pick};

/// Few different figures, so that equal events meet in flight and shortages are common.
const UNITS_MAX: u32 = 4;

/// What is wished of a SKU.
#[derive(Clone, Debug)]
pub enum Wish {
    Reserve(u32),
    Release(Index),
    Ship(Index),
    Receive(u32),
    Adjust(i64),
    Change { stale: bool, price_minor: Option<i64>, sellable: Option<bool> },
}

/// Units promised to orders, by order.
#[derive(Clone, Debug, Default)]
pub struct Book {
    next: u128,
    open: BTreeMap<OrderId, u32>,
}

fn terms() -> Arc<SkuTerms> {
    let price = Money::new(100, Currency::CNY);
    Arc::new(SkuTerms { code: "T-1".into(), name: "Tea".into(), price, sellable: true })
}

fn money() -> impl Strategy<Value = Money> {
    (98..102i64, prop_oneof![9 => Just(Currency::CNY), 1 => Just("USD".parse().unwrap())])
        .prop_map(|(minor, currency)| Money::new(minor, currency))
}

impl Subject for Sku {
    type Wish = Wish;
    type Book = Book;

    fn wish() -> BoxedStrategy<Wish> {
        let half = i64::try_from(ON_HAND_UNITS_MAX / 2).unwrap();
        prop_oneof![
            6 => (1..=UNITS_MAX).prop_map(Wish::Reserve),
            3 => any::<Index>().prop_map(Wish::Release),
            3 => any::<Index>().prop_map(Wish::Ship),
            4 => (1..=UNITS_MAX).prop_map(Wish::Receive),
            3 => prop_oneof![Just(-2i64), Just(-1), Just(1), Just(half), Just(-half)].prop_map(Wish::Adjust),
            2 => (prop::bool::weighted(0.2), option::of(99..102i64), option::of(prop::bool::weighted(0.7)))
                .prop_map(|(stale, price_minor, sellable)| Wish::Change { stale, price_minor, sellable }),
        ]
        .boxed()
    }

    fn event() -> BoxedStrategy<SkuEvent> {
        let order = (0..3u128).prop_map(order_id);
        let quantity = prop_oneof![4 => 0..=UNITS_MAX, 1 => Just(u32::MAX)];
        let delta = prop_oneof![4 => -3..4i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
        let reason = String::new;
        prop_oneof![
            1 => Just(SkuEvent::Created { terms: terms(), id: SkuId(Uid(1)) }),
            1 => money().prop_map(|price| {
                SkuEvent::Changed { terms: Arc::new(SkuTerms { price, ..(*terms()).clone() }) }
            }),
            2 => quantity.clone().prop_map(move |quantity| SkuEvent::Received { quantity, reason: reason() }),
            2 => delta.prop_map(move |delta| SkuEvent::Adjusted { delta, reason: reason() }),
            2 => (order.clone(), quantity.clone())
                .prop_map(|(order, quantity)| SkuEvent::Reserved { order, quantity }),
            2 => (order.clone(), quantity.clone())
                .prop_map(|(order, quantity)| SkuEvent::Released { order, quantity }),
            2 => (order, quantity).prop_map(|(order, quantity)| SkuEvent::Shipped { order, quantity }),
        ]
        .boxed()
    }

    fn opening() -> Vec<SkuEvent> {
        vec![
            SkuEvent::Created { terms: terms(), id: SkuId(Uid(1)) },
            SkuEvent::Received { quantity: 3, reason: String::new() },
        ]
    }

    fn command(wish: &Wish, book: &mut Book, state: Option<&Self>) -> Option<SkuCommand> {
        let reason = String::new();
        Some(match *wish {
            Wish::Reserve(quantity) => {
                book.next += 1;
                SkuCommand::Reserve { order: order_id(book.next), quantity }
            }
            Wish::Release(index) => {
                let order = pick(&book.open, index)?;
                SkuCommand::Release { order, quantity: book.open[&order] }
            }
            Wish::Ship(index) => {
                let order = pick(&book.open, index)?;
                SkuCommand::Ship { order, quantity: book.open[&order] }
            }
            Wish::Receive(quantity) => SkuCommand::Receive { quantity, reason },
            Wish::Adjust(delta) => SkuCommand::Adjust { delta, reason },
            Wish::Change { stale, price_minor, sellable } => SkuCommand::Change {
                expected_version: state.map_or(1, |sku| sku.version) - u64::from(stale),
                price: price_minor.map(|minor| Money::new(minor, Currency::CNY)),
                name: None,
                sellable,
            },
        })
    }

    fn granted(book: &mut Book, event: &SkuEvent) {
        if let SkuEvent::Released { order, .. } | SkuEvent::Shipped { order, .. } = event {
            book.open.remove(order);
        }
    }

    fn committed(book: &mut Book, event: &SkuEvent) {
        if let SkuEvent::Reserved { order, quantity } = event {
            book.open.insert(*order, *quantity);
        }
    }

    fn lost(book: &mut Book, event: &SkuEvent) {
        if let SkuEvent::Released { order, quantity } | SkuEvent::Shipped { order, quantity } = event {
            book.open.insert(*order, *quantity);
        }
    }

    fn sound(&self) -> bool {
        // The latter is how a row tells that nothing of the pessimistic copy got into it.
        self.conserved() && self.available_units() == self.on_hand_units - self.reserved_units
    }

    fn within_limits(&self) -> bool {
        self.on_hand_units <= ON_HAND_UNITS_MAX
    }

    fn again(command: &SkuCommand, after: &Self) -> Result<Vec<SkuEvent>, SkuRefusal> {
        match command {
            SkuCommand::Change { expected_version, .. } => {
                Err(SkuRefusal::VersionMismatch { expected: *expected_version, current: Box::new(after.clone()) })
            }
            _ => panic!("{command:?} commutes"),
        }
    }
}
