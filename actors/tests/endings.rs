//! How a request ends when the world around it does: the runtime, the reign, the deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_actors::{Consistency, RaftConfig, Shop, ShopConfig, World, WriteRequest};
use agora_domain::{AccountId, AccountKind, Answer, Command, Currency, KeyRef, Money, PlaceOrder, Rejection, SkuId};
use agora_raft::{Boot, Member};
use agora_storage::MemDisk;
use tokio::time::Instant;

static KEYS: AtomicU64 = AtomicU64::new(1);

fn key() -> KeyRef {
    KeyRef { hash: u128::from(KEYS.fetch_add(1, Ordering::Relaxed)), fingerprint: 1 }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn shop() -> Shop {
    let raft = RaftConfig { node_id: 1, cluster: "test".to_owned(), ..RaftConfig::default() };
    let me = Member { id: 1, peer_addr: "127.0.0.1:0".to_owned(), http_addr: String::new() };
    let boot = Boot::Create { lineage: 7, members: vec![me] };
    Shop::start(World::real(Arc::new(MemDisk::new())), raft, boot, ShopConfig::default()).await.unwrap()
}

fn create_account() -> WriteRequest {
    let command = Command::CreateAccount { name: "A".into(), kind: AccountKind::Customer };
    WriteRequest { key: key(), trace: 1, command }
}

#[test]
fn a_runtime_may_end_while_requests_wait_for_their_outcome() {
    for _ in 0..5 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shop = runtime.block_on(shop());
        runtime.block_on(async { shop.submit(create_account(), soon()).await.unwrap() });
        for _ in 0..64 {
            let shop = shop.clone();
            runtime.spawn(async move {
                loop {
                    let _ = shop.submit(create_account(), soon()).await;
                }
            });
        }
        std::thread::sleep(Duration::from_millis(30));
        // Whoever waits is dropped with the runtime; a task started from there would be dropped as well, for ever.
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

async fn answer(shop: &Shop, command: Command) -> Answer {
    shop.submit(WriteRequest { key: key(), trace: 1, command }, soon()).await.unwrap().answer
}

async fn sku_and_buyer(shop: &Shop, stock: u32) -> (SkuId, AccountId) {
    let price = Money::new(100, Currency::CNY);
    let command = Command::CreateSku { code: "S".into(), name: "S".into(), price, sellable: true };
    let Answer::Sku(sku) = answer(shop, command).await else { panic!("a SKU") };
    answer(shop, Command::ReceiveStock { lines: vec![(sku.id, stock)], reason: String::new() }).await;
    let Answer::Account(buyer) = answer(shop, create_account().command).await else { panic!("an account") };
    (sku.id, buyer.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn reigns_that_end_all_the_time_cost_no_order_and_no_unit() {
    const STOCK: u32 = 150;
    let shop = shop().await;
    let (sku, buyer) = sku_and_buyer(&shop, STOCK).await;
    let breaker = tokio::spawn({
        let shop = shop.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(7)).await;
                shop.cluster().journal().end_reign("a test");
            }
        }
    });
    let buyers: Vec<_> = (0..200)
        .map(|turn| {
            let shop = shop.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(turn)).await;
                let order = PlaceOrder {
                    account: buyer,
                    items: vec![(sku, 1)],
                    coupon_codes: Vec::new(),
                    hold_balance: false,
                    note: String::new(),
                };
                matches!(answer(&shop, Command::PlaceOrder(order)).await, Answer::Order { .. })
            })
        })
        .collect();
    let mut sold = 0;
    for buyer in buyers {
        sold += u64::from(buyer.await.unwrap());
    }
    breaker.abort();
    let view = shop.read(Consistency::Linearizable, None, soon()).await.unwrap();
    let sku = view.sku(sku).unwrap().unwrap();
    assert_eq!((sold, sku.reserved_units), (STOCK.into(), STOCK.into()));
    assert_eq!(shop.metrics().impossible, 0);
    assert_eq!(shop.metrics().deciding, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_a_bounded_read_counts_what_it_waited_for() {
    const LATER: Duration = Duration::from_millis(300);
    let shop = shop().await;
    let (sku, _) = sku_and_buyer(&shop, 1).await;
    let now = shop.read(Consistency::Linearizable, None, soon()).await.unwrap().index();
    let writer = tokio::spawn({
        let shop = shop.clone();
        async move {
            tokio::time::sleep(LATER).await;
            answer(&shop, Command::AdjustStock { sku, delta: 1, reason: String::new() }).await;
        }
    });
    let bounded = Consistency::Bounded { max_staleness: Duration::from_secs(20) };
    let view = shop.read(bounded, Some(now + 1), soon()).await.unwrap();
    assert!(view.index() > now);
    assert!(view.staleness().unwrap() >= LATER - Duration::from_millis(50), "{:?}", view.staleness());
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_an_entry_is_refused_and_takes_nothing() {
    let shop = shop().await;
    let (first, buyer) = sku_and_buyer(&shop, 1_000).await;
    let mut items = vec![(first, 1)];
    for number in 0..99 {
        let command = Command::CreateSku {
            code: format!("L{number}"),
            // The longest name there may be, in the longest letters.
            name: "\u{1F375}".repeat(agora_domain::command::NAME_CHARS_MAX),
            price: Money::new(1, Currency::CNY),
            sellable: true,
        };
        let Answer::Sku(sku) = answer(&shop, command).await else { panic!("a SKU") };
        items.push((sku.id, 1));
    }
    answer(
        &shop,
        Command::ReceiveStock { lines: items[1..].iter().map(|(id, _)| (*id, 1_000)).collect(), reason: String::new() },
    )
    .await;
    let order =
        PlaceOrder { account: buyer, items, coupon_codes: Vec::new(), hold_balance: false, note: String::new() };
    let many = Command::PlaceOrders(vec![order.clone(); agora_domain::command::BATCH_ORDERS_MAX]);
    let request = WriteRequest { key: key(), trace: 1, command: many };
    let written = shop.submit(request.clone(), soon()).await.unwrap();
    assert!(matches!(written.answer, Answer::Refused(Rejection::LimitExceeded { .. })), "{:?}", written.answer);
    let again = shop.submit(request, soon()).await.unwrap();
    assert_eq!((again.answer, again.replayed), (written.answer, true), "it is kept under the key");
    assert!(matches!(answer(&shop, Command::PlaceOrder(order)).await, Answer::Order { .. }));
    let view = shop.read(Consistency::Linearizable, None, soon()).await.unwrap();
    assert_eq!(view.sku(first).unwrap().unwrap().reserved_units, 1);
}
