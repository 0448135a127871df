//! An order under test.

use agora_domain::{
    AccountId, At, Currency, Entity, Money, Order, OrderCommand, OrderEvent, OrderStatus, SkuId, Uid,
    order::{Cause, Line, OrderRefusal, Provider},
};
use proptest::{prelude::*, sample::select};

use crate::subject::{Subject, at, evolve, opened, order_id};

const TTL_MS: u64 = 5_000;

/// What is wished of an order.
#[derive(Clone, Debug)]
pub enum Wish {
    Pay,
    Cancel,
    Expire { due: bool },
    Ship,
    Confirm,
}

fn placed(line_minor: i64, total_minor: i64) -> OrderEvent {
    let money = |minor| Money::new(minor, Currency::CNY);
    OrderEvent::Placed {
        id: order_id(1),
        account: AccountId(Uid(7)),
        lines: vec![Line {
            sku: SkuId(Uid(1)),
            code: "T-1".into(),
            name: "Tea".into(),
            quantity: 1,
            unit_price: money(line_minor),
            total: money(line_minor),
        }],
        total: money(total_minor),
        held: false,
        ttl_ms: TTL_MS,
        note: String::new(),
    }
}

impl Subject for Order {
    type Wish = Wish;
    type Book = ();

    fn wish() -> BoxedStrategy<Wish> {
        prop_oneof![
            3 => Just(Wish::Pay),
            1 => Just(Wish::Cancel),
            2 => any::<bool>().prop_map(|due| Wish::Expire { due }),
            2 => Just(Wish::Ship),
            2 => Just(Wish::Confirm),
        ]
        .boxed()
    }

    fn event() -> BoxedStrategy<OrderEvent> {
        let minor = || prop_oneof![2 => Just(5i64), 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
        prop_oneof![
            1 => (minor(), minor()).prop_map(|(line, total)| placed(line, total)),
            5 => (select(&OrderStatus::ALL[..]), select(vec![Cause::Request, Cause::Expired]))
                .prop_map(|(to, cause)| OrderEvent::Moved { to, cause, note: String::new() }),
        ]
        .boxed()
    }

    fn opening() -> Vec<OrderEvent> {
        vec![placed(500, 500)]
    }

    fn command(wish: &Wish, _book: &mut (), state: Option<&Self>) -> Option<OrderCommand> {
        let expire_ms = state.map_or(0, |order| order.expire_ms);
        Some(match wish {
            Wish::Pay => OrderCommand::Pay { provider: Provider::Balance },
            Wish::Cancel => OrderCommand::Cancel { reason: "changed my mind".into() },
            Wish::Expire { due } => OrderCommand::Expire { now_ms: expire_ms - i64::from(!due) },
            Wish::Ship => OrderCommand::Ship { note: "by cart".into() },
            Wish::Confirm => OrderCommand::ConfirmReceipt,
        })
    }

    fn sound(&self) -> bool {
        let legal = self.steps.windows(2).all(|pair| pair[0].status.next().contains(&pair[1].status));
        legal && self.steps.first().is_some_and(|step| step.status == OrderStatus::Created)
    }

    fn again(command: &OrderCommand, _after: &Self) -> Result<Vec<OrderEvent>, OrderRefusal> {
        match command {
            // Nobody waits for a timer's answer, so "cancelled already" is a plain no.
            OrderCommand::Expire { .. } => {
                let (from, to) = (OrderStatus::Cancelled, OrderStatus::Cancelled);
                Err(OrderRefusal::InvalidTransition { from, to })
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// An answer kept as (order, version) is the order as it was then.
pub fn every_version_is_remembered(wishes: &[Wish]) -> Result<(), String> {
    let (mut state, mut index) = opened::<Order>();
    let mut seen = vec![state.clone().expect("placed")];
    for wish in wishes {
        let command = Order::command(wish, &mut (), state.as_ref()).expect("an order may be asked anything");
        for event in Order::decide(state.as_ref(), &command).unwrap_or_default() {
            index += 1;
            let At { time_ms, .. } = at(index);
            evolve(&mut state, &event, index)?;
            let order = state.clone().expect("moved");
            if order.steps.last().is_none_or(|step| step.at_ms != time_ms) {
                return Err(format!("{order:?} does not know that it changed at {time_ms}"));
            }
            seen.push(order);
        }
    }
    let last = state.expect("placed");
    for (version, then) in (1..).zip(&seen) {
        if last.clone().at_version(version) != *then || then.version() != version {
            return Err(format!("version {version} was {then:?}"));
        }
    }
    Ok(())
}
