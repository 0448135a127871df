//! The one actor shell for all entities: *decide and take, and when the log says so, evolve and give*.
//!
//! A host is a `ractor` actor that carries the entities whose ids hash to it. No handler awaits, so nothing is ever
//! half changed. An entity is loaded from rows when it is first asked; rows carry the index of their last change, and
//! what apply feeds back for an entry a row already holds is ignored, so a load and a feed may come in either order.
//!
//! Entities live for one reign: the first message of a later reign drops them all, and messages of an older reign find
//! nothing to act on.

use std::{
    collections::{HashMap, VecDeque},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agora_domain::{At, Change, Decision, Entity, Live};
use agora_planted::{self as planted, Bug};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::grant::Grant;

/// Commands that may wait in one entity's own queue; beyond it the answer is *overloaded*.
pub const QUEUE_MAX: usize = 4_096;
/// Who waits for one entity to settle; beyond it those who gave up are sorted out.
const SETTLING_MAX: usize = 4_096;
/// Residents looked at per message when room is needed.
const EVICT_STEPS_MAX: usize = 64;

/// Which events of a change are of one kind of entity.
pub trait Hosted: Entity {
    /// The entity's id and event, if the change is of this kind.
    fn of(change: &Change) -> Option<(u128, &Self::Event)>;
}

/// Reads an entity's committed state from rows.
pub type Load<E> = Arc<dyn Fn(u128) -> agora_storage::Result<Option<E>> + Send + Sync>;

/// Told when an entity in memory cannot follow its rows: the reign must end, since what it has granted is lost.
pub type Wrong = Arc<dyn Fn() + Send + Sync>;

/// What one applied entry did.
#[derive(Debug)]
pub struct Feed {
    /// The reign that decided it.
    pub reign: u64,
    /// Where.
    pub at: At,
    /// In log order.
    pub changes: Vec<Change>,
}

/// What an entity answers.
pub enum Reply<E: Entity> {
    /// Granted.
    Granted(Grant<E>),
    /// Refused, truly so at `decided_at` or later.
    Refused {
        /// Why.
        refusal: E::Refusal,
        /// Applied index it was decided on.
        decided_at: u64,
    },
    /// Give back all you hold, wait until it has settled, ask again.
    NotNow,
    /// The asker's reign is over.
    Stale,
    /// Too many wait already.
    Overloaded,
    /// The rows could not be read.
    Failed(String),
}

/// One command for one entity.
pub struct Ask<E: Entity> {
    /// Which entity.
    pub id: u128,
    /// What.
    pub command: E::Command,
    /// Grants of the same entity that the asker holds for the same transaction.
    pub own: Vec<u64>,
    /// True when the asker holds nothing: it may wait in the entity's queue.
    pub may_wait: bool,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply<E>>,
}

/// What a host is told.
pub enum HostMessage<E: Entity> {
    /// Decide.
    Ask {
        /// Of the asker.
        reign: u64,
        /// What, of whom.
        ask: Ask<E>,
    },
    /// Tell me when this entity has changed since it said *not now*.
    Settle {
        /// Of the asker.
        reign: u64,
        /// Which entity.
        id: u128,
        /// Told, or dropped when the reign is over.
        reply: oneshot::Sender<()>,
    },
    /// A grant is in the journal.
    Journalled {
        /// Of the grant.
        reign: u64,
        /// Whose.
        id: u128,
        /// Its number.
        grant: u64,
    },
    /// A grant was given up.
    Dropped {
        /// Of the grant.
        reign: u64,
        /// Whose.
        id: u128,
        /// Its number.
        grant: u64,
    },
    /// An entry was applied.
    Applied(Arc<Feed>),
    /// This reign is over: forget everything of it, and of those before it.
    Forget {
        /// Which.
        reign: u64,
    },
}

struct Resident<E: Entity> {
    live: Live<E>,
    queue: VecDeque<Ask<E>>,
    settling: Vec<oneshot::Sender<()>>,
    /// Asked since the hand of the clock last passed.
    warm: bool,
}

impl<E: Entity> Resident<E> {
    fn may_leave(&self) -> bool {
        let is_clean = self.live.is_clean() || planted::is(Bug::ActorsReloadedInFlight);
        is_clean && self.queue.is_empty() && self.settling.is_empty()
    }
}

/// How a host is set up.
pub struct HostConfig<E: Entity> {
    /// Where entities come from.
    pub load: Load<E>,
    /// Whom to tell of an entity that disagrees with its rows.
    pub wrong: Wrong,
    /// Entities kept in memory; those with something outstanding may exceed it, within what admission lets in.
    pub residents_max: usize,
    /// Counts residents.
    pub residents: Arc<AtomicU64>,
}

/// The actor.
pub struct Host<E>(PhantomData<fn() -> E>);

impl<E> Default for Host<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// What a host has in memory.
pub struct HostState<E: Entity> {
    config: HostConfig<E>,
    reign: u64,
    residents: HashMap<u128, Resident<E>>,
    /// The clock's hand: residents in the order they are looked at for eviction.
    clock: VecDeque<u128>,
}

impl<E: Hosted> Actor for Host<E> {
    type Msg = HostMessage<E>;
    type State = HostState<E>;
    type Arguments = HostConfig<E>;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        config: HostConfig<E>,
    ) -> Result<HostState<E>, ActorProcessingErr> {
        Ok(HostState { config, reign: 0, residents: HashMap::new(), clock: VecDeque::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: HostMessage<E>,
        state: &mut HostState<E>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            HostMessage::Ask { reign, ask } => state.ask(&myself, reign, ask),
            HostMessage::Settle { reign, id, reply } => state.settle(reign, id, reply),
            HostMessage::Journalled { reign, id, grant } => {
                state.changed(&myself, reign, id, |live| live.journalled(grant));
            }
            HostMessage::Dropped { reign, id, grant } => {
                state.changed(&myself, reign, id, |live| live.dropped(grant));
            }
            HostMessage::Applied(feed) => state.applied(&myself, &feed),
            HostMessage::Forget { reign } => {
                if state.reign <= reign {
                    state.forget();
                }
            }
        }
        state.config.residents.store(state.residents.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl<E: Hosted> HostState<E> {
    /// Enters a later reign. False when the message's reign is over.
    fn enter(&mut self, reign: u64) -> bool {
        if reign > self.reign {
            self.forget();
            self.reign = reign;
        }
        reign == self.reign
    }

    fn forget(&mut self) {
        if planted::is(Bug::ActorStateKeptAcrossReigns) {
            return;
        }
        self.residents.clear();
        self.clock.clear();
    }

    fn resident(&mut self, id: u128) -> Result<&mut Resident<E>, String> {
        if !self.residents.contains_key(&id) {
            let committed = (self.config.load)(id).map_err(|error| error.to_string())?;
            let index = committed.as_ref().map_or(0, E::index);
            self.make_room();
            let live = Live::new(committed, index);
            self.residents.insert(id, Resident { live, queue: VecDeque::new(), settling: Vec::new(), warm: true });
            self.clock.push_back(id);
        }
        Ok(self.residents.get_mut(&id).expect("just inserted"))
    }

    /// Lets the coldest clean residents go (second chance). A bounded number is looked at; if all of them have
    /// something outstanding, the bound is exceeded by as many as admission lets in.
    fn make_room(&mut self) {
        for _ in 0..EVICT_STEPS_MAX {
            if self.residents.len() < self.config.residents_max {
                return;
            }
            let Some(id) = self.clock.pop_front() else { return };
            let Some(resident) = self.residents.get_mut(&id) else { continue };
            if resident.may_leave() && !std::mem::take(&mut resident.warm) {
                self.residents.remove(&id);
            } else {
                self.clock.push_back(id);
            }
        }
    }

    fn ask(&mut self, myself: &ActorRef<HostMessage<E>>, reign: u64, ask: Ask<E>) {
        if !self.enter(reign) {
            let _ = ask.reply.send(Reply::Stale);
            return;
        }
        let resident = match self.resident(ask.id) {
            Ok(resident) => resident,
            Err(message) => {
                let _ = ask.reply.send(Reply::Failed(message));
                return;
            }
        };
        resident.warm = true;
        if !resident.queue.is_empty() {
            // Who came first is decided first; otherwise a change of price would wait for ever behind a busy sale.
            resident.wait_or_refuse(ask);
            return;
        }
        if let Some(ask) = resident.answer(myself, reign, ask) {
            resident.wait_or_refuse(ask);
        }
    }

    fn settle(&mut self, reign: u64, id: u128, reply: oneshot::Sender<()>) {
        if !self.enter(reign) {
            return;
        }
        match self.residents.get_mut(&id) {
            Some(resident) if !resident.live.is_clean() || !resident.queue.is_empty() => {
                if resident.settling.len() >= SETTLING_MAX {
                    // Admission bounds those who still wait; whoever gave up must not add up while nothing moves.
                    resident.settling.retain(|waiting| !waiting.is_closed());
                }
                resident.settling.push(reply);
            }
            _ => {
                let _ = reply.send(());
            }
        }
    }

    fn changed(&mut self, myself: &ActorRef<HostMessage<E>>, reign: u64, id: u128, change: impl FnOnce(&mut Live<E>)) {
        if reign != self.reign {
            return;
        }
        if let Some(resident) = self.residents.get_mut(&id) {
            change(&mut resident.live);
            resident.pump(myself, reign);
        }
    }

    fn applied(&mut self, myself: &ActorRef<HostMessage<E>>, feed: &Feed) {
        // What an older reign left here has missed entries of others in between.
        if !self.enter(feed.reign) {
            return;
        }
        let mut events: HashMap<u128, Vec<&E::Event>> = HashMap::new();
        for (id, event) in feed.changes.iter().filter_map(E::of) {
            if self.residents.contains_key(&id) {
                events.entry(id).or_default().push(event);
            }
        }
        for (id, events) in events {
            let Some(resident) = self.residents.get_mut(&id) else { continue };
            if let Err(impossible) = resident.live.applied(events.into_iter(), feed.at) {
                // The rows took what this copy cannot: the copy is wrong. A fresh one would not know of the grants that
                // are out and grant the same again, so the reign ends, and the next one loads the truth.
                tracing::error!(index = feed.at.index, %impossible, "an entity in memory disagreed with its rows");
                self.residents.remove(&id);
                (self.config.wrong)();
                continue;
            }
            resident.pump(myself, self.reign);
        }
    }
}

impl<E: Hosted> Resident<E> {
    /// Decides, unless it is *not now*: then the ask comes back.
    fn answer(&mut self, myself: &ActorRef<HostMessage<E>>, reign: u64, ask: Ask<E>) -> Option<Ask<E>> {
        let reply = match self.live.ask_after(&ask.command, &ask.own) {
            Decision::NotNow => return Some(ask),
            Decision::Refused { refusal, decided_at } => Reply::Refused { refusal, decided_at },
            Decision::Granted { grant, events } => match self.live.terms() {
                Some(terms) => Reply::Granted(Grant::new(myself.clone(), reign, ask.id, grant, events, terms)),
                None => {
                    self.live.dropped(grant);
                    Reply::Failed("an entity that does not exist granted something".into())
                }
            },
        };
        // A reply nobody reads drops the grant, which gives back.
        let _ = ask.reply.send(reply);
        None
    }

    fn wait_or_refuse(&mut self, ask: Ask<E>) {
        if !ask.may_wait {
            let _ = ask.reply.send(Reply::NotNow);
        } else if self.queue.len() >= QUEUE_MAX && !self.forget_closed() {
            let _ = ask.reply.send(Reply::Overloaded);
        } else {
            self.queue.push_back(ask);
        }
    }

    /// Takes those out of the queue who gave up. True when that made room.
    fn forget_closed(&mut self) -> bool {
        self.queue.retain(|ask| !ask.reply.is_closed());
        self.queue.len() < QUEUE_MAX
    }

    /// Something changed: who waits may have an answer now.
    fn pump(&mut self, myself: &ActorRef<HostMessage<E>>, reign: u64) {
        while let Some(ask) = self.queue.pop_front() {
            if ask.reply.is_closed() {
                continue;
            }
            if let Some(ask) = self.answer(myself, reign, ask) {
                self.queue.push_front(ask);
                break;
            }
        }
        for settled in self.settling.drain(..) {
            let _ = settled.send(());
        }
    }
}
