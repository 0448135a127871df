//! `agora bench marketplace`: the transactions of the Online Marketplace benchmark (DIKU), in its mix, as far as this
//! shop has what they need.
//!
//! | of 100 | transaction | here |
//! |---|---|---|
//! | 30 | customer session | read each SKU of a cart, order all of them, pay |
//! | 5 | seller dashboard | a page of the orders that are paid and not yet sent |
//! | 3 | price update | read a SKU, change its price under the version read |
//! | 2 | product update | read a SKU, change its name under the version read |
//! | 60 | delivery update | send a paid order off; or say that one that was sent has arrived; or look for some |
//!
//! Each session that ends well makes two delivery updates possible, so in the long run there are as many as the mix
//! wants. A change that meets a newer version is a refusal; nothing else may be aborted by what others do.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use anyhow::ensure;

use super::{
    Prepared,
    basket::Basket,
    number_after,
    orders::placed,
    pay::{paid, pay},
    reads::{read, read_sku},
    text_after,
};
use crate::{
    bench::{
        Ground, LINES_MAX,
        engine::{Script, Verdict},
        recorder::Count,
        request::Request,
    },
    cli::{Goods, MarketplaceArgs},
};

/// Orders that may wait for a delivery update; of more, the oldest are forgotten.
const DELIVERIES_MAX: usize = 100_000;
/// Units of each SKU: more than a long run sells.
const UNITS: u64 = 10_000_000;

const OPS: &[&str] = &[
    "read a SKU",
    "order",
    "payment",
    "dashboard",
    "price update",
    "product update",
    "delivery update",
    "delivery query",
];
const READ: usize = 0;
const ORDER: usize = 1;
const PAYMENT: usize = 2;
const DASHBOARD: usize = 3;
const PRICE: usize = 4;
const PRODUCT: usize = 5;
const DELIVERY: usize = 6;
const QUERY: usize = 7;

/// Orders on their way to the customer, for all connections.
type Deliveries = Rc<RefCell<VecDeque<Delivery>>>;

#[derive(Clone, Debug)]
struct Delivery {
    order: String,
    is_sent: bool,
}

/// Makes goods, full wallets and scripts.
pub async fn prepare(args: &MarketplaceArgs, ground: &Ground) -> anyhow::Result<Prepared> {
    ensure!((1..=LINES_MAX).contains(&args.cart), "--cart {}: give 1 to {LINES_MAX}", args.cart);
    let goods = Goods {
        distribution: args.distribution,
        skus: Some(args.skus),
        accounts: args.accounts,
        lines: args.cart,
        stock: Some(UNITS),
    };
    let baskets = ground.with_wallets(true).baskets(&goods, &args.load, 0).await?;
    let deliveries = Deliveries::default();
    let script = |basket| Market { basket, deliveries: Rc::clone(&deliveries), doing: Doing::Nothing };
    Ok(Prepared {
        unit: "transaction",
        ops: OPS,
        writes: &[ORDER, PAYMENT, PRICE, PRODUCT, DELIVERY],
        scripts: baskets.into_iter().map(|basket| Box::new(script(basket)) as Box<dyn Script>).collect(),
        rate: args.load.rate,
        ends: false,
    })
}

/// Where a connection is in its transaction.
enum Doing {
    Nothing,
    /// The cart, and how many of it were read.
    Session {
        cart: Vec<usize>,
        read: usize,
    },
    /// The order to be paid.
    Paying(String),
    Dashboard,
    /// Which change, of which SKU, and its version once read.
    Change {
        op: usize,
        sku: String,
        version: Option<u64>,
    },
    Delivery(Delivery),
    Query,
}

struct Market {
    basket: Basket,
    deliveries: Deliveries,
    doing: Doing,
}

impl Market {
    /// Chooses the next transaction.
    fn choose(&mut self) -> Doing {
        match self.basket.dice.below(100) {
            0..30 => Doing::Session { cart: self.basket.cart(), read: 0 },
            30..35 => Doing::Dashboard,
            draw @ 35..40 => {
                let op = if draw < 38 { PRICE } else { PRODUCT };
                Doing::Change { op, sku: self.basket.sku().to_owned(), version: None }
            }
            _ => self.deliveries.borrow_mut().pop_front().map_or(Doing::Query, Doing::Delivery),
        }
    }

    fn deliver_later(&self, delivery: Delivery) {
        let mut deliveries = self.deliveries.borrow_mut();
        if deliveries.len() >= DELIVERIES_MAX {
            deliveries.pop_front();
        }
        deliveries.push_back(delivery);
    }

    fn change(&mut self, op: usize, sku: &str, version: u64, request: &mut Request) {
        request.write("PATCH", &["/api/v2/skus/", sku]).header("If-Match", &format!("\"v{version}\""));
        let draw = self.basket.dice.below(1_000);
        let body = if op == PRICE {
            format!("{{\"price\":{{\"amount\":{},\"currency\":\"CNY\"}}}}", 1_000 + draw)
        } else {
            format!("{{\"name\":\"Benchmark, edition {draw}\"}}")
        };
        request.body().extend_from_slice(body.as_bytes());
    }
}

impl Script for Market {
    fn next(&mut self, request: &mut Request) -> Option<usize> {
        if matches!(self.doing, Doing::Nothing) {
            self.doing = self.choose();
        }
        let doing = std::mem::replace(&mut self.doing, Doing::Nothing);
        let op = match &doing {
            Doing::Nothing => return None,
            Doing::Session { cart, read } => match cart.get(*read) {
                Some(sku) => read_sku(request, self.basket.id(*sku)),
                None => {
                    self.basket.order_of(cart, request.write("POST", &["/api/v2/orders"]).body());
                    ORDER
                }
            },
            Doing::Paying(order) => {
                pay(request, order);
                PAYMENT
            }
            Doing::Dashboard => {
                request.begin("GET", &["/api/v2/orders?status=PAID&limit=50"]);
                DASHBOARD
            }
            Doing::Change { sku, version: None, .. } => read_sku(request, sku),
            Doing::Change { op, sku, version: Some(version) } => {
                self.change(*op, sku, *version, request);
                *op
            }
            Doing::Delivery(delivery) => {
                let act = if delivery.is_sent { "/confirm-receipt" } else { "/ship" };
                request.write("POST", &["/api/v2/orders/", &delivery.order, act]).body().extend_from_slice(b"{}");
                DELIVERY
            }
            Doing::Query => {
                request.begin("GET", &["/api/v2/orders?status=SHIPPED&limit=10"]);
                QUERY
            }
        };
        if op == READ {
            request.header("Consistency", "bounded");
        }
        self.doing = doing;
        Some(op)
    }

    fn answered(&mut self, status: u16, body: &[u8]) -> Verdict {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing => Verdict::end(Count::ERROR),
            Doing::Session { cart, read: done } if done < cart.len() => {
                if read(status) != Count::DONE {
                    return Verdict::end(Count::ERROR);
                }
                self.doing = Doing::Session { cart, read: done + 1 };
                Verdict::then(Count::NOTHING)
            }
            Doing::Session { .. } => match (placed(status, body), text_after(body, b"\"order_no\":\"")) {
                (Count::DONE, Some(order)) => {
                    self.doing = Doing::Paying(order.to_owned());
                    Verdict::then(Count::NOTHING)
                }
                (Count::REFUSED, _) => Verdict::end(Count::REFUSED),
                _ => Verdict::end(Count::ERROR),
            },
            Doing::Paying(order) => {
                let count = paid(status);
                if count == Count::DONE {
                    self.deliver_later(Delivery { order, is_sent: false });
                }
                Verdict::end(count)
            }
            Doing::Dashboard | Doing::Query => Verdict::end(read(status)),
            Doing::Change { op, sku, version: None } => match number_after(body, b"\"version\":") {
                Some(version) if status == 200 => {
                    self.doing = Doing::Change { op, sku, version: Some(version) };
                    Verdict::then(Count::NOTHING)
                }
                _ => Verdict::end(Count::ERROR),
            },
            Doing::Change { .. } => Verdict::end(match status {
                200 => Count::DONE,
                412 => Count::REFUSED,
                _ => Count::ERROR,
            }),
            Doing::Delivery(delivery) => {
                if status != 200 {
                    return Verdict::end(Count::ERROR);
                }
                if !delivery.is_sent {
                    self.deliver_later(Delivery { is_sent: true, ..delivery });
                }
                Verdict::end(Count::DONE)
            }
        }
    }

    fn broken(&mut self) {
        self.doing = Doing::Nothing;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{bench::scenario::basket::tests::basket, cli::Distribution};

    /// Plays the mix against a shop that says yes to everything; how often each kind of transaction ended.
    fn play(transactions: usize) -> BTreeMap<usize, usize> {
        let basket = basket(Distribution::Zipf, 10);
        let mut market = Market { basket, deliveries: Deliveries::default(), doing: Doing::Nothing };
        let mut request = Request::new(&["127.0.0.1:1".parse().unwrap()], "key", "r", 0);
        let mut ended = BTreeMap::new();
        let mut orders = 0;
        while ended.values().sum::<usize>() < transactions {
            let op = market.next(&mut request).unwrap();
            let (status, body) = match op {
                READ => (200, "{\"version\":3}".to_owned()),
                ORDER => {
                    orders += 1;
                    (201, format!("{{\"order_no\":\"o{orders}\"}}"))
                }
                _ => (200, "{}".to_owned()),
            };
            let verdict = market.answered(status, body.as_bytes());
            assert_eq!(verdict.count.errors + verdict.count.refused, 0);
            if !verdict.more {
                assert_eq!(verdict.count, Count::DONE);
                *ended.entry(op).or_default() += 1;
            }
        }
        ended
    }

    #[test]
    fn the_mix_is_that_of_the_benchmark() {
        let ended = play(20_000);
        let share =
            |ops: &[usize]| ops.iter().map(|op| ended.get(op).copied().unwrap_or(0)).sum::<usize>() as f64 / 200.0;
        for (ops, expected) in [
            (&[PAYMENT][..], 30.0),
            (&[DASHBOARD], 5.0),
            (&[PRICE], 3.0),
            (&[PRODUCT], 2.0),
            (&[DELIVERY, QUERY], 60.0),
        ] {
            assert!((share(ops) - expected).abs() < 1.5, "{ops:?}: {} of 100, {expected} expected", share(ops));
        }
        // Nearly all delivery updates find an order to move on.
        assert!(share(&[QUERY]) < 3.0, "{}", share(&[QUERY]));
    }

    #[test]
    fn a_change_names_the_version_that_was_read_and_a_newer_one_is_a_refusal() {
        let basket = basket(Distribution::Uniform, 1);
        let doing = Doing::Change { op: PRICE, sku: "sku_1".to_owned(), version: None };
        let mut market = Market { basket, deliveries: Deliveries::default(), doing };
        let mut request = Request::new(&["127.0.0.1:1".parse().unwrap()], "key", "r", 0);
        assert_eq!(market.next(&mut request), Some(READ));
        assert!(market.answered(200, b"{\"version\":41,").more);
        assert_eq!(market.next(&mut request), Some(PRICE));
        let text = String::from_utf8(request.bytes().to_vec()).unwrap();
        assert!(text.starts_with("PATCH /api/v2/skus/sku_1 "), "{text}");
        assert!(text.contains("\r\nIf-Match: \"v41\"\r\n"), "{text}");
        assert_eq!(market.answered(412, b"{}"), Verdict::end(Count::REFUSED));
    }
}
