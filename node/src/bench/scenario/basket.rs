//! Orders as JSON: who buys what.

use std::rc::Rc;

use crate::bench::{
    cluster::Goods,
    dice::{Choice, Dice},
};

/// Chooses customers and goods for one connection.
pub struct Basket {
    goods: Rc<Goods>,
    choice: Rc<Choice>,
    /// Most lines of an order.
    lines_max: usize,
    connection: usize,
    /// Chance.
    pub dice: Dice,
}

impl Basket {
    /// One basket per connection; all share the goods.
    pub fn many(goods: Goods, choice: Choice, lines_max: usize, connections: usize, seed: u64) -> Vec<Basket> {
        let (goods, choice) = (Rc::new(goods), Rc::new(choice));
        let basket = |connection: usize| Basket {
            goods: Rc::clone(&goods),
            choice: Rc::clone(&choice),
            lines_max,
            connection,
            dice: Dice::new(seed ^ (connection as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        };
        (0..connections).map(basket).collect()
    }

    /// A SKU as the distribution has it.
    pub fn sku(&mut self) -> &str {
        let at = self.choice.pick(true, &mut self.dice);
        &self.goods.skus[at]
    }

    /// One of the orders placed beforehand.
    pub fn placed(&mut self) -> &str {
        let at = self.dice.below(self.goods.orders.len());
        &self.goods.orders[at]
    }

    /// The places of one to `lines_max` different SKUs: what a customer puts into a cart.
    pub fn cart(&mut self) -> Vec<usize> {
        let lines = 1 + self.dice.below(self.lines_max);
        let mut cart: Vec<usize> = Vec::with_capacity(lines);
        for line in 0..lines {
            let sku = self.choice.pick(line == 0, &mut self.dice);
            if !cart.contains(&sku) {
                cart.push(sku);
            }
        }
        cart
    }

    /// The id of the SKU at a place.
    pub fn id(&self, sku: usize) -> &str {
        &self.goods.skus[sku]
    }

    /// One order of one to `lines_max` single units, no SKU twice in a row.
    pub fn order(&mut self, out: &mut Vec<u8>) {
        let lines = 1 + self.dice.below(self.lines_max);
        self.begin(out);
        let mut last = usize::MAX;
        for line in 0..lines {
            let mut sku = self.choice.pick(line == 0, &mut self.dice);
            if sku == last {
                sku = (sku + 1) % self.goods.skus.len();
            }
            last = sku;
            self.line(out, sku, line == 0);
        }
        out.extend_from_slice(b"]}");
    }

    /// One order of a cart.
    pub fn order_of(&mut self, cart: &[usize], out: &mut Vec<u8>) {
        self.begin(out);
        for (at, sku) in cart.iter().enumerate() {
            self.line(out, *sku, at == 0);
        }
        out.extend_from_slice(b"]}");
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        let accounts = &self.goods.accounts;
        let account = &accounts[(self.connection + self.dice.below(accounts.len())) % accounts.len()];
        out.extend_from_slice(b"{\"user_id\":\"");
        out.extend_from_slice(account.as_bytes());
        out.extend_from_slice(b"\",\"items\":[");
    }

    fn line(&self, out: &mut Vec<u8>, sku: usize, first: bool) {
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"sku_id\":\"");
        out.extend_from_slice(self.goods.skus[sku].as_bytes());
        out.extend_from_slice(b"\",\"quantity\":1}");
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::Distribution;

    /// A basket over a thousand SKUs that only have names.
    pub fn basket(distribution: Distribution, lines_max: usize) -> Basket {
        let goods = Goods {
            skus: (0..1_000).map(|number| format!("sku_{number}")).collect(),
            accounts: vec!["acc_1".to_owned()],
            orders: vec!["1a".to_owned()],
        };
        Basket::many(goods, Choice::new(distribution, 1_000), lines_max, 1, 42).remove(0)
    }

    #[test]
    fn nine_of_ten_orders_name_the_hot_sku_once() {
        let mut basket = basket(Distribution::Hot, 3);
        let (mut hot, mut lines) = (0, 0);
        for _ in 0..10_000 {
            let mut body = Vec::new();
            basket.order(&mut body);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let items = body["items"].as_array().unwrap();
            let named = items.iter().filter(|item| item["sku_id"] == "sku_0").count();
            assert!(named <= 1);
            hot += named;
            lines += items.len();
        }
        assert!((8_800..9_200).contains(&hot), "{hot}");
        assert!((19_500..20_500).contains(&lines), "{lines}");
    }

    #[test]
    fn a_cart_holds_no_sku_twice() {
        let mut basket = basket(Distribution::Zipf, 10);
        for _ in 0..1_000 {
            let cart = basket.cart();
            let mut distinct = cart.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(!cart.is_empty() && cart.len() <= 10 && distinct.len() == cart.len(), "{cart:?}");
            let mut body = Vec::new();
            basket.order_of(&cart, &mut body);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["items"].as_array().map(Vec::len), Some(cart.len()));
        }
    }
}
