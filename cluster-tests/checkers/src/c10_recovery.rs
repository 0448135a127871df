//! C10: how long it takes until writes are answered again.
//!
//! For every fault that hit who led: from its beginning to the first answer of a write that was asked for afterwards. Any
//! client counts, since a careful one asks another node. And the times in which nobody was answered although somebody
//! asked. These are figures; a finding is only what is beyond a bound that the run names in its settings:
//!
//! - `bound_recovery_ms`: for the 99th percentile over faults that leave a majority, by kind of fault;
//! - `bound_recovery_max_ms`: for each of them;
//! - `bound_liveness_ms`: from the end of the last fault to a write.
//!
//! And whoever healed a cluster in which nothing can be written any more has found something, whatever the bounds are.

use std::collections::{BTreeMap, BTreeSet};

use agora_history::{Call, Fault, Micros, Reply, Role, RunData};

use crate::{Checked, report::Report};

/// A gap between answers shorter than this is no outage.
const GAP_US: Micros = 200_000;

/// One fault that hit who led, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// `N1 leader isolated`.
    pub kind: String,
    pub from: Micros,
    /// Until the first answer to a write that was asked for behind `from`; `None`: never.
    pub took_us: Option<u64>,
    /// A majority was left alone.
    pub minority: bool,
}

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let mut report = Report::new("C10", "writes again soon after a fault, and always after healing");
    let writes = answered_writes(data);
    let recoveries = recoveries(data, &writes);
    report.looked_at(recoveries.len() as u64);
    let mut by_kind: BTreeMap<&str, Vec<&Recovery>> = BTreeMap::new();
    for recovery in &recoveries {
        by_kind.entry(&recovery.kind).or_default().push(recovery);
    }
    for (kind, some) in &by_kind {
        let mut took: Vec<u64> = some.iter().filter_map(|recovery| recovery.took_us).collect();
        took.sort_unstable();
        figures(&mut report, &format!("recovery {kind}"), &took);
    }
    let outages = outages(data, &writes);
    figures(&mut report, "no write answered", &outages);
    report.figure("no write answered, times", outages.len() as f64);
    report.figure("no write answered, sum_ms", outages.iter().sum::<u64>() as f64 / 1_000.0);
    bounds(data, &by_kind, &mut report);
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

/// Faults that hit who led.
pub fn recoveries_of(data: &RunData) -> Vec<Recovery> {
    recoveries(data, &answered_writes(data))
}

fn recoveries(data: &RunData, writes: &[(Micros, Micros, u64)]) -> Vec<Recovery> {
    let nodes = data.run.nodes.len();
    let hit_leader = |fault: &&Fault| fault.targets.iter().any(|target| target.role == Role::Leader);
    data.faults
        .iter()
        .filter(hit_leader)
        .map(|fault| {
            let hit: BTreeSet<_> = fault.targets.iter().map(|target| target.node).collect();
            let from = writes.partition_point(|(returned, ..)| *returned <= fault.from);
            let first = writes[from..].iter().find(|(_, invoked, _)| *invoked >= fault.from);
            Recovery {
                kind: format!("{} {}", fault.nemesis, fault.kind),
                from: fault.from,
                took_us: first.map(|(returned, ..)| returned - fault.from),
                minority: hit.len() * 2 < nodes,
            }
        })
        .collect()
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

fn setting(data: &RunData, name: &str) -> Option<u64> {
    data.run.settings.get(name)?.parse::<u64>().ok().map(|ms| ms * 1_000)
}

fn bounds(data: &RunData, by_kind: &BTreeMap<&str, Vec<&Recovery>>, report: &mut Report) {
    let (p99, max) = (setting(data, "bound_recovery_ms"), setting(data, "bound_recovery_max_ms"));
    if p99.is_none() && max.is_none() {
        return;
    }
    for (kind, some) in by_kind {
        let minority: Vec<&&Recovery> = some.iter().filter(|recovery| recovery.minority).collect();
        let mut took: Vec<u64> = minority.iter().map(|recovery| recovery.took_us.unwrap_or(u64::MAX)).collect();
        took.sort_unstable();
        for (value, bound, which) in
            [(percentile(&took, 99), p99, "99 of 100 times within"), (percentile(&took, 100), max, "always within")]
        {
            let (Some(value), Some(bound)) = (value, bound) else { continue };
            if value <= bound {
                continue;
            }
            let worst = minority.iter().max_by_key(|recovery| recovery.took_us.unwrap_or(u64::MAX));
            let at = worst.map_or(0, |recovery| recovery.from);
            let took = if value == u64::MAX { "never".to_owned() } else { format!("after {:.0} ms", ms(value)) };
            let what = format!(
                "{kind}: writes again {took}, to be {which} {:.0} ms; {} faults, the worst at {:.3} s",
                ms(bound),
                minority.len(),
                at as f64 / 1e6
            );
            report.find(what, &[], None);
        }
    }
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
    if let Some(bound) = setting(data, "bound_liveness_ms").filter(|bound| took > *bound) {
        report.find(format!("a write after healing took {:.0} ms, bound {:.0}", ms(took), ms(bound)), &[], None);
    }
}
