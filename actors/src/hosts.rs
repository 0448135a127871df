//! The registry: which host carries an entity, and how to ask it.
//!
//! Hosts are found by the entity's id alone, so an entity is never in memory twice and nothing has to be looked up or
//! started on the path of an order. Names and groups of `ractor` are process-global and therefore not used: several
//! nodes may live in one process.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use agora_domain::{Account, AccountEvent, Change, Claim, ClaimEvent, Entity, Order, OrderEvent, Sku, SkuEvent};
use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;

use crate::host::{Ask, Feed, Host, HostConfig, HostMessage, Hosted, Load, Reply, Wrong};

/// Hosts of one kind, at most.
pub const HOSTS_MAX: usize = 64;

impl Hosted for Sku {
    fn of(change: &Change) -> Option<(u128, &SkuEvent)> {
        match change {
            Change::Sku(id, event) => Some((id.0.0, event)),
            _ => None,
        }
    }
}

impl Hosted for Order {
    fn of(change: &Change) -> Option<(u128, &OrderEvent)> {
        match change {
            Change::Order(id, event) => Some((id.0.0, event)),
            _ => None,
        }
    }
}

impl Hosted for Account {
    fn of(change: &Change) -> Option<(u128, &AccountEvent)> {
        match change {
            Change::Account(id, event) => Some((id.0.0, event)),
            _ => None,
        }
    }
}

impl Hosted for Claim {
    fn of(change: &Change) -> Option<(u128, &ClaimEvent)> {
        match change {
            Change::Claim(id, event) => Some((id.0.0, event)),
            _ => None,
        }
    }
}

/// The hosts of one kind of entity.
pub struct HostSet<E: Entity> {
    hosts: Vec<ActorRef<HostMessage<E>>>,
    residents: Vec<Arc<AtomicU64>>,
}

impl<E: Hosted> HostSet<E> {
    /// Starts `count` hosts that together keep `residents_max` entities, where no reign needs to be ended.
    ///
    /// # Errors
    /// When an actor cannot be spawned.
    pub async fn start(count: usize, residents_max: usize, load: Load<E>) -> Result<Self, ractor::SpawnErr> {
        Self::start_with(count, residents_max, load, Arc::new(|| ())).await
    }

    /// As [`HostSet::start`]; `wrong` ends the reign when an entity cannot follow its rows.
    ///
    /// # Errors
    /// When an actor cannot be spawned.
    pub async fn start_with(
        count: usize,
        residents_max: usize,
        load: Load<E>,
        wrong: Wrong,
    ) -> Result<Self, ractor::SpawnErr> {
        let count = count.clamp(1, HOSTS_MAX);
        let mut set = Self { hosts: Vec::with_capacity(count), residents: Vec::with_capacity(count) };
        for _ in 0..count {
            let residents = Arc::new(AtomicU64::new(0));
            let config = HostConfig {
                load: Arc::clone(&load),
                wrong: Arc::clone(&wrong),
                residents_max: (residents_max / count).max(1),
                residents: Arc::clone(&residents),
            };
            let (host, _handle) = Actor::spawn(None, Host::default(), config).await?;
            set.hosts.push(host);
            set.residents.push(residents);
        }
        Ok(set)
    }

    /// Where an entity lives.
    pub fn host(&self, id: u128) -> &ActorRef<HostMessage<E>> {
        // Ids count up in their low bits; claims are hashes. Folding both halves spreads either.
        let folded = (id as u64) ^ ((id >> 64) as u64).rotate_left(32);
        &self.hosts[(folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % self.hosts.len()]
    }

    /// Sends a command; the answer comes through the receiver. A host that is gone drops the sender.
    pub fn ask(
        &self,
        reign: u64,
        id: u128,
        command: E::Command,
        own: Vec<u64>,
        may_wait: bool,
    ) -> oneshot::Receiver<Reply<E>> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { id, command, own, may_wait, reply };
        let _ = self.host(id).cast(HostMessage::Ask { reign, ask });
        answer
    }

    /// Waits until an entity that said *not now* has changed. Also returns when the reign is over.
    pub async fn settle(&self, reign: u64, id: u128) {
        let (reply, settled) = oneshot::channel();
        let _ = self.host(id).cast(HostMessage::Settle { reign, id, reply });
        let _ = settled.await;
    }

    fn feed(&self, feed: &Arc<Feed>) {
        if feed.changes.iter().any(|change| E::of(change).is_some()) {
            for host in &self.hosts {
                let _ = host.cast(HostMessage::Applied(Arc::clone(feed)));
            }
        }
    }

    fn forget(&self, reign: u64) {
        for host in &self.hosts {
            let _ = host.cast(HostMessage::Forget { reign });
        }
    }

    /// Entities in memory.
    pub fn residents(&self) -> u64 {
        self.residents.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    async fn stop(&self) {
        for host in &self.hosts {
            let _ = host.stop_and_wait(None, None).await;
        }
    }
}

/// All hosts of a node.
pub struct Hosts {
    /// SKUs.
    pub skus: HostSet<Sku>,
    /// Orders.
    pub orders: HostSet<Order>,
    /// Accounts.
    pub accounts: HostSet<Account>,
    /// Claimed names.
    pub claims: HostSet<Claim>,
    /// The latest reign in which anything was asked; 0 before the first. Entities exist only for it.
    reign: AtomicU64,
}

impl Hosts {
    /// Puts the sets together.
    pub fn new(skus: HostSet<Sku>, orders: HostSet<Order>, accounts: HostSet<Account>, claims: HostSet<Claim>) -> Self {
        Self { skus, orders, accounts, claims, reign: AtomicU64::new(0) }
    }

    /// Must be called with the reign before anything is asked in it: from here on applied entries are fed.
    ///
    /// An entry applied just before is in the rows already when the first entity of the reign is loaded from them.
    pub fn open(&self, reign: u64) {
        self.reign.fetch_max(reign, Ordering::SeqCst);
    }

    /// The latest reign in which anything may have been asked; 0 for none.
    pub fn opened(&self) -> u64 {
        self.reign.load(Ordering::SeqCst)
    }

    /// Feeds what an entry did to the entities in memory. Called by apply before anybody is answered.
    pub fn applied(&self, feed: Feed) {
        if feed.changes.is_empty() || self.opened() != feed.reign {
            return;
        }
        let feed = Arc::new(feed);
        self.skus.feed(&feed);
        self.orders.feed(&feed);
        self.accounts.feed(&feed);
        self.claims.feed(&feed);
    }

    /// A reign is over, and all before it: memory is given back, and who waits for an entity is woken.
    pub fn forget(&self, reign: u64) {
        self.skus.forget(reign);
        self.orders.forget(reign);
        self.accounts.forget(reign);
        self.claims.forget(reign);
    }

    /// Entities in memory.
    pub fn residents(&self) -> u64 {
        self.skus.residents() + self.orders.residents() + self.accounts.residents() + self.claims.residents()
    }

    /// Ends all hosts.
    pub async fn stop(&self) {
        self.skus.stop().await;
        self.orders.stop().await;
        self.accounts.stop().await;
        self.claims.stop().await;
    }
}
