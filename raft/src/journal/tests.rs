//! The gate alone: no engine, no network; entries are closed and applied by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use agora_storage::entry::{EntryHeader, EntryKind};
use agora_storage::meta::LogPosition;
use bytes::Bytes;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use tokio::sync::{mpsc, oneshot};

use super::gate::{Answers, Closed, Gate, OnApplied, Settings};
use super::handle::Placed;
use crate::apply::{Applied, StateDigest};
use crate::config::RaftConfig;
use crate::counters::Counters;
use crate::error::{Lost, Refused};
use crate::pulse::Pulse;
use crate::stages::AppliedTimes;
use crate::world::Clock;

/// A clock set by hand.
#[derive(Default)]
struct Hands {
    wall_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl Clock for Hands {
    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::Relaxed))
    }
}

type Answer = oneshot::Receiver<Result<Placed<u64>, Lost>>;

struct Desk {
    gate: Arc<Gate<u64>>,
    answers: mpsc::UnboundedReceiver<Answers<u64>>,
    pulse: Arc<Pulse>,
    clock: Arc<Hands>,
    index: u64,
    reign: u64,
}

impl Desk {
    fn new(incarnation: u64, in_flight: usize) -> Desk {
        let clock = Arc::new(Hands::default());
        clock.wall_ms.store(1_000_000, Ordering::Relaxed);
        let pulse = Arc::new(Pulse::new(clock.clone(), 500));
        let config = RaftConfig {
            node_id: 1,
            entry_count_max: 3,
            entries_in_flight_max: in_flight,
            queue_count_max: 5,
            ..RaftConfig::default()
        };
        let settings = Settings::new(&config, incarnation);
        let (gate, answers) = Gate::new(settings, clock.clone(), pulse.clone(), Arc::new(Counters::default()));
        Desk { gate, answers, pulse, clock, index: 0, reign: 0 }
    }

    /// Leads a term with an answer of a majority just now, and has its fence applied.
    fn reigning(in_flight: usize) -> Desk {
        let mut desk = Desk::new(1, in_flight);
        desk.lead(1);
        let fence = desk.close().unwrap();
        desk.apply(fence.header);
        desk
    }

    fn lead(&self, term: u64) {
        self.pulse.set_leading(Some(term));
        self.pulse.set_quorum(Some(0), false);
        self.gate.set_leading(Some(term));
    }

    fn close(&self) -> Option<Closed<u64>> {
        self.gate.close_next()
    }

    fn propose(&self, transaction: &'static str) -> Result<Answer, Refused> {
        let reign = self.gate.reign().map_or(0, |reign| reign.number);
        self.gate.propose(reign, Bytes::from_static(transaction.as_bytes())).map(|(answer, _)| answer)
    }

    /// Applies an entry as the machine would: fences count reigns, each outcome is the index.
    fn apply(&mut self, header: EntryHeader) {
        self.index += 1;
        if header.kind == EntryKind::Fence {
            self.reign += 1;
        }
        let applied = Applied {
            outcomes: vec![self.index; header.count as usize],
            reign: self.reign,
            state: StateDigest::default(),
            ends_reign: false,
        };
        let times = AppliedTimes { begun: Duration::ZERO, done: Duration::ZERO };
        self.gate.on_applied(LogPosition { index: self.index, term: header.term }, Some(header), applied, times);
    }

    fn refuse(&self, closed: &Closed<u64>, definite: bool) {
        let forward = ForwardToLeader::empty();
        let error = if definite {
            ClientWriteError::ForwardToLeader(forward)
        } else {
            ClientWriteError::LogEntryDiscarded(forward)
        };
        self.gate.on_refused(closed.sequence, &error);
    }

    /// Hands out what has been answered, as the callers' runtime would.
    fn deliver(&mut self) {
        while let Ok(answer) = self.answers.try_recv() {
            match answer {
                Answers::Applied { index, applied_at, outcomes, waiters } => {
                    for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                        let _ = waiter.send(Ok(Placed { index, applied_at, outcome }));
                    }
                }
                Answers::Lost { lost, waiters } => {
                    for waiter in waiters {
                        let _ = waiter.send(Err(lost));
                    }
                }
            }
        }
    }

    /// The answer so far; `None` while it is open.
    fn answer(&mut self, answer: &mut Answer) -> Option<Result<u64, Lost>> {
        self.deliver();
        answer.try_recv().ok().map(|answer| answer.map(|placed| placed.index))
    }
}

#[test]
fn a_reign_begins_with_an_applied_fence_and_only_one_is_on_its_way() {
    let mut desk = Desk::new(1, 2);
    assert!(desk.close().is_none(), "a follower proposes nothing");
    desk.lead(4);
    let fence = desk.close().unwrap();
    assert_eq!((fence.header.kind, fence.header.reign, fence.term), (EntryKind::Fence, 0, 4));
    assert!(desk.close().is_none());
    assert_eq!(desk.propose("early").unwrap_err(), Refused::ReignOver);
    desk.apply(fence.header);
    let reign = desk.gate.reign().unwrap();
    assert_eq!((reign.number, reign.term), (1, 4));
}

#[test]
fn what_waits_becomes_the_next_entry_within_its_bounds() {
    let mut desk = Desk::reigning(1);
    let mut answers: Vec<Answer> = ["a", "b", "c", "d", "e"].map(|t| desk.propose(t).unwrap()).into();
    assert_eq!(desk.propose("f").unwrap_err(), Refused::Overloaded);
    let first = desk.close().unwrap();
    assert_eq!(first.header.count, 3);
    assert!(desk.close().is_none(), "one entry is on its way, one may be");
    desk.apply(first.header);
    let second = desk.close().unwrap();
    assert_eq!(second.header.count, 2);
    desk.apply(second.header);
    let got: Vec<_> = answers.iter_mut().map(|answer| desk.answer(answer)).collect();
    assert_eq!(got, [2, 2, 2, 3, 3].map(|index| Some(Ok(index))));
}

#[test]
fn a_refused_entry_is_a_definite_no_and_ends_the_reign() {
    let mut desk = Desk::reigning(2);
    let mut first = desk.propose("a").unwrap();
    let closed = desk.close().unwrap();
    let mut queued = desk.propose("b").unwrap();
    desk.refuse(&closed, true);
    assert_eq!(desk.answer(&mut first), Some(Err(Lost::NeverApplied)));
    assert_eq!(desk.answer(&mut queued), Some(Err(Lost::NeverApplied)), "what never left is a definite no too");
    assert_eq!(desk.gate.reign(), None);
    let fence = desk.close().unwrap();
    desk.apply(fence.header);
    assert_eq!(desk.gate.reign().map(|reign| (reign.number, reign.term)), Some((2, 1)));
}

#[test]
fn a_dropped_entry_stays_unknown_until_a_later_fence_is_applied() {
    let mut desk = Desk::reigning(2);
    let mut answer = desk.propose("a").unwrap();
    let closed = desk.close().unwrap();
    desk.refuse(&closed, false);
    desk.pulse.set_leading(None);
    desk.gate.set_leading(None);
    assert_eq!(desk.answer(&mut answer), None);
    // Another leader's fence settles it.
    let theirs =
        EntryHeader { kind: EntryKind::Fence, reign: 0, term: 2, node: 2, sequence: 9, count: 0, ..closed.header };
    desk.apply(theirs);
    assert_eq!(desk.answer(&mut answer), Some(Err(Lost::NeverApplied)));
}

#[test]
fn a_dropped_entry_may_still_be_applied_and_is_then_answered() {
    let mut desk = Desk::reigning(2);
    let mut answer = desk.propose("a").unwrap();
    let closed = desk.close().unwrap();
    desk.refuse(&closed, false);
    desk.pulse.set_leading(None);
    desk.gate.set_leading(None);
    desk.apply(closed.header);
    assert_eq!(desk.answer(&mut answer), Some(Ok(2)));
}

#[test]
fn waiters_survive_the_reign_that_proposed_them() {
    let mut desk = Desk::reigning(2);
    let mut answer = desk.propose("a").unwrap();
    let closed = desk.close().unwrap();
    desk.gate.end_reign("the test says so");
    let fence = desk.close().unwrap();
    assert_eq!(desk.answer(&mut answer), None);
    desk.apply(closed.header);
    assert_eq!(desk.answer(&mut answer), Some(Ok(2)));
    desk.apply(fence.header);
    assert_eq!(desk.gate.reign().map(|reign| reign.number), Some(2));
}

#[test]
fn a_fence_of_a_past_term_begins_no_reign() {
    let mut desk = Desk::new(1, 2);
    desk.lead(1);
    let old = desk.close().unwrap();
    desk.lead(2);
    let new = desk.close().unwrap();
    desk.apply(old.header);
    assert_eq!(desk.gate.reign(), None);
    desk.apply(new.header);
    assert_eq!(desk.gate.reign().map(|reign| (reign.number, reign.term)), Some((2, 2)));
}

#[test]
fn without_a_recent_answer_of_a_majority_nothing_is_taken_and_no_fence_is_made() {
    let desk = Desk::reigning(2);
    desk.clock.monotonic_ms.fetch_add(600, Ordering::Relaxed);
    assert_eq!(desk.propose("a").unwrap_err(), Refused::NoQuorum);
    desk.gate.end_reign("the test says so");
    assert!(desk.close().is_none());
    desk.pulse.set_quorum(Some(0), false);
    assert_eq!(desk.close().map(|closed| closed.header.kind), Some(EntryKind::Fence));
}

#[test]
fn log_time_grows_with_the_monotonic_clock_and_never_with_the_wall_clock() {
    let mut desk = Desk::reigning(2);
    let mut stamps = Vec::new();
    // Within one millisecond, then with the wall clock a day back, then a day ahead.
    for (wall_ms, later_ms) in [(1_000_000, 0), (1_000_000 - 86_400_000, 5), (1_000_000 + 86_400_000, 7)] {
        desk.clock.wall_ms.store(wall_ms, Ordering::Relaxed);
        desk.clock.monotonic_ms.fetch_add(later_ms, Ordering::Relaxed);
        desk.propose("a").unwrap();
        let closed = desk.close().unwrap();
        stamps.push(closed.header.log_time_ms - 1_000_000);
        desk.apply(closed.header);
    }
    assert_eq!(stamps, [1, 5, 12]);
    assert_eq!(desk.gate.log_time_ms(), 1_000_012);
}

#[test]
fn a_slow_wall_clock_never_stamps_before_what_was_applied() {
    let mut desk = Desk::new(1, 2);
    desk.gate.on_reset(5_000_000, 1);
    desk.lead(1);
    let fence = desk.close().unwrap();
    assert_eq!(fence.header.log_time_ms, 5_000_001);
    desk.apply(fence.header);
}

#[test]
fn numbers_of_an_earlier_life_match_nobody_who_waits_now() {
    let desk = Desk::reigning(2);
    desk.propose("a").unwrap();
    let old = desk.close().unwrap().header;
    let mut reborn = Desk::new(2, 2);
    reborn.lead(7);
    let fence = reborn.close().unwrap();
    reborn.apply(fence.header);
    let mut answer = reborn.propose("b").unwrap();
    let new = reborn.close().unwrap().header;
    assert!(new.sequence > old.sequence);
    reborn.apply(EntryHeader { reign: 0, ..old });
    assert_eq!(reborn.answer(&mut answer), None);
}

#[test]
fn a_feature_level_rises_when_all_know_it_and_never_falls() {
    let mut desk = Desk::new(1, 2);
    desk.gate.on_reset(0, 3);
    desk.lead(1);
    let fence = desk.close().unwrap();
    assert_eq!(fence.header.feature_level, 3);
    desk.gate.set_feature_level(2);
    desk.apply(fence.header);
    desk.propose("a").unwrap();
    assert_eq!(desk.close().unwrap().header.feature_level, 3);
}

#[test]
fn a_stopping_node_answers_everyone() {
    let mut desk = Desk::reigning(1);
    let mut out = desk.propose("a").unwrap();
    let _closed = desk.close().unwrap();
    let mut waiting = desk.propose("b").unwrap();
    desk.gate.stop();
    assert_eq!(desk.answer(&mut out), Some(Err(Lost::Unknown)));
    assert_eq!(desk.answer(&mut waiting), Some(Err(Lost::NeverApplied)));
    assert_eq!(desk.propose("c").unwrap_err(), Refused::Draining);
}
