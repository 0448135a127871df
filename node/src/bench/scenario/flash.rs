//! `agora bench flash`: few units, many buyers.

use anyhow::{Context, ensure};

use super::{Prepared, basket::Basket, orders::placed};
use crate::{
    bench::{
        Ground,
        cluster::Wish,
        dice::Choice,
        engine::{Script, Shared, Verdict},
        recorder::Count,
        request::Request,
    },
    cli::{Distribution, FlashArgs},
};

/// Units there may be.
const UNITS_MAX: u64 = 100_000_000;

/// The SKU that is sold, and how many there are.
pub struct Sale {
    sku: String,
    units: u64,
}

/// Makes one SKU, buyers and scripts.
pub async fn prepare(args: &FlashArgs, ground: &Ground) -> anyhow::Result<(Prepared, Sale)> {
    ensure!((1..=UNITS_MAX).contains(&args.units), "--units {}: give 1 to {UNITS_MAX}", args.units);
    let wish = Wish {
        skus: 1,
        units: args.units,
        units_hot: args.units,
        accounts: args.accounts,
        wallets: false,
        orders: 0,
        run: ground.run.clone(),
    };
    let goods = ground.make(&wish).await?;
    let sale = Sale { sku: goods.skus[0].clone(), units: args.units };
    let choice = Choice::new(Distribution::Uniform, 1);
    let baskets = Basket::many(goods, choice, 1, args.load.connections, ground.seed);
    let script = |basket| Box::new(Buyer { basket, is_over: false }) as Box<dyn Script>;
    let prepared = Prepared {
        unit: "order",
        ops: &["order"],
        writes: &[0],
        scripts: baskets.into_iter().map(script).collect(),
        rate: args.load.rate,
        ends: true,
    };
    Ok((prepared, sale))
}

/// Buys one after the other until told that nothing is left.
struct Buyer {
    basket: Basket,
    is_over: bool,
}

impl Script for Buyer {
    fn next(&mut self, request: &mut Request) -> Option<usize> {
        if self.is_over {
            return None;
        }
        self.basket.order(request.write("POST", &["/api/v2/orders"]).body());
        Some(0)
    }

    fn answered(&mut self, status: u16, body: &[u8]) -> Verdict {
        let count = placed(status, body);
        self.is_over = count == Count::REFUSED;
        Verdict::end(count)
    }
}

/// What the shop says of the SKU afterwards.
#[derive(Clone, Copy, Debug)]
struct Stock {
    reserved: u64,
    available: u64,
}

impl Sale {
    /// Holds what the buyers were told against what the shop has: lines for the report, or what is wrong.
    pub async fn verify(&self, ground: &Ground, shared: &Shared) -> anyhow::Result<Vec<(String, String)>> {
        let answer = ground.shop()?.get(&format!("/api/v2/skus/{}/stock", self.sku)).await?;
        let number = |name: &str| answer.body[name].as_u64().with_context(|| format!("stock without {name}"));
        let stock = Stock { reserved: number("reserved")?, available: number("available")? };
        let (told, last_done_us) = shared.look(|recorder| (recorder.total, recorder.last_done_us));
        self.judge(stock, told)?;
        let sold_out = if stock.available == 0 {
            format!("after {:.3} s", last_done_us as f64 / 1e6)
        } else {
            format!("not yet: {} of {} are left", stock.available, self.units)
        };
        Ok(vec![("sold out".to_owned(), sold_out), ("sold twice".to_owned(), "0".to_owned())])
    }

    fn judge(&self, stock: Stock, told: Count) -> anyhow::Result<()> {
        ensure!(
            stock.reserved + stock.available == self.units,
            "{} units reserved and {} available of {}",
            stock.reserved,
            stock.available,
            self.units
        );
        ensure!(told.done <= stock.reserved, "{} orders accepted, {} units reserved", told.done, stock.reserved);
        // An error may have been an order whose answer was lost.
        ensure!(
            stock.reserved <= told.done + told.errors,
            "{} units reserved, only {} orders accepted",
            stock.reserved,
            told.done
        );
        ensure!(told.refused == 0 || stock.available == 0, "refused while {} units were left", stock.available);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_is_judged_by_what_buyers_were_told() {
        let sale = Sale { sku: "s".to_owned(), units: 10 };
        let told = |done, refused, errors| Count { done, refused, errors };
        let judge = |reserved, available, told| sale.judge(Stock { reserved, available }, told);
        assert!(judge(10, 0, told(10, 5, 0)).is_ok());
        assert!(judge(10, 0, told(9, 5, 1)).is_ok(), "an answer was lost");
        assert!(judge(4, 6, told(4, 0, 0)).is_ok(), "the time was over");
        assert!(judge(10, 0, told(11, 0, 0)).is_err(), "oversold");
        assert!(judge(11, 0, told(11, 0, 0)).is_err(), "more than there were");
        assert!(judge(10, 0, told(9, 5, 0)).is_err(), "a unit is gone that nobody bought");
        assert!(judge(9, 1, told(9, 5, 0)).is_err(), "refused while one was left");
    }
}
