//! `agora bench reads`: one order, one SKU, or a page of them.

use anyhow::ensure;

use super::{Prepared, basket::Basket};
use crate::{
    bench::{
        Ground,
        engine::{Script, Verdict},
        recorder::Count,
        request::Request,
    },
    cli::{Freshness, ReadsArgs, What},
};

/// Rows of a page.
const PAGE: &str = "?limit=20";
/// Orders that may be placed beforehand.
pub const PLACED_MAX: usize = 1_000_000;

/// Makes goods, orders to read, and scripts.
pub async fn prepare(args: &ReadsArgs, ground: &Ground) -> anyhow::Result<Prepared> {
    ensure!((1..=PLACED_MAX).contains(&args.placed), "--placed {}: give 1 to {PLACED_MAX}", args.placed);
    let placed = if args.what == What::Skus { 0 } else { args.placed };
    let baskets = ground.baskets(&args.goods, &args.load, placed).await?;
    let script = |basket| Reads { basket, what: args.what, freshness: args.consistency, turn: false };
    Ok(Prepared {
        unit: "request",
        ops: match args.what {
            What::Orders => &["read an order"],
            What::Skus => &["read a SKU"],
            What::Lists => &["list orders", "list SKUs"],
        },
        writes: &[],
        scripts: baskets.into_iter().map(|basket| Box::new(script(basket)) as Box<dyn Script>).collect(),
        rate: args.load.rate,
        ends: false,
    })
}

/// Reads, one request after the other.
struct Reads {
    basket: Basket,
    what: What,
    freshness: Freshness,
    turn: bool,
}

impl Script for Reads {
    fn next(&mut self, request: &mut Request) -> Option<usize> {
        let op = match self.what {
            What::Orders => read_order(request, self.basket.placed()),
            What::Skus => read_sku(request, self.basket.sku()),
            What::Lists => {
                self.turn = !self.turn;
                let path = if self.turn { "/api/v2/orders" } else { "/api/v2/skus" };
                request.begin("GET", &[path, PAGE]);
                usize::from(!self.turn)
            }
        };
        request.header("Consistency", self.freshness.as_str());
        Some(op)
    }

    fn answered(&mut self, status: u16, _body: &[u8]) -> Verdict {
        Verdict::end(read(status))
    }
}

/// Writes a read of one order.
pub fn read_order(request: &mut Request, order: &str) -> usize {
    request.begin("GET", &["/api/v2/orders/", order]);
    0
}

/// Writes a read of one SKU.
pub fn read_sku(request: &mut Request, sku: &str) -> usize {
    request.begin("GET", &["/api/v2/skus/", sku]);
    0
}

/// What the answer to a read came to.
pub fn read(status: u16) -> Count {
    if status == 200 { Count::DONE } else { Count::ERROR }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::scenario::basket::tests::basket, cli::Distribution};

    #[test]
    fn a_read_says_how_fresh_it_must_be() {
        let mut request = Request::new(&["127.0.0.1:1".parse().unwrap()], "key", "r", 0);
        let mut first_lines = Vec::new();
        for (what, freshness) in [(What::Orders, Freshness::Local), (What::Lists, Freshness::Bounded)] {
            let basket = basket(Distribution::Uniform, 1);
            let mut script = Reads { basket, what, freshness, turn: false };
            for _ in 0..2 {
                let op = script.next(&mut request).unwrap();
                let text = String::from_utf8(request.bytes().to_vec()).unwrap();
                assert!(text.contains(&format!("\r\nConsistency: {}\r\n\r\n", freshness.as_str())), "{text}");
                first_lines.push((op, text.lines().next().unwrap().to_owned()));
            }
        }
        let expected = [
            (0, "GET /api/v2/orders/1a HTTP/1.1".to_owned()),
            (0, "GET /api/v2/orders/1a HTTP/1.1".to_owned()),
            (0, "GET /api/v2/orders?limit=20 HTTP/1.1".to_owned()),
            (1, "GET /api/v2/skus?limit=20 HTTP/1.1".to_owned()),
        ];
        assert_eq!(first_lines, expected);
    }
}
