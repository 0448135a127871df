//! W7: reads of everything, at every level, on every node, with and without an index that must have been reached. A few
//! small writes in between, so that clients have something of their own to look for.

use agora_history::{Level, Op};

use super::Task;

pub(super) async fn run(mut task: Task) {
    while task.next().await {
        if task.percent(10) {
            write(&mut task).await;
        }
        let Some(op) = wish(&mut task) else { continue };
        let node = task.client.some_node();
        let seen = task.client.seen();
        let rng = task.client.rng();
        let level = match rng.below(100) {
            0..40 => Level::Linearizable,
            40..55 => Level::Leader,
            55..75 => Level::Bounded,
            _ => Level::Local,
        };
        let min_index = rng.per_mille(500).then_some(seen).filter(|seen| *seen > 0);
        task.read(op, level, min_index, node).await;
    }
}

fn wish(task: &mut Task) -> Option<Op> {
    let shop = task.shop.clone();
    let rng = task.client.rng();
    Some(match rng.below(100) {
        0..35 => Op::ReadStock { sku: shop.some_goods(rng)?.id },
        35..50 => Op::ReadSku { sku: shop.some_goods(rng)?.id },
        50..70 => Op::ReadOrder { order: shop.some_order(rng)?.0 },
        70..85 => Op::ReadWallet { account: rng.pick(&shop.accounts)?.clone() },
        85..95 => Op::ReadKey { key: shop.some_key(rng)? },
        _ => Op::ReadLedger,
    })
}

async fn write(task: &mut Task) {
    let shop = task.shop.clone();
    let account = task.some_account();
    let op = match task.client.rng().pick(&shop.wide).cloned() {
        Some(goods) if task.percent(50) => Op::AdjustStock { sku: goods.id, delta: 1 },
        _ => Op::AdjustWallet { account, amount: 1 },
    };
    task.write(op).await;
}
