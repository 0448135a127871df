//! Take at decision, give at commit (escrow, O'Neil 1986), for one entity in a leader's memory.
//!
//! [`Live`] holds the committed state and the *flights*: transactions that this entity granted and whose fate is open.
//! What a flight takes away is missing from the *floor*, the state decisions are taken on; what it gives back is not
//! there until its entry is applied. So any subset of the flights may commit, in any order, and nothing is promised
//! twice. A change that does not commute flies alone.
//!
//! A refusal must be true at some place in the log, between the state it was decided on and its own. So the floor
//! alone never refuses. A shortage is told when the committed state has it; or when every flight is in the journal and
//! the state behind all of them has it, since a refusal proposed after them commits only behind them. Any other
//! shortage exists only because of grants that may yet come back, and is *not now*.

use std::collections::VecDeque;

use agora_planted::{self as planted, Bug};

use crate::entity::{At, Entity, Impossible};

/// Flights one entity may have at once; beyond it the answer is *not now*. Bounds memory, far above what admission
/// lets in.
pub const FLIGHTS_MAX: usize = 65_536;

/// What an entity answers to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<E: Entity> {
    /// Granted. The number names the grant until it is dropped, or seen again as applied events.
    Granted {
        /// Names the flight in [`Live::journalled`] and [`Live::dropped`].
        grant: u64,
        /// What will happen when the transaction commits. Empty for a use of terms.
        events: Vec<E::Event>,
    },
    /// Refused, truly so at log index `decided_at` or later.
    Refused {
        /// Why.
        refusal: E::Refusal,
        /// The applied index of the committed state that was looked at.
        decided_at: u64,
    },
    /// It depends on transactions whose fate is open: ask again when this entity has settled.
    NotNow,
}

#[derive(Clone, Debug)]
struct Flight<E: Entity> {
    grant: u64,
    events: Vec<E::Event>,
    journalled: bool,
    alone: bool,
}

/// One entity in memory: what is committed, and what was granted since.
#[derive(Clone, Debug)]
pub struct Live<E: Entity> {
    committed: Option<E>,
    floor: Option<E>,
    index: u64,
    flights: VecDeque<Flight<E>>,
    /// Events that were applied before the word came that their flight is in the journal. Each belongs to a flight
    /// that is not known to be journalled, so there are never more of them than flights.
    early: Vec<E::Event>,
    next_grant: u64,
}

impl<E: Entity> Live<E> {
    /// An entity as its rows hold it at log index `index` (0 for one that was never created).
    pub fn new(committed: Option<E>, index: u64) -> Self {
        let floor = committed.clone();
        Self { committed, floor, index, flights: VecDeque::new(), early: Vec::new(), next_grant: 1 }
    }

    /// The committed state.
    pub fn committed(&self) -> Option<&E> {
        self.committed.as_ref()
    }

    /// Index of the last applied entry this copy knows of.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// True when nothing granted has an open fate: it may leave memory.
    pub fn is_clean(&self) -> bool {
        self.flights.is_empty()
    }

    /// Number of flights.
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// Decides. Granted quantities are taken at once.
    pub fn ask(&mut self, command: &E::Command) -> Decision<E> {
        self.ask_after(command, &[])
    }

    /// As [`Live::ask`], for a further item of a transaction that already holds the grants `own`. They come before
    /// this item in the same transaction, so they are certain from where it stands: what they take may refuse it. What
    /// they give is not used, so an item that needs it would hear *not now* for ever; no request has such items.
    pub fn ask_after(&mut self, command: &E::Command, own: &[u64]) -> Decision<E> {
        if self.flights.back().is_some_and(|flight| flight.alone) || self.flights.len() >= FLIGHTS_MAX {
            return Decision::NotNow;
        }
        if !E::commutes(command) && !planted::is(Bug::SecondStatusChangeInFlight) {
            return self.ask_alone(command, own);
        }
        let looked_at = if planted::is(Bug::CheckOutsideTheActor) { &self.committed } else { &self.floor };
        match E::decide(looked_at.as_ref(), command) {
            Ok(events) => {
                if let Some(floor) = self.floor.as_mut() {
                    for event in &events {
                        floor.take(event);
                        if planted::is(Bug::GiveBeforeCommit) {
                            floor.give(event);
                        }
                    }
                }
                self.grant(events, false)
            }
            Err(_) if self.flights.is_empty() => self.refuse_on(self.committed.as_ref(), command),
            Err(refusal) if planted::is(Bug::FalseRefusalByOpenGrant) => {
                Decision::Refused { refusal, decided_at: self.index }
            }
            Err(_) => {
                // True of what is committed: true now, whatever becomes of the flights' gives and takes later. The asker's own
                // come before it in any case, and it is told what they leave.
                let refused = match own {
                    [] => E::decide(self.committed.as_ref(), command),
                    own => E::decide(self.committed_after(own).as_ref(), command),
                };
                if let Err(refusal) = refused {
                    return Decision::Refused { refusal, decided_at: self.index };
                }
                if self.is_open(own) {
                    return Decision::NotNow;
                }
                let tail = self.tail();
                self.refuse_on(tail.as_ref(), command)
            }
        }
    }

    fn refuse_on(&self, state: Option<&E>, command: &E::Command) -> Decision<E> {
        match E::decide(state, command) {
            Err(refusal) => Decision::Refused { refusal, decided_at: self.index },
            Ok(_) => Decision::NotNow,
        }
    }

    /// A change that does not commute: alone in flight, proposed only when every earlier grant is in the journal.
    fn ask_alone(&mut self, command: &E::Command, own: &[u64]) -> Decision<E> {
        if self.is_open(own) {
            return Decision::NotNow;
        }
        let tail = self.tail();
        match E::decide(tail.as_ref(), command) {
            Ok(events) => self.grant(events, true),
            Err(refusal) => Decision::Refused { refusal, decided_at: self.index },
        }
    }

    fn grant(&mut self, events: Vec<E::Event>, alone: bool) -> Decision<E> {
        let grant = self.next_grant;
        self.next_grant += 1;
        // "Already so" changes nothing, so it need not fly alone; it is still open until journalled.
        let alone = alone && !events.is_empty();
        self.flights.push_back(Flight { grant, events: events.clone(), journalled: false, alone });
        Decision::Granted { grant, events }
    }

    /// Is there a grant whose place in the log is not known yet, apart from the asker's own?
    fn is_open(&self, own: &[u64]) -> bool {
        self.flights.iter().any(|flight| !flight.journalled && !own.contains(&flight.grant))
    }

    /// The committed state with the asker's own grants on top.
    fn committed_after(&self, own: &[u64]) -> Option<E> {
        let mut after = self.committed.clone();
        if let Some(state) = after.as_mut() {
            let own = self.flights.iter().filter(|flight| own.contains(&flight.grant));
            for event in own.flat_map(|flight| &flight.events) {
                state.take(event);
                state.give(event);
            }
        }
        after
    }

    /// What a grant tells its holder.
    pub fn terms(&self) -> Option<E::Terms> {
        E::terms(self.committed.as_ref())
    }

    /// The state at the tail of the journal: committed, and every flight on top. Called only when every flight is
    /// journalled, or the asker's own.
    fn tail(&self) -> Option<E> {
        let mut tail = self.committed.clone();
        if let Some(state) = tail.as_mut() {
            for event in self.flights.iter().flat_map(|flight| &flight.events) {
                state.take(event);
                state.give(event);
            }
        }
        tail
    }

    /// The grant is in the journal: its place in the log is behind everything journalled before it.
    ///
    /// May come after [`Live::applied`] has seen its events: the journal and the actor are told by different threads.
    pub fn journalled(&mut self, grant: u64) {
        let Some(at) = self.flights.iter().position(|flight| flight.grant == grant) else {
            return;
        };
        let flight = &mut self.flights[at];
        flight.journalled = true;
        // A use of terms takes nothing, so the floor stays: the buyer of every order is used so.
        let took_nothing = flight.events.is_empty();
        let early = &mut self.early;
        flight.events.retain(|event| match early.iter().position(|landed| landed == event) {
            Some(landed) => {
                early.swap_remove(landed);
                false
            }
            None => true,
        });
        if flight.events.is_empty() {
            self.flights.remove(at);
            if !took_nothing {
                self.refloor();
            }
        }
    }

    /// The grant was dropped without ever reaching the journal: what it took comes back.
    pub fn dropped(&mut self, grant: u64) {
        let Some(at) = self.flights.iter().position(|flight| flight.grant == grant) else {
            return;
        };
        assert!(!self.flights[at].journalled, "a grant that is in the journal cannot be dropped");
        let dropped = self.flights.remove(at);
        for event in dropped.iter().flat_map(|flight| &flight.events) {
            assert!(
                self.early_of(event) <= self.open_of(event),
                "a grant that was applied cannot be dropped: {event:?}"
            );
        }
        self.refloor();
    }

    /// Events of one applied entry, in log order. Entries that this copy already holds are ignored.
    ///
    /// # Errors
    /// [`Impossible`] when the rows accepted what this copy cannot: the copy is wrong and must be dropped.
    pub fn applied<'a>(&mut self, events: impl Iterator<Item = &'a E::Event>, at: At) -> Result<(), Impossible> {
        if at.index <= self.index {
            return Ok(());
        }
        for event in events {
            E::evolve(&mut self.committed, event, at)?;
            self.land(event);
        }
        self.index = at.index;
        self.refloor();
        Ok(())
    }

    /// Removes the flight whose event came back.
    ///
    /// Two requests may cause equal events (the same delivery booked twice). Among journalled flights they are the
    /// same take, so the first will do. A flight not known to be journalled may still be dropped, so it never stands
    /// in for one that is: if only such flights have the event, it is kept until one of them is said to be journalled.
    fn land(&mut self, event: &E::Event) {
        let journalled = self.flights.iter().enumerate().filter(|(_, flight)| flight.journalled);
        let found = journalled
            .filter_map(|(at, flight)| flight.events.iter().position(|own| own == event).map(|inner| (at, inner)))
            .next();
        if let Some((at, inner)) = found {
            self.flights[at].events.remove(inner);
            if self.flights[at].events.is_empty() {
                self.flights.remove(at);
            }
        } else if self.early_of(event) < self.open_of(event) {
            self.early.push(event.clone());
        }
    }

    /// Equal events among those that came back early.
    fn early_of(&self, event: &E::Event) -> usize {
        self.early.iter().filter(|landed| *landed == event).count()
    }

    /// Equal events among flights that are not known to be journalled.
    fn open_of(&self, event: &E::Event) -> usize {
        let open = self.flights.iter().filter(|flight| !flight.journalled);
        open.flat_map(|flight| &flight.events).filter(|own| *own == event).count()
    }

    fn refloor(&mut self) {
        self.floor.clone_from(&self.committed);
        if let Some(floor) = self.floor.as_mut() {
            for event in self.flights.iter().filter(|flight| !flight.alone).flat_map(|flight| &flight.events) {
                floor.take(event);
                if planted::is(Bug::GiveBeforeCommit) {
                    floor.give(event);
                }
            }
        }
    }
}
