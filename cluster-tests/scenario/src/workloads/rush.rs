//! W1: a few SKUs with a few hundred units, and everybody wants them. What is not paid expires, what is cancelled is for
//! the next one; so the last units go back and forth, and an oversold one would be seen.

use agora_history::Op;

use super::Task;

pub(super) async fn run(mut task: Task) {
    while task.next().await {
        if task.percent(1) {
            restock(&mut task).await;
            continue;
        }
        let hold = task.percent(30);
        let account = task.some_account();
        let goods = task.shop.hot.clone();
        let basket = task.basket(account, &goods, 1, 3, hold);
        let Some(order) = task.place(basket).await else { continue };
        let order = order.id;
        match task.client.rng().below(100) {
            0..35 => {
                task.write(Op::Pay { order: order.clone() }).await;
                if task.percent(20) {
                    task.write(Op::Ship { order }).await;
                } else if task.percent(40) {
                    task.write(Op::Cancel { order }).await;
                }
            }
            35..70 => drop(task.write(Op::Cancel { order }).await),
            // Left to expire, unless another client moves it on.
            70..85 => {}
            _ => task.move_some_order().await,
        }
    }
}

async fn restock(task: &mut Task) {
    let shop = task.shop.clone();
    let Some(goods) = task.client.rng().pick(&shop.hot).cloned() else { return };
    let units = u32::try_from(task.client.rng().between(1, 40)).unwrap_or(1);
    task.write(Op::Receive { lines: vec![(goods.id, units)] }).await;
}
