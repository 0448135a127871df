//! `agora bench pay`: an order, and then its payment from the buyer's wallet.

use super::{Prepared, basket::Basket, orders::placed, text_after};
use crate::{
    bench::{
        Ground,
        engine::{Script, Verdict},
        recorder::Count,
        request::Request,
    },
    cli::PayArgs,
};

/// Makes goods, full wallets and scripts.
pub async fn prepare(args: &PayArgs, ground: &Ground) -> anyhow::Result<Prepared> {
    let baskets = ground.with_wallets(true).baskets(&args.goods, &args.load, 0).await?;
    let script = |basket| Box::new(Pay { basket, order: None }) as Box<dyn Script>;
    Ok(Prepared {
        unit: "order",
        ops: &["order", "payment"],
        writes: &[0, 1],
        scripts: baskets.into_iter().map(script).collect(),
        rate: args.load.rate,
        ends: false,
    })
}

/// Places and pays. An order counts when it is paid.
struct Pay {
    basket: Basket,
    /// Number of the order to be paid.
    order: Option<String>,
}

impl Script for Pay {
    fn next(&mut self, request: &mut Request) -> Option<usize> {
        match &self.order {
            None => self.basket.order(request.write("POST", &["/api/v2/orders"]).body()),
            Some(order) => pay(request, order),
        }
        Some(usize::from(self.order.is_some()))
    }

    fn answered(&mut self, status: u16, body: &[u8]) -> Verdict {
        if self.order.take().is_some() {
            return Verdict::end(paid(status));
        }
        match placed(status, body) {
            Count::DONE => {
                self.order = text_after(body, b"\"order_no\":\"").map(str::to_owned);
                if self.order.is_some() { Verdict::then(Count::NOTHING) } else { Verdict::end(Count::ERROR) }
            }
            other => Verdict::end(other),
        }
    }

    fn broken(&mut self) {
        self.order = None;
    }
}

/// Writes a payment.
pub fn pay(request: &mut Request, order: &str) {
    let body = request.write("POST", &["/api/v2/orders/", order, "/pay"]).body();
    body.extend_from_slice(b"{\"provider\":\"balance\"}");
}

/// What its answer came to.
pub fn paid(status: u16) -> Count {
    if status == 200 { Count::DONE } else { Count::ERROR }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::scenario::basket::tests::basket, cli::Distribution};

    #[test]
    fn an_order_counts_when_it_is_paid() {
        let mut script = Pay { basket: basket(Distribution::Hot, 1), order: None };
        let mut request = Request::new(&["127.0.0.1:1".parse().unwrap()], "key", "r", 0);
        assert_eq!(script.next(&mut request), Some(0));
        let verdict = script.answered(201, b"{\"id\":\"ord_1\",\"order_no\":\"7q\"}");
        assert_eq!(verdict, Verdict::then(Count::NOTHING));
        assert_eq!(script.next(&mut request), Some(1));
        let text = String::from_utf8(request.bytes().to_vec()).unwrap();
        assert!(text.starts_with("POST /api/v2/orders/7q/pay HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("{\"provider\":\"balance\"}"), "{text}");
        assert_eq!(script.answered(200, b"{}"), Verdict::end(Count::DONE));
        assert_eq!(script.next(&mut request), Some(0));
        assert_eq!(script.answered(409, b"INVENTORY_SHORTAGE"), Verdict::end(Count::REFUSED));
    }
}
