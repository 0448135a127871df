//! A client as a careful integrator writes it.
//!
//! It sends every write under a key, and where the answer is not definite it repeats the request under the same key on
//! another node, with pauses, until it is definite or its patience is over. It does one thing at a time and remembers the
//! highest log index it was told, so that it can ask for its own writes. Every attempt is written down.
//!
//! It can be given bad manners, to test what the key is for: to throw answers away, to repeat requests that were answered,
//! and to send another body under a used key.

use std::{sync::Arc, time::Duration};

use agora_history::{Level, Micros, NodeId, Op, Reply};
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    codec,
    recorder::{Answered, Intent, Recorder},
    rng::Rng,
};

/// How long a client waits, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one answer.
    pub attempt: Duration,
    /// For a definite one.
    pub whole: Duration,
    /// Attempts at most.
    pub attempts_max: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { attempt: Duration::from_secs(3), whole: Duration::from_secs(20), attempts_max: 40 }
    }
}

/// What a client does on purpose that it should not have to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// Throws every n-th answer to a write away; 0: none.
    pub drop_every: u32,
    /// Repeats a write that was answered, on another node, in so many of a thousand cases.
    pub repeat_per_mille: u64,
    /// Sends another body under a key in use, in so many of a thousand cases.
    pub alter_per_mille: u64,
    /// Takes a 503 that says *not applied* at its word and goes away, in so many of a thousand cases.
    pub believe_per_mille: u64,
}

/// The first pause before another attempt, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// One client.
pub struct Client {
    id: u32,
    cluster: Arc<dyn Cluster>,
    recorder: Arc<Recorder>,
    shop_key: String,
    rng: Rng,
    patience: Patience,
    manners: Manners,
    answers: u32,
    seen: u64,
    last_good: Option<NodeId>,
    last_key: Option<String>,
}

impl Client {
    /// With a number that no other client of the run has, and chance of its own.
    pub fn new(id: u32, cluster: Arc<dyn Cluster>, recorder: Arc<Recorder>, rng: &Rng, patience: Patience) -> Client {
        let (shop_key, _) = cluster.keys();
        let rng = rng.fork(&format!("client {id}"));
        Client {
            id,
            cluster,
            recorder,
            shop_key,
            rng,
            patience,
            manners: Manners::default(),
            answers: 0,
            seen: 0,
            last_good: None,
            last_key: None,
        }
    }

    /// With these manners.
    pub fn with_manners(mut self, manners: Manners) -> Client {
        self.manners = manners;
        self
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The key of its last write.
    pub fn last_key(&self) -> Option<&str> {
        self.last_key.as_deref()
    }

    /// Its chance, for what it does next.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The highest log index it was told.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// On the run's clock.
    pub fn now(&self) -> Micros {
        self.cluster.now()
    }

    /// Any node, most often the one that answered last.
    pub fn some_node(&mut self) -> NodeId {
        let nodes = self.cluster.nodes();
        if let Some(last) = self.last_good.filter(|last| nodes.contains(last) && self.rng.per_mille(500)) {
            return last;
        }
        self.rng.pick(&nodes).copied().unwrap_or(1)
    }

    fn another_node(&mut self, than: NodeId) -> NodeId {
        let others: Vec<NodeId> = self.cluster.nodes().into_iter().filter(|node| *node != than).collect();
        self.rng.pick(&others).copied().unwrap_or(than)
    }

    /// Asks once, writes it down.
    pub async fn attempt(&mut self, intent: &Intent, attempt: u32, node: NodeId, deadline: Duration) -> Answered {
        let (invoked, answered) = self.exchange(intent, node, deadline).await;
        self.note(intent, attempt, node, invoked, answered.clone());
        answered
    }

    async fn exchange(&mut self, intent: &Intent, node: NodeId, deadline: Duration) -> (Micros, Answered) {
        let request = codec::request(intent, &self.shop_key);
        let under_way = self.recorder.begin(intent);
        let invoked = self.cluster.now();
        let answer = self.cluster.send(node, request, deadline).await;
        drop(under_way);
        (invoked, codec::understand(&intent.request, &answer))
    }

    fn note(&mut self, intent: &Intent, attempt: u32, node: NodeId, invoked: Micros, answered: Answered) {
        if matches!(answered.reply, Reply::Yes { .. } | Reply::Refused { .. }) {
            self.seen = self.seen.max(answered.index.unwrap_or(0));
            self.last_good = Some(node);
        }
        self.recorder.record(intent, attempt, node, (invoked, self.cluster.now()), answered);
    }

    /// A write, until it is definite or patience is over. Gives the reply that decided it, or the last one.
    pub async fn write(&mut self, op: Op) -> Reply {
        let intent = self.recorder.intend(self.id, op);
        self.last_key.clone_from(&intent.key);
        let until = Instant::now() + self.patience.whole;
        let mut node = self.some_node();
        let mut last = Reply::NotDone { status: 0, code: "NOT_TRIED".to_owned() };
        let mut attempt = 0;
        let mut other = None;
        while attempt < self.patience.attempts_max {
            last = self.try_write(&intent, attempt, node).await;
            attempt += 1;
            let is_told_no = matches!(last, Reply::NotDone { .. });
            if is_definite(&last) || Instant::now() >= until || is_told_no && self.believes() {
                break;
            }
            self.misbehave(&intent, &mut other).await;
            self.pause(attempt, until).await;
            node = self.another_node(node);
        }
        if is_definite(&last) && self.rng.per_mille(self.manners.repeat_per_mille) {
            // Asked again although it is known: the answer must be the same, from any node.
            node = self.another_node(node);
            self.attempt(&intent, attempt, node, self.patience.attempt).await;
            self.misbehave(&intent, &mut other).await;
        }
        last
    }

    async fn try_write(&mut self, intent: &Intent, attempt: u32, node: NodeId) -> Reply {
        let (invoked, mut answered) = self.exchange(intent, node, self.patience.attempt).await;
        let is_answer = matches!(answered.reply, Reply::Yes { .. } | Reply::Refused { .. });
        self.answers += u32::from(is_answer);
        if is_answer && self.manners.drop_every > 0 && self.answers.is_multiple_of(self.manners.drop_every) {
            let reply = Reply::Unknown { status: None, why: "the client threw the answer away".to_owned() };
            answered = Answered { reply, index: None, staleness_ms: None, replayed: false, body_hash: None };
        }
        let reply = answered.reply.clone();
        self.note(intent, attempt, node, invoked, answered);
        reply
    }

    /// Sends another body under the same key, now and then. It may even win, if the first one never arrived; so whenever
    /// it is sent again, it is one more attempt at the same operation.
    async fn misbehave(&mut self, intent: &Intent, other: &mut Option<(Intent, u32)>) {
        if !self.rng.per_mille(self.manners.alter_per_mille) {
            return;
        }
        if other.is_none() {
            *other = altered(&intent.request).map(|request| (self.recorder.altered(intent, request), 0));
        }
        let Some((other, attempt)) = other else { return };
        let node = self.some_node();
        self.attempt(other, *attempt, node, self.patience.attempt).await;
        *attempt += 1;
    }

    fn believes(&mut self) -> bool {
        // No chance is drawn where there is none to take: those without this manner go on as ever.
        self.manners.believe_per_mille > 0 && self.rng.per_mille(self.manners.believe_per_mille)
    }

    async fn pause(&mut self, attempt: u32, until: Instant) {
        let most = PAUSE_MAX.min(PAUSE_MIN.saturating_mul(1 << attempt.min(5)));
        let most_us = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.rng.between(most_us / 2, most_us));
        tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
    }

    /// A read at a level, at one node, once.
    pub async fn read(&mut self, op: Op, level: Level, min_index: Option<u64>, node: NodeId) -> Answered {
        let mut intent = self.recorder.intend(self.id, op);
        intent.level = Some(level);
        intent.min_index = min_index;
        self.attempt(&intent, 0, node, self.patience.attempt).await
    }

    /// A linearizable read, asked of one node after the other until it is answered or patience is over.
    pub async fn read_surely(&mut self, op: Op) -> Reply {
        let mut intent = self.recorder.intend(self.id, op);
        intent.level = Some(Level::Linearizable);
        let until = Instant::now() + self.patience.whole;
        let mut node = self.some_node();
        let mut attempt = 0;
        loop {
            let answered = self.attempt(&intent, attempt, node, self.patience.attempt).await;
            attempt += 1;
            let is_over = attempt >= self.patience.attempts_max || Instant::now() >= until;
            if is_over || matches!(answered.reply, Reply::Yes { .. } | Reply::Refused { .. }) {
                return answered.reply;
            }
            self.pause(attempt, until).await;
            node = self.another_node(node);
        }
    }
}

/// Whether a client that got this has no reason to ask again. A key in use by another request never becomes free, and
/// what was wrong in form stays wrong; a request that is still running, a node that cannot, or no answer may turn out well.
pub fn is_definite(reply: &Reply) -> bool {
    match reply {
        Reply::Yes { .. } | Reply::Refused { .. } => true,
        Reply::NotDone { status: 400..=499, code } => code != "IDEMPOTENCY_IN_FLIGHT" && code != "REQUEST_TIMEOUT",
        Reply::NotDone { .. } | Reply::Unknown { .. } => false,
    }
}

/// The same wish with another figure or another aim, where there is one.
fn altered(op: &Op) -> Option<Op> {
    let mut op = op.clone();
    match &mut op {
        Op::CreateSku { price, .. } => *price += 1,
        Op::ChangeSku { price, .. } => *price = Some(price.unwrap_or(0) + 1),
        Op::Receive { lines } => lines.first_mut()?.1 += 1,
        Op::AdjustStock { delta, .. } => *delta = if *delta == -1 { 1 } else { *delta + 1 },
        Op::CreateAccount { name } => name.push('x'),
        Op::AdjustWallet { amount, .. } => *amount = if *amount == -1 { 1 } else { *amount + 1 },
        Op::Place(basket) => basket.items.first_mut()?.1 += 1,
        Op::PlaceBatch(baskets) => baskets.first_mut()?.items.first_mut()?.1 += 1,
        _ => return None,
    }
    Some(op)
}
