//! What a host does with entries that its residents have, have not, or cannot follow.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use agora_actors::{
    host::{Feed, HostMessage, Load, Reply, Wrong},
    hosts::HostSet,
};
use agora_domain::{
    At, Change, Currency, Entity, Money, OrderId, Sku, SkuCommand, SkuEvent, SkuId, SkuTerms, Uid, sku::SkuRefusal,
};

const SKU: SkuId = SkuId(Uid(10));

struct Rows {
    sku: Arc<Mutex<Option<Sku>>>,
    wrong: Arc<AtomicU64>,
    hosts: HostSet<Sku>,
}

fn at(index: u64) -> At {
    At { index, time_ms: 1 }
}

fn reserve(order: u128, quantity: u32) -> (SkuCommand, SkuEvent) {
    let order = OrderId(Uid(order));
    (SkuCommand::Reserve { order, quantity }, SkuEvent::Reserved { order, quantity })
}

impl Rows {
    /// Rows at index 1 with one SKU of five units.
    async fn new() -> Self {
        let mut sku = None;
        let price = Money::new(1, Currency::CNY);
        let terms = Arc::new(SkuTerms { code: "T".into(), name: "T".into(), price, sellable: true });
        Sku::evolve(&mut sku, &SkuEvent::Created { terms, id: SKU }, at(1)).unwrap();
        Sku::evolve(&mut sku, &SkuEvent::Received { quantity: 5, reason: String::new() }, at(1)).unwrap();
        let sku = Arc::new(Mutex::new(sku));
        let wrong = Arc::new(AtomicU64::new(0));
        let load: Load<Sku> = {
            let sku = Arc::clone(&sku);
            Arc::new(move |_| Ok(sku.lock().unwrap().clone()))
        };
        let tell: Wrong = {
            let wrong = Arc::clone(&wrong);
            Arc::new(move || {
                wrong.fetch_add(1, Ordering::SeqCst);
            })
        };
        let hosts = HostSet::start_with(1, 10, load, tell).await.unwrap();
        Self { sku, wrong, hosts }
    }

    async fn ask(&self, reign: u64, command: SkuCommand) -> Reply<Sku> {
        self.hosts.ask(reign, SKU.0.0, command, Vec::new(), false).await.unwrap()
    }

    /// What another leader did: in the rows, and never fed.
    fn unseen(&self, index: u64, event: &SkuEvent) {
        Sku::evolve(&mut self.sku.lock().unwrap(), event, at(index)).unwrap();
    }

    fn feed(&self, reign: u64, index: u64, event: SkuEvent) {
        let feed = Feed { reign, at: at(index), changes: vec![Change::Sku(SKU, event)] };
        self.hosts.host(SKU.0.0).cast(HostMessage::Applied(Arc::new(feed))).unwrap();
    }
}

#[tokio::test]
async fn what_an_older_reign_left_is_not_fed_but_loaded_anew() {
    let rows = Rows::new().await;
    let (command, _) = reserve(1, 1);
    assert!(matches!(rows.ask(1, command).await, Reply::Granted(_)));
    rows.unseen(2, &SkuEvent::Received { quantity: 5, reason: String::new() });
    // The copy of reign 1 has five units and could not follow this.
    let (_, event) = reserve(2, 8);
    rows.unseen(3, &event);
    rows.feed(2, 3, event);
    let Reply::Refused { refusal, decided_at } = rows.ask(2, reserve(3, 3).0).await else { panic!("two are left") };
    assert_eq!((refusal, decided_at), (SkuRefusal::Short { requested: 3, available: 2 }, 3));
    assert_eq!(rows.wrong.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_entity_that_cannot_follow_its_rows_ends_the_reign() {
    let rows = Rows::new().await;
    let (command, _) = reserve(1, 5);
    let Reply::Granted(grant) = rows.ask(1, command).await else { panic!("five are there") };
    rows.feed(1, 2, SkuEvent::Released { order: OrderId(Uid(9)), quantity: 9 });
    let _ = rows.ask(1, reserve(2, 1).0).await;
    assert_eq!(rows.wrong.load(Ordering::SeqCst), 1, "its grants are forgotten, so nothing more may be decided");
    drop(grant);
}
