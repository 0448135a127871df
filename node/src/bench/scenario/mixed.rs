//! `agora bench mixed`: mostly reads, some orders, at a steady rate.

use anyhow::ensure;

use super::{
    Prepared,
    basket::Basket,
    orders::placed,
    reads::{PLACED_MAX, read, read_order, read_sku},
};
use crate::{
    bench::{
        Ground,
        engine::{Script, Verdict},
        request::Request,
    },
    cli::{Freshness, MixedArgs},
};

/// Requests per second when nothing is asked.
const RATE_DEFAULT: f64 = 10_000.0;
/// The number of the write among the kinds of requests.
const ORDER: usize = 2;

/// Makes goods, orders to read, and scripts.
pub async fn prepare(args: &MixedArgs, ground: &Ground) -> anyhow::Result<Prepared> {
    ensure!(args.reads <= 100, "--reads {}: give 0 to 100", args.reads);
    ensure!((1..=PLACED_MAX).contains(&args.placed), "--placed {}: give 1 to {PLACED_MAX}", args.placed);
    let baskets = ground.baskets(&args.goods, &args.load, args.placed).await?;
    let script = |basket| Mixed { basket, reads: args.reads, freshness: args.consistency, op: 0 };
    Ok(Prepared {
        unit: "request",
        ops: &["read a SKU", "read an order", "order"],
        writes: &[ORDER],
        scripts: baskets.into_iter().map(|basket| Box::new(script(basket)) as Box<dyn Script>).collect(),
        rate: if args.closed { None } else { Some(args.load.rate.unwrap_or(RATE_DEFAULT)) },
        ends: false,
    })
}

/// Reads and orders.
struct Mixed {
    basket: Basket,
    reads: u8,
    freshness: Freshness,
    op: usize,
}

impl Script for Mixed {
    fn next(&mut self, request: &mut Request) -> Option<usize> {
        self.op = if self.basket.dice.below(100) < usize::from(self.reads) { self.basket.dice.below(2) } else { ORDER };
        if self.op == ORDER {
            self.basket.order(request.write("POST", &["/api/v2/orders"]).body());
            return Some(self.op);
        }
        if self.op == 0 {
            read_sku(request, self.basket.sku());
        } else {
            read_order(request, self.basket.placed());
        }
        request.header("Consistency", self.freshness.as_str());
        Some(self.op)
    }

    fn answered(&mut self, status: u16, body: &[u8]) -> Verdict {
        Verdict::end(if self.op == ORDER { placed(status, body) } else { read(status) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::scenario::basket::tests::basket, cli::Distribution};

    #[test]
    fn nine_of_ten_requests_read() {
        let basket = basket(Distribution::Uniform, 3);
        let mut script = Mixed { basket, reads: 90, freshness: Freshness::Bounded, op: 0 };
        let mut request = Request::new(&["127.0.0.1:1".parse().unwrap()], "key", "r", 0);
        let mut counts = [0_usize; 3];
        for _ in 0..10_000 {
            let op = script.next(&mut request).unwrap();
            counts[op] += 1;
            let is_write = request.bytes().starts_with(b"POST");
            assert_eq!(is_write, op == ORDER);
        }
        assert!((850..1_150).contains(&counts[ORDER]), "{counts:?}");
        assert!(counts[0].abs_diff(counts[1]) < 500, "{counts:?}");
    }
}
