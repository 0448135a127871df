//! Batches of up to a hundred orders from stock that does not end: many acknowledged orders in little time, to be counted
//! again after the power is back.

use super::Task;

pub(super) async fn run(mut task: Task) {
    while task.next().await {
        let shop = task.shop.clone();
        let goods = if shop.bulk.is_empty() { &shop.wide } else { &shop.bulk };
        let count = task.client.rng().between(50, 100);
        let mut baskets = Vec::new();
        for _ in 0..count {
            let account = task.some_account();
            baskets.push(task.basket(account, goods, 2, 2, false));
        }
        task.place_many(baskets).await;
    }
}
