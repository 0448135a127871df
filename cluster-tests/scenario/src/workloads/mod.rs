//! Loads: what clients do while a cluster is attacked.
//!
//! | kind | what |
//! |---|---|
//! | W1 [`Kind::Rush`] | few units of few SKUs, many buyers: place, pay, cancel, let expire |
//! | W2 [`Kind::Carts`] | orders of several SKUs, single and in batches |
//! | W3 [`Kind::Payments`] | holds, captures, refunds, wallets by hand, several clients at one order |
//! | W4 [`Kind::Storm`] | answers thrown away, everything repeated elsewhere, used keys with other bodies |
//! | W5 [`Kind::Receiving`] | receipts, counts and prices that change while orders come in |
//! | W6 [`Kind::Feed`] | readers of the feed that go on anywhere, on any node |
//! | W7 [`Kind::Reads`] | reads of everything at every level |
//! | W8 [`Kind::Operators`] | leaders handed over, snapshots, members that come and go |
//! | [`Kind::Bulk`] | batches, to acknowledge many orders in little time |
//!
//! Each client is a task with chance of its own. What one learns about orders the others may use, so that several meet at
//! one order. Nothing is checked here: clients write down, checkers check.

mod bulk;
mod carts;
mod feed;
mod operators;
mod payments;
mod reads;
mod receiving;
mod rush;
mod shop;
mod storm;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_history::{Answer, Basket, Item, Level, NodeId, Op, Order, Reply};
use tokio::{sync::watch, task::JoinSet};

pub use self::shop::{Catalogue, Goods, Shop};
use crate::{
    admin::Admin,
    client::{Client, Manners, Patience},
    cluster::{BoxFuture, Cluster},
    recorder::{Answered, Recorder},
    rng::Rng,
};

/// What kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Rush,
    Carts,
    Payments,
    Storm,
    Receiving,
    Feed,
    Reads,
    Operators,
    Bulk,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 9] = [
        Kind::Rush,
        Kind::Carts,
        Kind::Payments,
        Kind::Storm,
        Kind::Receiving,
        Kind::Feed,
        Kind::Reads,
        Kind::Operators,
        Kind::Bulk,
    ];

    /// As in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rush => "W1",
            Kind::Carts => "W2",
            Kind::Payments => "W3",
            Kind::Storm => "W4",
            Kind::Receiving => "W5",
            Kind::Feed => "W6",
            Kind::Reads => "W7",
            Kind::Operators => "W8",
            Kind::Bulk => "bulk",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// How much of which load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub kind: Kind,
    /// Clients, each doing one thing at a time.
    pub clients: u32,
    /// Pause of each client between two things, on average.
    pub pace: Duration,
    /// Operations of all of them together at most.
    pub ops_max: u64,
}

impl Load {
    /// So many clients at this pace, without end.
    pub fn new(kind: Kind, clients: u32, pace: Duration) -> Load {
        Load { kind, clients, pace, ops_max: u64::MAX }
    }

    /// With an end.
    pub fn at_most(mut self, ops: u64) -> Load {
        self.ops_max = ops;
        self
    }
}

/// Everything a load needs from a run.
#[derive(Clone)]
pub struct Stage {
    pub cluster: Arc<dyn Cluster>,
    pub recorder: Arc<Recorder>,
    pub shop: Arc<Shop>,
    pub rng: Rng,
    pub patience: Patience,
    pub stop: watch::Receiver<bool>,
}

/// Client numbers below this are the runner's own.
const CLIENT_FIRST: u32 = 10;

/// Starts the clients of all loads. They return when they are told to stop, and after what they were at.
pub fn start(stage: &Stage, loads: &[Load]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut id = CLIENT_FIRST;
    for load in loads {
        let budget = Arc::new(AtomicU64::new(load.ops_max));
        for _ in 0..load.clients {
            let Stage { cluster, recorder, shop, rng, patience, stop } = stage.clone();
            let client = Client::new(id, cluster.clone(), recorder.clone(), &rng, patience);
            // Who never takes a *not applied* at its word never finds out that it was a lie.
            let client = client.with_manners(Manners { believe_per_mille: 100, ..Manners::default() });
            let admin = Admin::new(cluster.clone());
            let (budget, pace) = (budget.clone(), load.pace);
            tasks.spawn(run(load.kind, Task { client, admin, cluster, recorder, shop, stop, pace, budget }));
            id += 1;
        }
    }
    tasks
}

fn run(kind: Kind, task: Task) -> BoxFuture<'static, ()> {
    match kind {
        Kind::Rush => Box::pin(rush::run(task)),
        Kind::Carts => Box::pin(carts::run(task)),
        Kind::Payments => Box::pin(payments::run(task)),
        Kind::Storm => Box::pin(storm::run(task)),
        Kind::Receiving => Box::pin(receiving::run(task)),
        Kind::Feed => Box::pin(feed::run(task)),
        Kind::Reads => Box::pin(reads::run(task)),
        Kind::Operators => Box::pin(operators::run(task)),
        Kind::Bulk => Box::pin(bulk::run(task)),
    }
}

/// One client's task.
struct Task {
    client: Client,
    admin: Admin,
    cluster: Arc<dyn Cluster>,
    recorder: Arc<Recorder>,
    shop: Arc<Shop>,
    stop: watch::Receiver<bool>,
    pace: Duration,
    budget: Arc<AtomicU64>,
}

impl Task {
    /// Waits its pace; false when it is to end.
    async fn next(&mut self) -> bool {
        let pace_us = u64::try_from(self.pace.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(self.client.rng().between(pace_us / 2, pace_us + pace_us / 2));
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => return false,
            () = tokio::time::sleep(wait) => {}
        }
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        *self.stop.borrow() || self.budget.load(Ordering::Relaxed) == 0 || self.recorder.is_full()
    }

    /// True in so many of a hundred cases.
    fn percent(&mut self, cases: u64) -> bool {
        self.client.rng().per_mille(cases * 10)
    }

    fn spend(&self) {
        // Another client may spend the last one at the same moment; one more operation than allowed does no harm.
        let left = self.budget.load(Ordering::Relaxed);
        self.budget.store(left.saturating_sub(1), Ordering::Relaxed);
    }

    async fn write(&mut self, op: Op) -> Reply {
        self.spend();
        let is_order = matches!(op, Op::Place(_));
        let reply = self.client.write(op).await;
        if let Some(key) = self.client.last_key().filter(|_| is_order) {
            self.shop.note_key(key);
        }
        self.shop.learn(&reply);
        reply
    }

    async fn read(&mut self, op: Op, level: Level, min_index: Option<u64>, node: NodeId) -> Answered {
        self.spend();
        self.client.read(op, level, min_index, node).await
    }

    fn with_manners(mut self, manners: Manners) -> Task {
        self.client = self.client.with_manners(manners);
        self
    }

    // ------------------------------------------------------------------------------------------ what several loads do

    /// A basket of up to `lines` SKUs of these, of up to `most` units each.
    fn basket(&mut self, account: String, goods: &[Goods], lines: u64, most: u64, hold: bool) -> Basket {
        let rng = self.client.rng();
        let mut all: Vec<&Goods> = goods.iter().collect();
        rng.shuffle(&mut all);
        let lines = usize::try_from(rng.between(1, lines)).unwrap_or(1);
        let mut items: Vec<(String, u32)> = all
            .into_iter()
            .take(lines)
            .map(|goods| (goods.id.clone(), u32::try_from(rng.between(1, most)).unwrap_or(1)))
            .collect();
        if rng.per_mille(50) {
            // A SKU named twice is one line of the sum.
            items.extend(items.first().cloned());
        }
        Basket { account, items, hold }
    }

    fn some_account(&mut self) -> String {
        let shop = self.shop.clone();
        self.client.rng().pick(&shop.accounts).cloned().unwrap_or_default()
    }

    /// Places one, and gives it if it was placed.
    async fn place(&mut self, basket: Basket) -> Option<Order> {
        match self.write(Op::Place(basket)).await {
            Reply::Yes { answer: Answer::Order(order), .. } => Some(order),
            _ => None,
        }
    }

    /// Places many at once; gives those that were placed.
    async fn place_many(&mut self, baskets: Vec<Basket>) -> Vec<Order> {
        match self.write(Op::PlaceBatch(baskets)).await {
            Reply::Yes { answer: Answer::Orders(items), .. } => items
                .into_iter()
                .filter_map(|item| match item {
                    Item::Order(order) => Some(order),
                    Item::Refused(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Moves some known order on: most often the way it should go, sometimes anyhow.
    async fn move_some_order(&mut self) {
        let shop = self.shop.clone();
        let Some((order, status)) = shop.some_order(self.client.rng()) else { return };
        let choice = self.client.rng().below(100);
        let op = match (status.as_str(), choice) {
            ("CREATED", 0..60) => Op::Pay { order },
            ("CREATED", 60..90) => Op::Cancel { order },
            ("PAID", 0..60) => Op::Ship { order },
            ("PAID", 60..85) => Op::Cancel { order },
            ("SHIPPED", 0..80) => Op::Confirm { order },
            (_, 85..88) => Op::Pay { order },
            (_, 88..92) => Op::Ship { order },
            (_, 92..96) => Op::Confirm { order },
            _ => Op::Cancel { order },
        };
        self.write(op).await;
    }
}
