//! A shop of one node, without sockets and disks: what a caller of [`Shop`] may rely on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_actors::{Consistency, OrderFilter, RaftConfig, Shop, ShopConfig, World, WriteError, WriteRequest, Written};
use agora_domain::{
    Account, AccountId, AccountKind, Answer, Change, Command, Currency, KeyRef, Money, Order, OrderEvent, OrderId,
    OrderStatus, PlaceOrder, Rejection, Sku, SkuEvent, SkuId,
    order::{Cause, Provider},
};
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

fn money(minor: i64) -> Money {
    Money::new(minor, Currency::CNY)
}

async fn open(config: ShopConfig) -> Shop {
    let raft = RaftConfig { node_id: 1, cluster: "test".to_owned(), ..RaftConfig::default() };
    let me = Member { id: 1, peer_addr: "127.0.0.1:0".to_owned(), http_addr: String::new() };
    let boot = Boot::Create { lineage: 7, members: vec![me] };
    Shop::start(World::real(Arc::new(MemDisk::new())), raft, boot, config).await.unwrap()
}

async fn shop() -> Shop {
    open(ShopConfig::default()).await
}

async fn submit(shop: &Shop, command: Command) -> Result<Written, WriteError> {
    shop.submit(WriteRequest { key: key(), trace: 1, command }, soon()).await
}

async fn answer(shop: &Shop, command: Command) -> Answer {
    submit(shop, command).await.unwrap().answer
}

async fn sku(shop: &Shop, code: &str, price: i64, stock: u32) -> SkuId {
    let command = Command::CreateSku { code: code.into(), name: code.into(), price: money(price), sellable: true };
    let Answer::Sku(sku) = answer(shop, command).await else { panic!("a SKU") };
    if stock > 0 {
        answer(shop, Command::ReceiveStock { lines: vec![(sku.id, stock)], reason: String::new() }).await;
    }
    sku.id
}

async fn account(shop: &Shop, balance: i64) -> AccountId {
    let command = Command::CreateAccount { name: "A".into(), kind: AccountKind::Customer };
    let Answer::Account(account) = answer(shop, command).await else { panic!("an account") };
    if balance > 0 {
        let command = Command::AdjustWallet { account: account.id, amount: money(balance), reason: String::new() };
        answer(shop, command).await;
    }
    account.id
}

fn order_of(account: AccountId, items: &[(SkuId, u32)]) -> PlaceOrder {
    PlaceOrder { account, items: items.to_vec(), coupon_codes: Vec::new(), hold_balance: false, note: String::new() }
}

async fn place(shop: &Shop, account: AccountId, items: &[(SkuId, u32)]) -> Result<Order, Rejection> {
    match answer(shop, Command::PlaceOrder(order_of(account, items))).await {
        Answer::Order { order, .. } => Ok(*order),
        Answer::Refused(rejection) => Err(rejection),
        other => panic!("{other:?}"),
    }
}

async fn read_sku(shop: &Shop, id: SkuId) -> Sku {
    shop.read(Consistency::Linearizable, None, soon()).await.unwrap().sku(id).unwrap().unwrap()
}

async fn read_account(shop: &Shop, id: AccountId) -> Account {
    shop.read(Consistency::Linearizable, None, soon()).await.unwrap().account(id).unwrap().unwrap()
}

fn stock(sku: &Sku) -> (u64, u64) {
    (sku.on_hand_units, sku.reserved_units)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_buyers_take_exactly_what_is_there() {
    let shop = shop().await;
    let (hot, buyer) = (sku(&shop, "HOT", 100, 100).await, account(&shop, 0).await);
    let buyers: Vec<_> = (0..500)
        .map(|_| {
            let shop = shop.clone();
            tokio::spawn(async move { place(&shop, buyer, &[(hot, 1)]).await })
        })
        .collect();
    let mut sold = 0;
    for buyer in buyers {
        match buyer.await.unwrap() {
            Ok(_) => sold += 1,
            Err(Rejection::Shortage { shortages, .. }) => assert_eq!(shortages[0].available, 0),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(sold, 100);
    assert_eq!(stock(&read_sku(&shop, hot).await), (100, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_lists_every_short_sku_and_takes_nothing() {
    let shop = shop().await;
    let (a, b, c) = (sku(&shop, "A", 1, 5).await, sku(&shop, "B", 1, 0).await, sku(&shop, "C", 1, 1).await);
    let buyer = account(&shop, 0).await;
    let Err(Rejection::Shortage { shortages, .. }) = place(&shop, buyer, &[(a, 1), (b, 2), (c, 1), (c, 2)]).await
    else {
        panic!("short of two")
    };
    let listed: Vec<_> = shortages.iter().map(|short| (short.sku, short.requested, short.available)).collect();
    assert_eq!(listed, [(b, 2, 0), (c, 3, 1)], "duplicates are summed before they are checked");
    place(&shop, buyer, &[(a, 5), (c, 1)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_baskets_never_deadlock_and_never_oversell() {
    let shop = shop().await;
    let mut skus = Vec::new();
    for number in 0..4 {
        skus.push(sku(&shop, &format!("S{number}"), 10, 30).await);
    }
    let buyer = account(&shop, 0).await;
    let tasks: Vec<_> = (0..200u32)
        .map(|turn| {
            let (shop, skus) = (shop.clone(), skus.clone());
            tokio::spawn(async move {
                let at = turn as usize;
                let items = [(skus[at % 4], 1 + turn % 2), (skus[(at + 1) % 4], 1), (skus[(at + 2) % 4], 1)];
                place(&shop, buyer, &items).await.map(|order| order.lines)
            })
        })
        .collect();
    let mut taken: BTreeMap<SkuId, u64> = BTreeMap::new();
    for task in tasks {
        for line in task.await.unwrap().unwrap_or_default() {
            *taken.entry(line.sku).or_default() += u64::from(line.quantity);
        }
    }
    for id in skus {
        assert_eq!(stock(&read_sku(&shop, id).await), (30, taken[&id]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_has_one_effect_and_another_body_is_refused() {
    let shop = shop().await;
    let (hot, buyer) = (sku(&shop, "K", 100, 10).await, account(&shop, 0).await);
    let request = WriteRequest { key: key(), trace: 1, command: Command::PlaceOrder(order_of(buyer, &[(hot, 1)])) };
    let all: Vec<_> = (0..50)
        .map(|_| {
            let (shop, request) = (shop.clone(), request.clone());
            tokio::spawn(async move { shop.submit(request, soon()).await.unwrap() })
        })
        .collect();
    let mut first = 0;
    let mut answers = Vec::new();
    for written in all {
        let written = written.await.unwrap();
        first += usize::from(!written.replayed);
        answers.push((written.answer, written.index));
    }
    assert_eq!(first, 1);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(stock(&read_sku(&shop, hot).await), (10, 1));
    let other = WriteRequest { key: KeyRef { fingerprint: 2, ..request.key }, ..request };
    assert_eq!(shop.submit(other, soon()).await, Err(WriteError::KeyReused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_decided_item_by_item_and_sees_its_own_items() {
    let shop = shop().await;
    let (few, buyer) = (sku(&shop, "FEW", 5, 3).await, account(&shop, 0).await);
    let orders = vec![order_of(buyer, &[(few, 2)]), order_of(buyer, &[(few, 2)]), order_of(buyer, &[(few, 1)])];
    let Answer::Orders(items) = answer(&shop, Command::PlaceOrders(orders)).await else { panic!("a batch") };
    assert!(items[0].is_ok() && items[2].is_ok());
    assert!(matches!(&items[1], Err(Rejection::Shortage { shortages, .. }) if shortages[0].available == 1));
    assert_eq!(stock(&read_sku(&shop, few).await), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_item_of_a_batch_hears_what_its_earlier_items_have_left() {
    let shop = shop().await;
    let (few, many) = (sku(&shop, "FEW", 5, 3).await, sku(&shop, "MANY", 5, 100).await);
    let buyer = account(&shop, 12).await;
    let held = |items: &[(SkuId, u32)]| PlaceOrder { hold_balance: true, ..order_of(buyer, items) };
    let orders = vec![
        held(&[(few, 2)]),
        // More than is there at all; the other line makes it a basket, which is looked at on one state of the rows.
        order_of(buyer, &[(few, 5)]),
        order_of(buyer, &[(few, 4), (many, 101)]),
        // 12 were there, 10 are held.
        held(&[(many, 3)]),
    ];
    let Answer::Orders(items) = answer(&shop, Command::PlaceOrders(orders)).await else { panic!("a batch") };
    let told = |item: &Result<_, Rejection>| match item {
        Err(Rejection::Shortage { shortages, .. }) => {
            shortages.iter().map(|short| (short.sku, short.requested, short.available)).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    assert!(items[0].is_ok(), "{items:?}");
    assert_eq!(told(&items[1]), [(few, 5, 1)]);
    assert_eq!(told(&items[2]), [(few, 4, 1), (many, 101, 100)]);
    let poor = Rejection::InsufficientBalance { requested: money(15), available: money(2) };
    assert_eq!(items[3].as_ref().unwrap_err(), &poor);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_contend_all_come_to_an_end() {
    let shop = shop().await;
    let (x, y, buyer) = (sku(&shop, "X", 5, 60).await, sku(&shop, "Y", 5, 60).await, account(&shop, 0).await);
    let tasks: Vec<_> = (0..20)
        .map(|turn| {
            let shop = shop.clone();
            tokio::spawn(async move {
                let (one, two) = if turn % 2 == 0 { (x, y) } else { (y, x) };
                let orders = (0..10).map(|at| order_of(buyer, &[(if at % 2 == 0 { one } else { two }, 1)])).collect();
                let Answer::Orders(items) = answer(&shop, Command::PlaceOrders(orders)).await else { panic!() };
                items.iter().filter(|item| item.is_ok()).count()
            })
        })
        .collect();
    let mut placed = 0;
    for task in tasks {
        placed += task.await.unwrap();
    }
    assert_eq!(placed, 120, "200 items want 120 units");
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_change_between_orders_never_inside_one() {
    let shop = shop().await;
    let (item, buyer) = (sku(&shop, "P", 100, 100_000).await, account(&shop, 0).await);
    let sellers: Vec<_> = (0..8)
        .map(|_| {
            let shop = shop.clone();
            tokio::spawn(async move {
                for _ in 0..40 {
                    place(&shop, buyer, &[(item, 1)]).await.unwrap();
                }
            })
        })
        .collect();
    for turn in 0..20u64 {
        let price = Some(money(101 + i64::try_from(turn).unwrap()));
        let command = Command::ChangeSku { sku: item, expected_version: turn + 1, price, name: None, sellable: None };
        assert!(matches!(answer(&shop, command).await, Answer::Sku(_)));
    }
    for seller in sellers {
        seller.await.unwrap();
    }
    // In log order, every order has the price that was in force where it stands.
    let view = shop.read(Consistency::Linearizable, None, soon()).await.unwrap();
    let mut price = money(100);
    let mut orders = 0;
    for item in view.feed(0, usize::MAX).unwrap() {
        match item.fact.change {
            Change::Sku(_, SkuEvent::Changed { terms }) => price = terms.price,
            Change::Order(_, OrderEvent::Placed { lines, .. }) => {
                assert_eq!(lines[0].unit_price, price, "at {}.{}", item.index, item.sub);
                orders += 1;
            }
            _ => {}
        }
    }
    assert_eq!((orders, price), (320, money(120)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_on_the_same_version_one_loses() {
    let shop = shop().await;
    let item = sku(&shop, "V", 100, 0).await;
    let change = |price| Command::ChangeSku {
        sku: item,
        expected_version: 1,
        price: Some(money(price)),
        name: None,
        sellable: None,
    };
    let (left, right) = tokio::join!(answer(&shop, change(1)), answer(&shop, change(2)));
    let lost = [&left, &right].iter().filter(|answer| matches!(answer, Answer::Refused(_))).count();
    assert_eq!(lost, 1, "{left:?} {right:?}");
    let second = Command::CreateSku { code: "V".into(), name: "again".into(), price: money(1), sellable: true };
    assert!(
        matches!(answer(&shop, second).await, Answer::Refused(Rejection::CodeTaken { owner, .. }) if owner == item)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn money_and_goods_follow_an_order_through_its_life() {
    let shop = shop().await;
    let (item, buyer) = (sku(&shop, "L", 300, 10).await, account(&shop, 1_000).await);
    let wallet = |account: &Account| {
        let wallet = account.wallet(Currency::CNY);
        (wallet.balance_minor, wallet.held_minor)
    };
    let mut wanted = order_of(buyer, &[(item, 2)]);
    wanted.hold_balance = true;
    let Answer::Order { order, .. } = answer(&shop, Command::PlaceOrder(wanted)).await else { panic!() };
    assert_eq!(wallet(&read_account(&shop, buyer).await), (1_000, 600));
    // 400 are left: a second order of 600 cannot be paid, and says so.
    let second = place(&shop, buyer, &[(item, 2)]).await.unwrap();
    let pay = |order: OrderId| Command::PayOrder { order, provider: Provider::Balance };
    assert_eq!(
        answer(&shop, pay(second.id)).await,
        Answer::Refused(Rejection::InsufficientBalance { requested: money(600), available: money(400) })
    );
    assert!(matches!(answer(&shop, pay(order.id)).await, Answer::Order { no_change: false, .. }));
    assert!(matches!(answer(&shop, pay(order.id)).await, Answer::Order { no_change: true, .. }));
    assert_eq!(wallet(&read_account(&shop, buyer).await), (400, 0));
    let ship = |order: OrderId| Command::ShipOrder { order, note: "SF 1".into() };
    assert!(matches!(
        answer(&shop, ship(second.id)).await,
        Answer::Refused(Rejection::InvalidTransition { from: OrderStatus::Created, to: OrderStatus::Shipped, .. })
    ));
    answer(&shop, ship(order.id)).await;
    assert_eq!(stock(&read_sku(&shop, item).await), (8, 2));
    let Answer::Order { order: done, .. } = answer(&shop, Command::ConfirmReceipt { order: order.id }).await else {
        panic!()
    };
    assert_eq!(done.status(), OrderStatus::Completed);
    // Paid and cancelled before it is shipped: goods and money come back.
    let third = place(&shop, buyer, &[(item, 1)]).await.unwrap();
    answer(&shop, pay(third.id)).await;
    answer(&shop, Command::CancelOrder { order: third.id, reason: "changed my mind".into() }).await;
    assert_eq!(wallet(&read_account(&shop, buyer).await), (400, 0));
    assert_eq!(stock(&read_sku(&shop, item).await), (8, 2));
    let view = shop.read(Consistency::Linearizable, None, soon()).await.unwrap();
    let ledger = view.ledger().unwrap();
    let (debits, credits) =
        ledger.iter().fold((0, 0), |sums, row| (sums.0 + row.debit_minor, sums.1 + row.credit_minor));
    assert_eq!(debits, credits);
    assert!(debits > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pay_cancel_and_expiry_race_and_one_of_them_wins() {
    let shop = open(ShopConfig { order_ttl_ms: 150, timer_tick_ms: 10, ..ShopConfig::default() }).await;
    let (item, buyer) = (sku(&shop, "R", 10, 1_000).await, account(&shop, 100_000).await);
    let tasks: Vec<_> = (0..60u64)
        .map(|turn| {
            let shop = shop.clone();
            tokio::spawn(async move {
                let order = place(&shop, buyer, &[(item, 1)]).await.unwrap().id;
                tokio::time::sleep(Duration::from_millis(120 + turn)).await;
                let pay = answer(&shop, Command::PayOrder { order, provider: Provider::Balance });
                let cancel = answer(&shop, Command::CancelOrder { order, reason: String::new() });
                let (paid, _) = tokio::join!(pay, cancel);
                (order, matches!(paid, Answer::Order { .. }))
            })
        })
        .collect();
    for task in tasks {
        let (order, _) = task.await.unwrap();
        let view = shop.read(Consistency::Linearizable, None, soon()).await.unwrap();
        let order = view.order(order).unwrap().unwrap();
        assert!(order.steps.len() <= 3, "{:?}", order.steps);
        assert_eq!(order.status(), OrderStatus::Cancelled);
        let expired = order.steps.iter().filter(|step| step.cause == Cause::Expired).count();
        assert!(expired <= 1);
    }
    assert_eq!(stock(&read_sku(&shop, item).await), (1_000, 0));
    assert_eq!(read_account(&shop, buyer).await.wallet(Currency::CNY).balance_minor, 100_000);
    assert_eq!(shop.metrics().impossible, 0, "no race between honest requests reaches the checks in apply");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_dropped_half_way_leave_nothing_taken() {
    let shop = shop().await;
    let (item, other, buyer) = (sku(&shop, "D", 10, 50).await, sku(&shop, "E", 10, 50).await, account(&shop, 0).await);
    for turn in 0..300u32 {
        let shop = shop.clone();
        let task = tokio::spawn(async move { place(&shop, buyer, &[(item, 1), (other, 1)]).await });
        if turn % 3 == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
    }
    // Whatever was placed before the abort is there; everything else can still be sold.
    let mut rest = 0;
    while place(&shop, buyer, &[(item, 1), (other, 1)]).await.is_ok() {
        rest += 1;
    }
    assert_eq!(stock(&read_sku(&shop, item).await), (50, 50));
    assert!(rest <= 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_holds_a_bounded_number_of_entities() {
    let shop = open(ShopConfig { live_entities_max: 400, ..ShopConfig::default() }).await;
    let buyer = account(&shop, 0).await;
    let mut skus = Vec::new();
    for number in 0..1_000 {
        skus.push(sku(&shop, &format!("M{number}"), 10, 1).await);
    }
    for id in &skus {
        place(&shop, buyer, &[(*id, 1)]).await.unwrap();
        let live = shop.metrics().entities_live;
        assert!(live <= 400, "{live} entities are live");
    }
    for id in &skus {
        assert!(matches!(place(&shop, buyer, &[(*id, 1)]).await, Err(Rejection::Shortage { .. })));
    }
    assert!(shop.metrics().entities_live <= 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_and_movements_are_listed_page_by_page_without_gaps() {
    let shop = shop().await;
    let (item, other, buyer) = (sku(&shop, "G", 10, 50).await, sku(&shop, "H", 10, 50).await, account(&shop, 0).await);
    let mut placed = Vec::new();
    for _ in 0..7 {
        placed.push(place(&shop, buyer, &[(item, 1), (other, 2)]).await.unwrap().id);
    }
    let called_off = placed.remove(3);
    answer(&shop, Command::CancelOrder { order: called_off, reason: String::new() }).await;
    let view = shop.read(Consistency::Linearizable, None, soon()).await.unwrap();
    for newest_first in [false, true] {
        let created = OrderFilter { account: None, status: Some(OrderStatus::Created) };
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let (page, last) = view.orders(created, after, newest_first, 2).unwrap();
            listed.extend(page.items.iter().map(|order| order.id));
            after = last;
            if !page.more {
                break;
            }
        }
        if newest_first {
            listed.reverse();
        }
        assert_eq!(listed, placed);
    }
    let cancelled = OrderFilter { account: None, status: Some(OrderStatus::Cancelled) };
    assert_eq!(view.orders(cancelled, None, false, 10).unwrap().0.items[0].id, called_off);
    for of in [None, Some(item)] {
        let (whole, _) = view.movements(of, None, 200).unwrap();
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let (page, last) = view.movements(of, after, 3).unwrap();
            listed.extend(page.items);
            after = last;
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, whole.items);
        assert_eq!(whole.items.len(), if of.is_some() { 9 } else { 18 }, "received, 7 reserved, 1 released, of each");
    }
}
