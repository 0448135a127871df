//! The escrow law: one [`Live`] entity under a coordinator and a journal that do all they may.
//!
//! The run keeps the log and the state that the log has by itself, and compares. A *refusal* is a transaction like any
//! other here: it goes through the journal, and when it is applied it must be true of the state at some place in the
//! log, from the one it was decided on to its own.

use std::collections::VecDeque;

use agora_domain::{Decision, Entity, Live};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::subject::{Subject, at, evolve, opened};

/// Steps of one run.
const STEPS_MAX: usize = 60;

/// In which order journalled transactions commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOrder {
    /// As the journal has them, and of an ending reign a first part only. This is what a log does.
    AsJournalled,
    /// Any, and any part. More than a log does; refusals are not looked at, since they count on what is before them.
    Any,
}

/// A bug to plant into the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An honest coordinator.
    None,
    /// Drops grants without telling the entity.
    ForgetsDrops,
    /// Loads the entity anew while what it granted is still in the journal.
    ReloadsInReign,
    /// Decides on the committed state instead of asking.
    AsksTheRows,
    /// Takes *not now* for a no.
    RefusesFromTheFloor,
}

/// What may happen next.
#[derive(Clone, Debug)]
pub enum Step<W> {
    /// A request of one or more items is decided.
    Ask(Vec<W>),
    /// A decided transaction is handed to the journal, and the entity hears of it, or will later.
    Journal(Index, bool),
    /// The entity hears that a transaction is in the journal, perhaps after it heard that it was applied.
    Tell(Index),
    /// A decided transaction is given up.
    Drop(Index),
    /// An entry of so many transactions is applied.
    Commit(Vec<Index>),
    /// The reign ends: so many of the journal still commit, the rest never will, and the entity is loaded anew.
    EndReign(Vec<Index>),
}

/// Any run.
pub fn scripts<E: Subject>() -> impl Strategy<Value = Vec<Step<E::Wish>>> {
    let step = prop_oneof![
        10 => prop_oneof![8 => vec(E::wish(), 1), 1 => vec(E::wish(), 2..4)].prop_map(Step::Ask),
        8 => (any::<Index>(), prop::bool::weighted(0.8)).prop_map(|(at, told)| Step::Journal(at, told)),
        3 => any::<Index>().prop_map(Step::Tell),
        2 => any::<Index>().prop_map(Step::Drop),
        5 => vec(any::<Index>(), 1..4).prop_map(Step::Commit),
        1 => vec(any::<Index>(), 0..4).prop_map(Step::EndReign),
    ];
    vec(step, 1..STEPS_MAX)
}

/// One item of a transaction, as the entity answered it.
#[derive(Clone, Debug)]
enum Item<E: Entity> {
    Granted { grant: u64, events: Vec<E::Event>, alone: bool },
    Refused { command: E::Command, refusal: E::Refusal, decided_at: u64 },
}

/// What one request decided.
#[derive(Clone, Debug)]
struct Transaction<E: Entity> {
    items: Vec<Item<E>>,
    told: bool,
}

impl<E: Entity> Transaction<E> {
    fn grants(&self) -> impl Iterator<Item = (u64, &[E::Event])> {
        self.items.iter().filter_map(|item| match item {
            Item::Granted { grant, events, .. } => Some((*grant, &events[..])),
            Item::Refused { .. } => None,
        })
    }

    fn events(&self) -> impl Iterator<Item = &E::Event> {
        self.grants().flat_map(|(_, events)| events)
    }

    fn is_alone(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Granted { alone: true, .. }))
    }
}

struct Run<E: Subject> {
    live: Live<E>,
    book: E::Book,
    /// The committed state, kept without [`Live`].
    state: Option<E>,
    index: u64,
    /// State at each place in the log: behind each item of each transaction.
    places: Vec<(u64, Option<E>)>,
    /// All events of the log with their index.
    log: Vec<(u64, E::Event)>,
    /// Decided, and not yet in the journal.
    in_hand: Vec<Transaction<E>>,
    /// In the journal, and not yet applied.
    journal: VecDeque<Transaction<E>>,
    /// Applied before the entity heard that they are in the journal.
    untold: Vec<Transaction<E>>,
    order: LogOrder,
    fault: Fault,
}

/// Runs a script to its end, lets everything settle, and checks at every step.
pub fn run<E: Subject>(script: &[Step<E::Wish>], order: LogOrder, fault: Fault) -> Result<(), String> {
    let mut run = Run::<E>::new(order, fault);
    for step in script {
        run.step(step)?;
        run.check()?;
    }
    run.settle()?;
    for step in script {
        if let Step::Ask(wishes) = step {
            run.ask(&wishes[..1])?;
            run.drop_all();
            run.check()?;
        }
    }
    Ok(())
}

/// Folding the events of the log gives the state that decisions were taken on.
pub fn replay<E: Subject>(script: &[Step<E::Wish>]) -> Result<(), String> {
    let mut run = Run::<E>::new(LogOrder::AsJournalled, Fault::None);
    for step in script {
        run.step(step)?;
        let mut folded = opened::<E>().0;
        for (index, event) in &run.log {
            evolve(&mut folded, event, *index)?;
        }
        if folded.as_ref() != run.live.committed() {
            return Err(format!("the log gives {folded:?}, in memory is {:?}", run.live.committed()));
        }
    }
    Ok(())
}

fn take<T>(from: &mut Vec<T>, index: Index) -> Option<T> {
    if from.is_empty() { None } else { Some(from.swap_remove(index.index(from.len()))) }
}

impl<E: Subject> Run<E> {
    fn new(order: LogOrder, fault: Fault) -> Self {
        let (state, index) = opened::<E>();
        Self {
            live: Live::new(state.clone(), index),
            book: E::Book::default(),
            places: vec![(index, state.clone())],
            state,
            index,
            log: Vec::new(),
            in_hand: Vec::new(),
            journal: VecDeque::new(),
            untold: Vec::new(),
            order,
            fault,
        }
    }

    fn step(&mut self, step: &Step<E::Wish>) -> Result<(), String> {
        match step {
            Step::Ask(wishes) => self.ask(wishes)?,
            Step::Journal(index, told) => {
                if let Some(transaction) = take(&mut self.in_hand, *index) {
                    self.journal.push_back(transaction);
                    if *told {
                        let last = self.journal.len() - 1;
                        self.tell(last);
                    }
                }
            }
            Step::Tell(index) => {
                let waiting = self.untold.len() + self.journal.len();
                if waiting > 0 {
                    self.tell_any(index.index(waiting));
                }
            }
            Step::Drop(index) => {
                if let Some(transaction) = take(&mut self.in_hand, *index) {
                    self.drop_transaction(&transaction);
                }
            }
            Step::Commit(picks) => {
                let entry = self.entry(picks);
                self.apply(&entry)?;
            }
            Step::EndReign(picks) => self.end_reign(picks)?,
        }
        Ok(())
    }

    /// Decides a request: every item is granted or refused, or all is given back.
    fn ask(&mut self, wishes: &[E::Wish]) -> Result<(), String> {
        let mut transaction = Transaction { items: Vec::new(), told: false };
        for wish in wishes {
            let Some(command) = E::command(wish, &mut self.book, self.state.as_ref()) else {
                continue;
            };
            let own: Vec<u64> = transaction.grants().map(|(grant, _)| grant).collect();
            let settled = self.live.is_clean();
            let answer = self.decide(&command, &own);
            if settled {
                self.check_settled(&command, &answer)?;
            }
            match answer {
                Decision::Granted { grant, events } => {
                    events.iter().for_each(|event| E::granted(&mut self.book, event));
                    let alone = !E::commutes(&command) && !events.is_empty();
                    transaction.items.push(Item::Granted { grant, events, alone });
                }
                Decision::Refused { refusal, decided_at } => {
                    transaction.items.push(Item::Refused { command, refusal, decided_at });
                }
                Decision::NotNow => {
                    self.drop_transaction(&transaction);
                    return Ok(());
                }
            }
        }
        if !transaction.items.is_empty() {
            self.in_hand.push(transaction);
        }
        Ok(())
    }

    fn decide(&mut self, command: &E::Command, own: &[u64]) -> Decision<E> {
        match self.fault {
            Fault::AsksTheRows => match E::decide(self.state.as_ref(), command) {
                Ok(events) => Decision::Granted { grant: 0, events },
                Err(refusal) => Decision::Refused { refusal, decided_at: self.index },
            },
            Fault::RefusesFromTheFloor => match self.live.ask_after(command, own) {
                // Stands for a floor that refuses by itself: the shortage is told with whatever figures were last true.
                Decision::NotNow => self.refuse_by_force(command),
                answer => answer,
            },
            _ => self.live.ask_after(command, own),
        }
    }

    /// A refusal of what the committed state would grant, with the figures it would have if every grant stayed.
    fn refuse_by_force(&self, command: &E::Command) -> Decision<E> {
        let mut floor = self.state.clone();
        if let Some(floor) = floor.as_mut() {
            let open = self.in_hand.iter().chain(&self.journal).flat_map(Transaction::events);
            open.for_each(|event| floor.take(event));
        }
        match E::decide(floor.as_ref(), command) {
            Err(refusal) => Decision::Refused { refusal, decided_at: self.index },
            Ok(_) => Decision::NotNow,
        }
    }

    /// With nothing in flight, an entity answers as its row would.
    fn check_settled(&self, command: &E::Command, answer: &Decision<E>) -> Result<(), String> {
        let plain = E::decide(self.state.as_ref(), command);
        let same = match (answer, &plain) {
            (Decision::Granted { events, .. }, Ok(plain)) => events == plain,
            (Decision::Refused { refusal, decided_at }, Err(plain)) => {
                refusal == plain && *decided_at == self.live.index()
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        Err(format!("with nothing in flight {command:?} is answered {answer:?}; its row says {plain:?}"))
    }

    fn tell(&mut self, at: usize) {
        let transaction = &mut self.journal[at];
        if !transaction.told {
            transaction.told = true;
            transaction.grants().for_each(|(grant, _)| self.live.journalled(grant));
        }
    }

    fn tell_any(&mut self, at: usize) {
        if at < self.untold.len() {
            let transaction = self.untold.swap_remove(at);
            transaction.grants().for_each(|(grant, _)| self.live.journalled(grant));
        } else {
            self.tell(at - self.untold.len());
        }
    }

    fn drop_transaction(&mut self, transaction: &Transaction<E>) {
        for (grant, events) in transaction.grants() {
            if self.fault != Fault::ForgetsDrops {
                self.live.dropped(grant);
            }
            events.iter().for_each(|event| E::lost(&mut self.book, event));
        }
    }

    fn drop_all(&mut self) {
        for transaction in std::mem::take(&mut self.in_hand) {
            self.drop_transaction(&transaction);
        }
    }

    /// Takes the transactions of the next entry out of the journal.
    fn entry(&mut self, picks: &[Index]) -> Vec<Transaction<E>> {
        let mut entry = Vec::new();
        for pick in picks {
            let at = match self.order {
                LogOrder::AsJournalled => 0,
                // A change that does not commute stays where it is: behind all that was granted before it.
                LogOrder::Any => {
                    let commuting = self.journal.iter().take_while(|transaction| !transaction.is_alone()).count();
                    if commuting == 0 { 0 } else { pick.index(commuting) }
                }
            };
            entry.extend(self.journal.remove(at));
        }
        entry
    }

    /// Applies one entry to the log's own state, then to the entity's, twice: a second feed must do nothing.
    fn apply(&mut self, entry: &[Transaction<E>]) -> Result<(), String> {
        self.commit(entry)?;
        let events = || entry.iter().flat_map(Transaction::events);
        for _feed in 0..2 {
            self.live.applied(events(), at(self.index)).map_err(|impossible| impossible.to_string())?;
        }
        self.untold.extend(entry.iter().filter(|transaction| !transaction.told).cloned());
        Ok(())
    }

    fn commit(&mut self, entry: &[Transaction<E>]) -> Result<(), String> {
        self.index += 1;
        for transaction in entry {
            let mut own = Vec::new();
            for item in &transaction.items {
                match item {
                    Item::Granted { events, .. } => {
                        own.extend(events);
                        events.iter().try_for_each(|event| self.append(event))?;
                    }
                    Item::Refused { command, refusal, decided_at } if self.order == LogOrder::AsJournalled => {
                        self.check_refusal(command, refusal, *decided_at, &own)?;
                    }
                    Item::Refused { .. } => {}
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, event: &E::Event) -> Result<(), String> {
        evolve(&mut self.state, event, self.index)?;
        E::committed(&mut self.book, event);
        self.log.push((self.index, event.clone()));
        self.places.push((self.index, self.state.clone()));
        Ok(())
    }

    /// A refusal is true, figures included, at some place from `decided_at` to the end of the log: of the state there,
    /// or, for a further item of a request, of that state with the request's own grants on it.
    fn check_refusal(
        &self,
        command: &E::Command,
        refusal: &E::Refusal,
        decided_at: u64,
        own: &[&E::Event],
    ) -> Result<(), String> {
        let decided_on = self.places.iter().rposition(|(index, _)| *index <= decided_at);
        let places = &self.places[decided_on.expect("decided after the start")..];
        let is_true = |state: Option<&E>| E::decide(state, command).as_ref() == Err(refusal);
        let with_own = |place: &Option<E>| {
            let mut state = place.clone();
            let fits = own.iter().all(|event| E::evolve(&mut state, event, at(self.index)).is_ok());
            fits && is_true(state.as_ref())
        };
        if places.iter().any(|(_, place)| is_true(place.as_ref()) || with_own(place)) {
            return Ok(());
        }
        Err(format!("{command:?} was told {refusal:?}, true nowhere in {places:?}"))
    }

    /// Some of the journal commits, all else is lost, and a fence stands between this reign's entity and the next.
    fn end_reign(&mut self, picks: &[Index]) -> Result<(), String> {
        if self.fault == Fault::ReloadsInReign {
            // The entity goes, and its flights with it; the journal stays.
            self.drop_all();
            for transaction in &mut self.journal {
                transaction.told = true;
            }
            self.untold.clear();
            self.live = Live::new(self.state.clone(), self.index);
            return Ok(());
        }
        let entry = match self.order {
            LogOrder::AsJournalled => self.entry(picks),
            LogOrder::Any => picks
                .iter()
                .filter_map(|pick| {
                    let left = self.journal.len();
                    if left == 0 { None } else { self.journal.remove(pick.index(left)) }
                })
                .collect(),
        };
        self.commit(&entry)?;
        let lost = self.in_hand.drain(..).chain(self.journal.drain(..));
        for transaction in lost {
            transaction.events().for_each(|event| E::lost(&mut self.book, event));
        }
        self.untold.clear();
        self.index += 1;
        self.live = Live::new(self.state.clone(), self.index);
        Ok(())
    }

    /// What the entity holds must be what the log has and what is open, at every step.
    fn check(&self) -> Result<(), String> {
        if self.fault == Fault::AsksTheRows {
            return Ok(());
        }
        if self.live.committed() != self.state.as_ref() {
            return Err(format!("in memory is {:?}, committed is {:?}", self.live.committed(), self.state));
        }
        if self.fault == Fault::ReloadsInReign {
            return Ok(());
        }
        // A use of terms, and what was so already, is open until the entity hears that it is journalled.
        let in_hand = self.in_hand.iter().chain(&self.untold).flat_map(Transaction::grants).count();
        let waiting = |transaction: &Transaction<E>| {
            transaction.grants().filter(|(_, events)| !transaction.told || !events.is_empty()).count()
        };
        let open = in_hand + self.journal.iter().map(waiting).sum::<usize>();
        // Who is told first lands the flight whose equal event came back early, whichever of the two it was.
        let swapped = self.untold.iter().flat_map(Transaction::events).count();
        if self.live.flights() <= open && self.live.flights() + swapped >= open {
            return Ok(());
        }
        Err(format!("{} flights are known, {open} are open", self.live.flights()))
    }

    /// Everything in hand is journalled, everything journalled is applied, and the entity hears of it.
    fn settle(&mut self) -> Result<(), String> {
        self.journal.extend(self.in_hand.drain(..));
        let entry: Vec<_> = self.journal.drain(..).collect();
        self.apply(&entry)?;
        while !self.untold.is_empty() {
            self.tell_any(0);
        }
        self.check()?;
        if self.fault == Fault::None && !self.live.is_clean() {
            return Err(format!("{} flights are left", self.live.flights()));
        }
        Ok(())
    }
}
