//! W4: a client whose network swallows answers. Every third answer to a write is thrown away and the request repeated on
//! another node under its key; some are repeated although they were answered; one in ten keys is also sent with another
//! body. And where it is told that nothing was applied, it often believes it.

use agora_history::Op;

use super::Task;
use crate::client::Manners;

const MANNERS: Manners = Manners { drop_every: 3, repeat_per_mille: 250, alter_per_mille: 100, believe_per_mille: 300 };

pub(super) async fn run(task: Task) {
    let mut task = task.with_manners(MANNERS);
    while task.next().await {
        let account = task.some_account();
        match task.client.rng().below(100) {
            0..45 => {
                let hold = task.percent(30);
                let goods = task.shop.wide.clone();
                let basket = task.basket(account, &goods, 3, 3, hold);
                task.place(basket).await;
            }
            45..50 => {
                let goods = task.shop.wide.clone();
                let baskets = (0..3).map(|_| task.basket(account.clone(), &goods, 2, 2, false)).collect();
                task.place_many(baskets).await;
            }
            50..60 => {
                let amount = i64::try_from(task.client.rng().between(1, 500)).unwrap_or(1);
                task.write(Op::AdjustWallet { account, amount }).await;
            }
            60..70 => {
                let shop = task.shop.clone();
                let Some(goods) = task.client.rng().pick(&shop.wide).cloned() else { continue };
                let delta = if task.percent(50) { 3 } else { -2 };
                task.write(Op::AdjustStock { sku: goods.id, delta }).await;
            }
            _ => task.move_some_order().await,
        }
    }
}
