//! W5: the other side of the shop, while orders come in. Goods arrive, counts are corrected in both directions, prices and
//! what is on sale change under `If-Match`, sometimes with a version that is old; codes are taken, some of them twice.

use agora_history::{Answer, Level, Op, Reply};

use super::{Goods, Task};

pub(super) async fn run(mut task: Task) {
    let mut created = 0u32;
    while task.next().await {
        let shop = task.shop.clone();
        let own = if task.percent(30) { &shop.hot } else { &shop.wide };
        let Some(goods) = task.client.rng().pick(own).cloned() else { continue };
        match task.client.rng().below(100) {
            0..25 => receive(&mut task).await,
            25..50 => adjust(&mut task, goods).await,
            50..75 => reprice(&mut task, goods).await,
            75..80 => {
                created += 1;
                create(&mut task, created, &goods).await;
            }
            _ => {
                let account = task.some_account();
                let basket = task.basket(account, own, 2, 2, false);
                task.place(basket).await;
            }
        }
    }
}

async fn receive(task: &mut Task) {
    let shop = task.shop.clone();
    let rng = task.client.rng();
    let count = rng.between(1, 3);
    let mut lines: Vec<(String, u32)> = Vec::new();
    for _ in 0..count {
        let units = u32::try_from(rng.between(1, 20)).unwrap_or(1);
        lines.extend(rng.pick(&shop.wide).map(|goods| (goods.id.clone(), units)));
    }
    if rng.per_mille(10) {
        lines.push(("sku_00000000000000000000000001".to_owned(), 1));
    }
    if !lines.is_empty() {
        task.write(Op::Receive { lines }).await;
    }
}

/// Found a few, lost a few; now and then all of them, which is refused while some are promised.
async fn adjust(task: &mut Task, goods: Goods) {
    let rng = task.client.rng();
    let few = i64::try_from(rng.between(1, 5)).unwrap_or(1);
    let delta = match rng.below(20) {
        0..11 => few,
        11..19 => -few,
        _ => -1_000,
    };
    task.write(Op::AdjustStock { sku: goods.id, delta }).await;
}

/// Reads the version, then changes it: two clients at once, and one of them is refused.
async fn reprice(task: &mut Task, goods: Goods) {
    let node = task.client.some_node();
    let seen = task.read(Op::ReadSku { sku: goods.id.clone() }, Level::Linearizable, None, node).await;
    let Reply::Yes { answer: Answer::Sku(sku), .. } = seen.reply else { return };
    let rng = task.client.rng();
    let expected_version = if rng.per_mille(100) { sku.version.saturating_sub(1) } else { sku.version };
    let price = i64::try_from(rng.between(100, 2_000)).unwrap_or(100);
    // What is off sale comes back soon, or the rush is over.
    let (price, sellable) = match (sku.sellable, rng.below(10)) {
        (false, 0..8) => (None, Some(true)),
        (true, 0) => (Some(price), Some(false)),
        (true, 1) => (None, Some(false)),
        _ => (Some(price), None),
    };
    task.write(Op::ChangeSku { sku: goods.id, expected_version, price, sellable }).await;
}

async fn create(task: &mut Task, number: u32, goods: &Goods) {
    let code =
        if task.percent(40) { goods.code.clone() } else { format!("{}-{}-{number}", goods.code, task.client.id()) };
    let sellable = task.percent(80);
    task.write(Op::CreateSku { code, price: 500, sellable }).await;
}
