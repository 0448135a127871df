//! `agora bench orders`: one order per request, or many.

use std::{cell::Cell, rc::Rc};

use anyhow::ensure;

use super::{Prepared, basket::Basket};
use crate::{
    bench::{
        Ground,
        engine::{Script, Verdict},
        recorder::Count,
        request::Request,
        response,
    },
    cli::OrdersArgs,
};

/// Orders one request may hold.
const BATCH_MAX: usize = 100;

/// Makes goods and scripts.
pub async fn prepare(args: &OrdersArgs, ground: &Ground) -> anyhow::Result<Prepared> {
    ensure!((1..=BATCH_MAX).contains(&args.batch), "--batch {}: give 1 to {BATCH_MAX}", args.batch);
    ensure!(args.orders != Some(0), "--orders must not be 0");
    let left = Rc::new(Cell::new(args.orders.unwrap_or(u64::MAX)));
    let baskets = ground.baskets(&args.goods, &args.load, 0).await?;
    let script = |basket| Orders { basket, batch: args.batch, left: Rc::clone(&left), sent: 0 };
    Ok(Prepared {
        unit: "order",
        ops: if args.batch > 1 { &["batch"] } else { &["order"] },
        writes: &[0],
        scripts: baskets.into_iter().map(|basket| Box::new(script(basket)) as Box<dyn Script>).collect(),
        rate: args.load.rate.map(|rate| rate / args.batch as f64),
        ends: args.orders.is_some(),
    })
}

/// Orders, one request after the other.
struct Orders {
    basket: Basket,
    batch: usize,
    /// Orders that may still be sent, by all.
    left: Rc<Cell<u64>>,
    /// Orders in the request on its way.
    sent: u64,
}

impl Script for Orders {
    fn next(&mut self, request: &mut Request) -> Option<usize> {
        self.sent = self.left.get().min(self.batch as u64);
        if self.sent == 0 {
            return None;
        }
        self.left.set(self.left.get() - self.sent);
        if self.batch == 1 {
            self.basket.order(request.write("POST", &["/api/v2/orders"]).body());
            return Some(0);
        }
        let body = request.write("POST", &["/api/v2/orders/batch"]).body();
        body.extend_from_slice(b"{\"orders\":[");
        for number in 0..self.sent {
            if number > 0 {
                body.push(b',');
            }
            self.basket.order(body);
        }
        body.extend_from_slice(b"]}");
        Some(0)
    }

    fn answered(&mut self, status: u16, body: &[u8]) -> Verdict {
        Verdict::end(if self.batch == 1 { placed(status, body) } else { placed_many(status, body, self.sent) })
    }
}

/// What the answer to one order came to.
pub fn placed(status: u16, body: &[u8]) -> Count {
    match status {
        201 => Count::DONE,
        409 if response::count(body, b"INVENTORY_SHORTAGE") > 0 => Count::REFUSED,
        _ => Count::ERROR,
    }
}

/// What the answer to so many came to.
fn placed_many(status: u16, body: &[u8], sent: u64) -> Count {
    if status != 200 {
        return Count { errors: sent, ..Count::NOTHING };
    }
    let done = response::count(body, b"\"status\":201");
    let refused = response::count(body, b"\"status\":409");
    Count { done, refused, errors: sent.saturating_sub(done + refused) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::scenario::basket::tests::basket, cli::Distribution};

    fn orders(batch: usize, left: u64) -> (Orders, Request) {
        let basket = basket(Distribution::Uniform, 3);
        let script = Orders { basket, batch, left: Rc::new(Cell::new(left)), sent: 0 };
        (script, Request::new(&["127.0.0.1:1".parse().unwrap()], "key", "r", 0))
    }

    #[test]
    fn a_batch_holds_as_many_orders_as_asked_and_no_more_than_are_left() {
        let (mut script, mut request) = orders(50, 120);
        for expected in [50, 50, 20] {
            assert_eq!(script.next(&mut request), Some(0));
            let text = String::from_utf8(request.bytes().to_vec()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST /api/v2/orders/batch HTTP/1.1\r\n"), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["orders"].as_array().map(Vec::len), Some(expected));
        }
        assert_eq!(script.next(&mut request), None);
    }

    #[test]
    fn a_single_order_is_sent_by_itself() {
        let (mut script, mut request) = orders(1, 1);
        assert_eq!(script.next(&mut request), Some(0));
        let text = String::from_utf8(request.bytes().to_vec()).unwrap();
        assert!(text.starts_with("POST /api/v2/orders HTTP/1.1\r\n"), "{text}");
        assert_eq!(script.next(&mut request), None);
    }

    #[test]
    fn answers_are_sorted_into_accepted_refused_and_errors() {
        assert_eq!(placed(201, b"{}"), Count::DONE);
        assert_eq!(placed(409, b"{\"code\":\"INVENTORY_SHORTAGE\"}"), Count::REFUSED);
        assert_eq!(placed(409, b"{\"code\":\"KEY_REUSED\"}"), Count::ERROR);
        assert_eq!(placed(503, b"{\"code\":\"NO_QUORUM\"}"), Count::ERROR);
        let mixed = placed_many(200, b"[{\"status\":201},{\"status\":409}]", 3);
        assert_eq!(mixed, Count { done: 1, refused: 1, errors: 1 });
        assert_eq!(placed_many(503, b"", 3), Count { done: 0, refused: 0, errors: 3 });
    }
}
