//! Many buyers at once, and what each of them was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{
    client::{Call, Client, Settled, Verdict, fresh_key},
    shop::{order_body, text},
};

/// How long a buyer repeats one order before giving up on an answer.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What all buyers were told.
#[derive(Debug, Default)]
pub struct Told {
    /// Every order, settled.
    pub all: Vec<Settled>,
}

impl Told {
    /// Those that were accepted.
    pub fn accepted(&self) -> impl Iterator<Item = &Settled> {
        self.all.iter().filter(|order| order.verdict == Verdict::Yes)
    }

    /// Those that were refused.
    pub fn refused(&self) -> impl Iterator<Item = &Settled> {
        self.all.iter().filter(|order| order.verdict == Verdict::No)
    }

    /// Order numbers that were accepted.
    ///
    /// # Panics
    /// When one number was given to two keys.
    pub fn numbers(&self) -> BTreeSet<String> {
        let mut numbers = BTreeSet::new();
        for order in self.accepted() {
            let number = text(&order.answer().json(), "order_no");
            assert!(numbers.insert(number.clone()), "order number {number} was given twice");
        }
        numbers
    }

    /// Fails the test if an order stayed without a definite answer.
    ///
    /// # Panics
    /// With the first such order's attempts.
    #[track_caller]
    pub fn assert_settled(&self) {
        let open = self.all.iter().find(|order| !matches!(order.verdict, Verdict::Yes | Verdict::No));
        if let Some(order) = open {
            let tail = &order.attempts[order.attempts.len().saturating_sub(3)..];
            panic!("{} has no definite answer after {} attempts: {tail:?}", order.key, order.attempts.len());
        }
    }

    /// Fails the test if a refusal was anything but a shortage, or an acceptance anything but 201.
    ///
    /// # Panics
    /// With the first such answer.
    #[track_caller]
    pub fn assert_only_201_and_shortage(&self) {
        self.assert_settled();
        for order in self.accepted() {
            order.answer().expect(201);
        }
        for order in self.refused() {
            order.answer().expect_problem(409, "INVENTORY_SHORTAGE");
        }
    }

    /// All attempts, by how they ended: for the record of a run.
    pub fn attempts_by_label(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for attempt in self.all.iter().flat_map(|order| &order.attempts) {
            *counts.entry(attempt.reply.label()).or_insert(0) += 1;
        }
        counts
    }

    /// The first moment at or after `from` at which an order first asked at or after `from` was accepted.
    pub fn first_accepted_after(&self, from: Instant) -> Option<Instant> {
        self.accepted().filter(|order| order.invoked() >= from).map(Settled::returned).min()
    }

    /// Takes in another buyer's answers.
    pub fn extend(&mut self, other: Told) {
        self.all.extend(other.all);
    }
}

/// Places `count` equal orders from `connections` buyers, the buyers spread over the nodes, and settles each of them.
pub async fn rush(client: &Client, body: &Value, count: usize, connections: usize) -> Told {
    let next = Arc::new(AtomicUsize::new(0));
    let buyers: Vec<_> = (0..connections)
        .map(|buyer| {
            let (client, body, next) = (client.clone(), body.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut told = Told::default();
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    told.all.push(buy(&client, buyer, &body).await);
                }
                told
            })
        })
        .collect();
    join(buyers).await
}

async fn buy(client: &Client, first: usize, body: &Value) -> Settled {
    let call = Call::post_with_key("/orders", &fresh_key(), body.clone()).timeout(Duration::from_secs(8));
    client.settle(first, &call, PATIENCE).await
}

async fn join(buyers: Vec<JoinHandle<Told>>) -> Told {
    let mut told = Told::default();
    for buyer in buyers {
        match buyer.await {
            Ok(part) => told.extend(part),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => panic!("a buyer was lost: {error}"),
        }
    }
    told
}

/// Buyers who order until they are told to stop.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    buyers: Vec<JoinHandle<Told>>,
}

impl Crowd {
    /// Lets `connections` buyers in, each with a pause between two orders so that the machine is not all theirs.
    pub fn enter(client: &Client, account: &str, sku: &str, connections: usize, pause: Duration) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let body = order_body(account, &[(sku, 1)]);
        let buyers = (0..connections).map(|buyer| {
            let (client, body) = (client.clone(), body.clone());
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            tokio::spawn(async move {
                let mut told = Told::default();
                let mut turn = buyer;
                while !stop.load(Ordering::Relaxed) {
                    let settled = buy(&client, turn, &body).await;
                    if settled.verdict == Verdict::Yes {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    told.all.push(settled);
                    turn += 1;
                    tokio::time::sleep(pause).await;
                }
                told
            })
        });
        Crowd { stop: Arc::clone(&stop), accepted: Arc::clone(&accepted), buyers: buyers.collect() }
    }

    /// Orders accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until `more` further orders were accepted: the load has hit.
    ///
    /// # Panics
    /// When that takes longer than `patience`.
    pub async fn wait_accepted(&self, more: usize, patience: Duration) {
        let (goal, deadline) = (self.accepted() + more, Instant::now() + patience);
        while self.accepted() < goal {
            assert!(
                Instant::now() < deadline,
                "only {} of {goal} orders accepted within {patience:?}",
                self.accepted()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends the buyers home, after each has settled its last order.
    pub async fn leave(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        join(self.buyers).await
    }
}
