//! W3: money. Authorised (held when placed), captured (paid), released (cancelled before), refunded (cancelled after), and
//! moved by hand; for customers who have enough and for some who have not. Several clients work on the same orders.

use agora_history::Op;

use super::Task;

pub(super) async fn run(mut task: Task) {
    while task.next().await {
        match task.client.rng().below(100) {
            0..40 => buy(&mut task).await,
            40..80 => task.move_some_order().await,
            80..95 => adjust(&mut task).await,
            _ => {
                let number = task.client.rng().below(1_000);
                task.write(Op::CreateAccount { name: format!("passer-by {number}") }).await;
            }
        }
    }
}

/// An order that is paid at once, called off at once, or left to others.
async fn buy(task: &mut Task) {
    let shop = task.shop.clone();
    let account = match task.client.rng().pick(&shop.poor).cloned() {
        Some(poor) if task.percent(30) => poor,
        _ => task.some_account(),
    };
    let hold = task.percent(50);
    let basket = task.basket(account, &shop.wide, 2, 2, hold);
    let Some(order) = task.place(basket).await else { return };
    let order = order.id;
    match task.client.rng().below(100) {
        0..40 => {
            task.write(Op::Pay { order: order.clone() }).await;
            if task.percent(30) {
                task.write(Op::Cancel { order }).await;
            }
        }
        40..60 => drop(task.write(Op::Cancel { order }).await),
        _ => {}
    }
}

/// Money in, mostly; and out, sometimes more than there is.
async fn adjust(task: &mut Task) {
    let shop = task.shop.clone();
    let rng = task.client.rng();
    let amount = |low: u64, high: u64, rng: &mut crate::rng::Rng| i64::try_from(rng.between(low, high)).unwrap_or(1);
    let poor = rng.pick(&shop.poor).cloned();
    let rich = rng.pick(&shop.accounts).cloned();
    let (account, amount) = match rng.below(10) {
        0..3 => (poor, amount(100, 2_000, rng)),
        3..6 => (poor, -amount(100, 3_000, rng)),
        6..9 => (rich, amount(1, 5_000, rng)),
        _ => (rich, -amount(1, 5_000, rng)),
    };
    let Some(account) = account else { return };
    task.write(Op::AdjustWallet { account, amount }).await;
}
