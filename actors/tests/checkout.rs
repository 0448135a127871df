//! What is told of several SKUs was so at one place of the log, whenever each of them was asked.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use agora_actors::{
    checkout::{Checkout, IdMaker},
    host::{Feed, Load, Reply},
    hosts::{HostSet, Hosts},
};
use agora_apply::schema;
use agora_domain::{
    Account, AccountEvent, AccountId, AccountKind, At, Change, Command, Currency, Entity, Money, OrderId, PlaceOrder,
    Rejection, Sku, SkuCommand, SkuEvent, SkuId, SkuTerms, Uid, transaction::Outcome,
};
use agora_storage::{Batch, Keyspace, mem_rows::MemRows, rows::Rows};

const A: SkuId = SkuId(Uid(10));
const B: SkuId = SkuId(Uid(11));
const BUYER: AccountId = AccountId(Uid(12));
const REIGN: u64 = 1;

fn at(index: u64) -> At {
    At { index, time_ms: 1 }
}

fn sku(id: SkuId, units: u32, index: u64) -> Sku {
    let mut sku = None;
    let price = Money::new(1, Currency::CNY);
    let terms = Arc::new(SkuTerms { code: "T".into(), name: "T".into(), price, sellable: true });
    Sku::evolve(&mut sku, &SkuEvent::Created { terms, id }, at(1)).unwrap();
    if units > 0 {
        Sku::evolve(&mut sku, &SkuEvent::Received { quantity: units, reason: String::new() }, at(index)).unwrap();
    }
    sku.unwrap()
}

/// Writes how many there are of each, as of an index.
fn write(rows: &MemRows, index: u64, units: [u32; 2]) {
    let mut batch = Batch::new(index);
    for (id, units) in [(A, units[0]), (B, units[1])] {
        let key = schema::entity(Sku::KIND, id.0.0);
        batch.insert(Keyspace::Entity, key, schema::encode(&sku(id, units, index)));
    }
    let mut buyer = None;
    let created = AccountEvent::Created { id: BUYER, kind: AccountKind::Customer, name: "B".into() };
    Account::evolve(&mut buyer, &created, at(1)).unwrap();
    let key = schema::entity(Account::KIND, BUYER.0.0);
    batch.insert(Keyspace::Entity, key, schema::encode(&buyer.unwrap()));
    rows.commit(batch).unwrap();
}

fn load<E: Entity>(rows: &MemRows) -> Load<E> {
    let rows = rows.clone();
    Arc::new(move |id| schema::load(&rows, id))
}

async fn hosts(rows: &MemRows, skus: Load<Sku>) -> Hosts {
    // One host, so that it is asked in the order of the ids.
    Hosts::new(
        HostSet::start(1, 10, skus).await.unwrap(),
        HostSet::start(1, 10, load(rows)).await.unwrap(),
        HostSet::start(1, 10, load(rows)).await.unwrap(),
        HostSet::start(1, 10, load(rows)).await.unwrap(),
    )
}

/// Index and what is told short, of a basket.
async fn refused(rows: &MemRows, hosts: &Hosts, items: &[(SkuId, u32)]) -> (u64, Vec<(SkuId, u64)>) {
    hosts.open(REIGN);
    let (ids, turnstile) = (IdMaker::default(), tokio::sync::Mutex::default());
    let rows: Arc<dyn Rows> = Arc::new(rows.clone());
    let checkout = Checkout { hosts, reign: REIGN, now_ms: 1, ids: &ids, order_ttl_ms: 1, rows, turnstile: &turnstile };
    let order = PlaceOrder {
        account: BUYER,
        items: items.to_vec(),
        coupon_codes: Vec::new(),
        hold_balance: false,
        note: String::new(),
    };
    let decided = checkout.decide(&Command::PlaceOrder(order)).await.unwrap();
    let Outcome::Refused(Rejection::Shortage { shortages, .. }) = decided.outcome else {
        panic!("{:?}", decided.outcome)
    };
    (decided.decided_at, shortages.iter().map(|short| (short.sku, short.available)).collect())
}

#[tokio::test]
async fn what_is_applied_between_two_answers_is_not_told_of_one_of_them_alone() {
    let rows = MemRows::new();
    write(&rows, 1, [1, 0]);
    let loads = Arc::new(AtomicU64::new(0));
    let skus: Load<Sku> = {
        let (rows, loads) = (rows.clone(), Arc::clone(&loads));
        Arc::new(move |id| {
            // The first one has answered when the one unit goes over to the second one.
            if id == B.0.0 && loads.fetch_add(1, Ordering::SeqCst) == 0 {
                write(&rows, 2, [0, 1]);
            }
            schema::load(&rows, id)
        })
    };
    let hosts = hosts(&rows, skus).await;
    let told = refused(&rows, &hosts, &[(A, 2), (B, 2)]).await;
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(told, (2, vec![(A, 0), (B, 1)]), "one of each was never there");
}

#[tokio::test]
async fn a_basket_that_is_short_behind_what_is_on_its_way_is_told_when_that_has_come() {
    let rows = MemRows::new();
    write(&rows, 1, [1, 5]);
    let hosts = hosts(&rows, load(&rows)).await;
    hosts.open(REIGN);
    // The last unit is granted to another one, and in the journal.
    let other = OrderId(Uid(99));
    let reserve = SkuCommand::Reserve { order: other, quantity: 1 };
    let Reply::Granted(grant) = hosts.skus.ask(REIGN, A.0.0, reserve, Vec::new(), false).await.unwrap() else {
        panic!("it is there")
    };
    grant.keep();
    let basket = [(A, 1), (B, 1)];
    let mut told = Box::pin(refused(&rows, &hosts, &basket));
    for _ in 0..1_000 {
        tokio::select! {
            biased;
            told = &mut told => panic!("told before any state of the rows had it: {told:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    let event = SkuEvent::Reserved { order: other, quantity: 1 };
    let mut reserved = Some(sku(A, 1, 1));
    Sku::evolve(&mut reserved, &event, at(2)).unwrap();
    let mut batch = Batch::new(2);
    batch.insert(Keyspace::Entity, schema::entity(Sku::KIND, A.0.0), schema::encode(&reserved.unwrap()));
    rows.commit(batch).unwrap();
    hosts.applied(Feed { reign: REIGN, at: at(2), changes: vec![Change::Sku(A, event)] });
    assert_eq!(told.await, (2, vec![(A, 0)]));
}

#[tokio::test]
async fn a_basket_that_the_rows_never_refuse_is_told_in_the_end_what_each_sku_said() {
    let rows = MemRows::new();
    write(&rows, 1, [1, 5]);
    // The entity knows of one unit less than the rows ever show.
    let skus: Load<Sku> = {
        let rows = rows.clone();
        Arc::new(move |id| if id == A.0.0 { Ok(Some(sku(A, 0, 1))) } else { schema::load(&rows, id) })
    };
    let hosts = hosts(&rows, skus).await;
    let told = tokio::time::timeout(std::time::Duration::from_secs(30), refused(&rows, &hosts, &[(A, 1), (B, 1)]));
    assert_eq!(told.await.expect("an end").1, [(A, 0)]);
}
