//! C10: how long it takes until writes are answered again, and what one slow node costs.
//!
//! A fault's *silence* is the longest time from its beginning to a while after its end in which no write was decided
//! although one was asked for. Any client counts, since a careful one asks another node.
//!
//! **Of each run**: the kill of a leader that leaves a majority is never followed by a silence of more than
//! [`KILL_MAX`]; and whoever healed a cluster in which nothing can be written any more has found something.
//!
//! **Of many runs together** ([`Pace`]), for a few rounds on a machine that is busy with other things say little: of at
//! least [`KILLS_MIN`] such kills, 99 in 100 are silent for no more than [`KILL_P99`]; and while one follower stands still,
//! or its disk is slow or hangs, 99 in 100 of the writes that are sent to the others are answered within twice of what it
//! takes when nothing is broken, or within [`COST_FLOOR`] where that is more. Simulated time is judged like real time.

use std::{collections::BTreeMap, time::Duration};

use agora_history::{Call, Fault, Micros, Reply, Role, RunData};
use serde::{Deserialize, Serialize};

use crate::{Checked, report::Report};

/// The longest silence after any kill of a leader: some elections in a row that nobody won, on a busy machine.
pub const KILL_MAX: Duration = Duration::from_secs(5);
/// The longest silence after 99 of 100 kills of a leader.
pub const KILL_P99: Duration = Duration::from_millis(1_500);
/// So many kills are judged together, not fewer.
pub const KILLS_MIN: usize = 20;
/// By how much one slow node may slow down the writes at the others, where it is felt at all.
pub const COST_FACTOR: u64 = 2;
/// What is not felt.
pub const COST_FLOOR: Duration = Duration::from_millis(100);
/// So many writes on either side are compared, not fewer.
pub const WRITES_MIN: u64 = 1_000;

/// After a fault was healed, so long its effects still count as its own.
const AFTERMATH: Micros = 3_000_000;
/// So long after a fault it is calm again.
const CALMS_DOWN: Micros = 1_000_000;

/// A gap between answers shorter than this is no outage.
const GAP_US: Micros = 200_000;

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C10", "writes again soon after a fault, and always after healing");
    let writes = answered_writes(data);
    let silences = Silences::of(data);
    let mut by_kind: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for fault in data.faults.iter().filter(|fault| hit_leader(fault)) {
        let silence = silences.after(fault);
        report.looked_at(1);
        by_kind.entry(format!("{} {}", fault.nemesis, fault.kind)).or_default().push(silence);
        if is_kill_of_the_leader(data, fault) && silence > micros(KILL_MAX) {
            let what = format!(
                "{} {} at {:.3} s: no write was decided for {:.0} ms, to be always within {} ms",
                fault.nemesis,
                fault.kind,
                fault.from as f64 / 1e6,
                ms(silence),
                KILL_MAX.as_millis()
            );
            report.find(what, &[], None);
        }
    }
    for (kind, silences) in &mut by_kind {
        silences.sort_unstable();
        figures(&mut report, &format!("silence {kind}"), silences);
    }
    let outages = outages(data, &writes);
    figures(&mut report, "no write answered", &outages);
    report.figure("no write answered, times", outages.len() as f64);
    report.figure("no write answered, sum_ms", outages.iter().sum::<u64>() as f64 / 1_000.0);
    alive(data, &writes, &mut report);
    report.done()
}

fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// The value that so many of a hundred do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn figures(report: &mut Report, name: &str, sorted: &[u64]) {
    for (suffix, percent) in [("p50_ms", 50), ("p99_ms", 99), ("max_ms", 100)] {
        if let Some(value) = percentile(sorted, percent) {
            report.figure(&format!("{name} {suffix}"), ms(value));
        }
    }
}

/// Definite answers of rule or effect, not replayed ones: asked and answered, in the order of the answers.
fn answered_writes(data: &RunData) -> Vec<(Micros, Micros, u64)> {
    let is_answer = |call: &&Call| {
        call.request.is_write() && matches!(call.reply, Reply::Yes { .. } | Reply::Refused { .. }) && !call.replayed
    };
    let mut writes: Vec<(Micros, Micros, u64)> =
        data.calls.iter().filter(is_answer).map(|call| (call.returned, call.invoked, call.op)).collect();
    writes.sort_unstable();
    writes
}

fn hit_leader(fault: &Fault) -> bool {
    fault.targets.iter().any(|target| target.role == Role::Leader)
}

/// It hit nobody but who led, and the others are a majority.
fn is_kill_of_the_leader(data: &RunData, fault: &Fault) -> bool {
    fault.nemesis == "N5" && fault.targets.len() == 1 && hit_leader(fault) && data.run.nodes.len() >= 3
}

/// One follower stands still, or its disk does, or is slow.
fn is_slow_follower(fault: &Fault) -> bool {
    let [target] = fault.targets.as_slice() else { return false };
    let is_slow = match fault.nemesis.as_str() {
        "N4" => true,
        "N8" => fault.kind.contains("slow") || fault.kind.contains("hung"),
        _ => false,
    };
    target.role == Role::Follower && is_slow
}

fn micros(time: Duration) -> Micros {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Times in which no write was decided although one was wanted.
pub struct Silences<'a> {
    faults: &'a [Fault],
    decided: Vec<Micros>,
    asked: Vec<Micros>,
    ended: Vec<Micros>,
}

impl Silences<'_> {
    /// Of a run.
    pub fn of(data: &RunData) -> Silences<'_> {
        let calls = || data.calls.iter().filter(|call| call.request.is_write());
        let sorted = |times: &mut dyn Iterator<Item = Micros>| {
            let mut times: Vec<Micros> = times.collect();
            times.sort_unstable();
            times
        };
        let is_decided = |call: &&Call| matches!(call.reply, Reply::Yes { .. } | Reply::Refused { .. });
        Silences {
            faults: &data.faults,
            decided: sorted(&mut calls().filter(is_decided).map(|call| call.returned)),
            asked: sorted(&mut calls().map(|call| call.invoked)),
            ended: sorted(&mut calls().map(|call| call.returned)),
        }
    }

    /// The longest one that is a fault's own, in microseconds: what comes behind the beginning of the next is that one's.
    pub fn after(&self, fault: &Fault) -> u64 {
        let next = self.faults.iter().map(|other| other.from).filter(|from| *from > fault.from).min();
        let next = next.unwrap_or(Micros::MAX);
        let until = fault.until.unwrap_or(fault.from).saturating_add(AFTERMATH);
        let (mut last, mut longest) = (fault.from, 0);
        for decided in &self.decided[self.decided.partition_point(|at| *at < fault.from)..] {
            longest = longest.max((*decided).min(next).saturating_sub(self.wanted_from(last)));
            last = *decided;
            // What came just behind the window ends the last gap.
            if last > until.min(next) {
                return longest;
            }
        }
        // Nothing was decided any more: whoever asked on asked in vain until the last answer.
        let end = self.ended.last().copied().unwrap_or(0).min(next);
        longest.max(end.saturating_sub(self.wanted_from(last)))
    }

    /// When the next decision was wanted, at the earliest then.
    fn wanted_from(&self, at: Micros) -> Micros {
        let asked = self.asked.partition_point(|time| *time <= at);
        let is_waiting = asked > self.ended.partition_point(|time| *time <= at);
        if is_waiting { at } else { self.asked.get(asked).copied().unwrap_or(Micros::MAX) }
    }
}

/// How soon writes are answered, of many runs together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Silence after each kill of a leader that left a majority, in milliseconds.
    pub kills_ms: Vec<u64>,
    /// Writes by the milliseconds they took while nothing was broken, in buckets (their lower edges).
    pub calm: BTreeMap<u64, u64>,
    /// The same of writes at the other nodes while one follower was slow or stood still.
    pub beside: BTreeMap<u64, u64>,
}

impl Pace {
    /// Of one run.
    pub fn of(data: &RunData) -> Pace {
        let silences = Silences::of(data);
        let kills = data.faults.iter().filter(|fault| is_kill_of_the_leader(data, fault));
        let mut pace = Pace { kills_ms: kills.map(|fault| silences.after(fault) / 1_000).collect(), ..Pace::default() };
        let mut faults: Vec<&Fault> = data.faults.iter().collect();
        faults.sort_by_key(|fault| fault.from);
        for call in data.calls.iter().filter(|call| call.request.is_write() && waited(call)) {
            let took = bucket(call.returned.saturating_sub(call.invoked) / 1_000);
            let begun = &faults[..faults.partition_point(|fault| fault.from <= call.returned)];
            let over = |fault: &&Fault| fault.until.is_some_and(|until| until + CALMS_DOWN < call.invoked);
            // Faults overlap only where they are one round, so the last ones decide.
            if begun.iter().rev().take(FAULTS_AT_ONCE_MAX).all(over) {
                *pace.calm.entry(took).or_default() += 1;
            } else if let Some(fault) = begun.last()
                && is_slow_follower(fault)
                && fault.from <= call.invoked
                && fault.until.is_none_or(|until| call.invoked <= until)
                && fault.targets.iter().all(|target| target.node != call.node)
            {
                *pace.beside.entry(took).or_default() += 1;
            }
        }
        pace
    }

    /// Adds what was measured in other runs.
    pub fn merge(&mut self, other: Pace) {
        self.kills_ms.extend(other.kills_ms);
        for (mine, theirs) in [(&mut self.calm, other.calm), (&mut self.beside, other.beside)] {
            for (took, count) in theirs {
                *mine.entry(took).or_default() += count;
            }
        }
    }

    /// Silence after 99 of 100 kills of a leader, in milliseconds, if there were enough. Of fewer than a hundred the longest
    /// one is left to [`KILL_MAX`]: one election that nobody won says nothing of 99 in 100.
    pub fn kill_p99_ms(&self) -> Option<u64> {
        let mut sorted = self.kills_ms.clone();
        sorted.sort_unstable();
        let rank = sorted.len().checked_sub(1 + (sorted.len() / 100).max(1))?;
        sorted.get(rank).copied().filter(|_| sorted.len() >= KILLS_MIN)
    }

    /// What 99 of 100 writes took while nothing was broken, and beside a slow follower, if there were enough of both.
    pub fn cost_ms(&self) -> Option<(u64, u64)> {
        Some((p99_of(&self.calm)?, p99_of(&self.beside)?))
    }

    /// What was too slow.
    pub fn too_slow(&self) -> Vec<String> {
        let mut slow = Vec::new();
        if let Some(p99) = self.kill_p99_ms().filter(|p99| u128::from(*p99) > KILL_P99.as_millis()) {
            slow.push(format!(
                "too slow: after the kill of a leader no write was decided for {p99} ms (p99 of {}), to be within {} ms",
                self.kills_ms.len(),
                KILL_P99.as_millis()
            ));
        }
        if let Some((calm, beside)) = self.cost_ms() {
            let floor = u64::try_from(COST_FLOOR.as_millis()).unwrap_or(u64::MAX);
            let bound = (calm * COST_FACTOR).max(floor);
            if beside > bound {
                slow.push(format!(
                    "too slow: beside one slow or hung follower writes took {beside} ms (p99), to be within {bound} ms; \
                     {calm} ms when nothing was broken"
                ));
            }
        }
        slow
    }
}

/// Faults that may be open at once.
const FAULTS_AT_ONCE_MAX: usize = 8;

/// It was decided, or waited for in vain: not sent away.
fn waited(call: &Call) -> bool {
    matches!(call.reply, Reply::Yes { .. } | Reply::Refused { .. } | Reply::Unknown { .. })
}

/// Lower edge of the bucket a time falls into: exact below 8 ms, then eight buckets an octave.
pub fn bucket(ms: u64) -> u64 {
    if ms < 8 {
        return ms;
    }
    let octave = ms.ilog2() - 3;
    (ms >> octave) << octave
}

fn p99_of(buckets: &BTreeMap<u64, u64>) -> Option<u64> {
    let total: u64 = buckets.values().sum();
    let mut seen = 0;
    let reaches = |(_, count): &(&u64, &u64)| {
        seen += **count;
        seen * 100 >= total * 99
    };
    let p99 = buckets.iter().find(reaches).map(|(took, _)| *took);
    p99.filter(|_| total >= WRITES_MIN)
}

/// Times without an answered write while writes were asked for, by more than one request: a single slow one is none.
fn outages(data: &RunData, writes: &[(Micros, Micros, u64)]) -> Vec<u64> {
    let calls = || data.calls.iter().filter(|call| call.request.is_write());
    let mut asked: Vec<Micros> = calls().map(|call| call.invoked).collect();
    let mut ended: Vec<Micros> = calls().map(|call| call.returned).collect();
    asked.sort_unstable();
    ended.sort_unstable();
    let by = |times: &[Micros], at: Micros| times.partition_point(|time| *time <= at);
    let mut outages = Vec::new();
    for pair in writes.windows(2) {
        let (last, until) = (pair[0].0, pair[1].0);
        let (before, before_end) = (by(&asked, last), by(&asked, until));
        let waiting = before - by(&ended, last).min(before);
        let from = if waiting > 0 { last } else { asked.get(before).map_or(until, |first| *first) };
        if waiting + before_end - before >= 2 && until.saturating_sub(from) >= GAP_US {
            outages.push(until - from);
        }
    }
    outages.sort_unstable();
    outages
}

fn alive(data: &RunData, writes: &[(Micros, Micros, u64)], report: &mut Report) {
    let healed = data.faults.iter().filter_map(|fault| fault.until).max();
    let open = data.faults.iter().filter(|fault| fault.until.is_none()).count();
    report.figure("faults_never_healed", open as f64);
    let Some(healed) = healed else { return };
    let seen = data.finals.first_write_after_heal;
    let by_calls = writes.iter().find(|(returned, ..)| *returned >= healed).map(|(returned, ..)| returned - healed);
    let Some(took) = seen.or(by_calls) else {
        report.find("after healing nothing could be written any more", &[], None);
        return;
    };
    report.figure("write_after_healing_ms", ms(took));
}
