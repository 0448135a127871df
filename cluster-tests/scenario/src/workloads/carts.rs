//! W2: orders of several SKUs, which are granted whole or not at all. Carts overlap, in batches and alone, and some name
//! what is not there.

use agora_history::{Basket, Op};

use super::Task;

/// Orders of one batch.
const BATCH: u64 = 6;

pub(super) async fn run(mut task: Task) {
    while task.next().await {
        match task.client.rng().below(100) {
            0..50 => {
                let cart = cart(&mut task);
                task.place(cart).await;
            }
            50..65 => {
                let count = task.client.rng().between(2, BATCH);
                let carts = (0..count).map(|_| cart(&mut task)).collect();
                task.place_many(carts).await;
            }
            65..68 => {
                let shop = task.shop.clone();
                let Some(goods) = task.client.rng().pick(&shop.wide).cloned() else { continue };
                task.write(Op::Receive { lines: vec![(goods.id, 30)] }).await;
            }
            _ => task.move_some_order().await,
        }
    }
}

/// Two to five SKUs most of the time; now and then an unknown SKU, an unknown buyer, or more than there ever was.
fn cart(task: &mut Task) -> Basket {
    let account = task.some_account();
    let hold = task.percent(25);
    let goods = task.shop.wide.clone();
    let mut cart = task.basket(account, &goods, 5, 4, hold);
    match task.client.rng().below(200) {
        0 => cart.items.push(("sku_00000000000000000000000001".to_owned(), 1)),
        1 => cart.account = "acc_00000000000000000000000001".to_owned(),
        2..6 => cart.items.iter_mut().for_each(|(_, quantity)| *quantity = 100_000),
        _ => {}
    }
    cart
}
