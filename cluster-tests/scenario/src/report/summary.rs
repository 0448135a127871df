//! Figures of one or many runs, added up.

use std::collections::BTreeMap;

use agora_checkers::{
    Checked,
    c10_recovery::{Pace, Silences, bucket},
};
use agora_history::{Answer, Item, Micros, Op, Operation, Outcome, Reply, Role, RunData, operations};
use serde::{Deserialize, Serialize};

/// Findings a summary lists; all are counted.
const FINDINGS_MAX: usize = 100;
/// Seconds and bars kept for the plot; a longer run keeps its first ones.
const PLOT_MAX: usize = 20_000;

/// What was done to a cluster and what came of it. Plain figures, so summaries of runs can be added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// `simulation` or `processes`.
    pub harness: String,
    /// Runs by scenario.
    pub scenarios: BTreeMap<String, u64>,
    /// Seeds of the runs, the first ones.
    pub seeds: Vec<u64>,
    /// Time the clusters lived, on their own clock, in seconds.
    pub cluster_seconds: f64,
    /// Intentions of clients.
    pub operations: u64,
    /// Attempts at them.
    pub attempts: u64,
    /// Writes that were answered yes.
    pub acknowledged: u64,
    /// Orders that were promised, one by one or in batches.
    #[serde(default)]
    pub orders: u64,
    /// Writes that were refused by a rule.
    pub refused: u64,
    /// Reads that were answered.
    pub read: u64,
    /// Operations of which it is known that they did not happen.
    pub not_done: u64,
    /// Operations whose outcome the client never learned.
    pub unknown: u64,
    /// By nemesis.
    pub nemeses: BTreeMap<String, NemesisRow>,
    /// By checker.
    pub checkers: BTreeMap<String, CheckerRow>,
    /// Broken promises, the first ones.
    pub findings: Vec<String>,
    /// All broken promises.
    pub findings_total: u64,
    /// By fault: the longest time without an acknowledged write while clients asked, in milliseconds.
    pub outages_ms: Vec<u64>,
    /// The same by kind of fault.
    #[serde(default)]
    pub outages_by_kind: BTreeMap<String, Vec<u64>>,
    /// How soon writes are answered, judged over all runs together.
    #[serde(default)]
    pub pace: Pace,
    /// Latency of acknowledged writes: count by milliseconds, in buckets that grow by an eighth.
    pub latency: BTreeMap<u64, u64>,
    /// One per second of the first runs, one after the other.
    pub seconds: Vec<Second>,
    /// Faults on the same axis.
    pub bars: Vec<Bar>,
}

/// One nemesis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NemesisRow {
    /// Rounds.
    pub rounds: u64,
    /// Rounds that hit a leader with requests under way.
    pub leading: u64,
    /// Rounds that hit a follower with requests under way.
    pub following: u64,
    /// Rounds by what exactly was done.
    pub kinds: BTreeMap<String, u64>,
    /// As in [`Summary::outages_ms`].
    pub outages_ms: Vec<u64>,
}

/// One checker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerRow {
    /// What it looks for.
    pub promise: String,
    /// Operations, events or entities looked at.
    pub checked: u64,
    /// Of these, undecided.
    pub undecided: u64,
    /// Broken promises.
    pub findings: u64,
}

/// One second of the plot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Writes acknowledged.
    pub acknowledged: u32,
    /// Calls that were a definite no without a reason in the shop's rules.
    pub not_done: u32,
    /// Calls without a known outcome.
    pub unknown: u32,
    /// Tenths of the second in which at least one write was acknowledged, of those in which one was wanted; 0 to 1.
    pub available: f32,
    /// Latency of acknowledged writes in milliseconds: middle and worst.
    pub p50_ms: f32,
    /// The worst.
    pub max_ms: f32,
}

/// One fault on the plot's axis, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// `N1` …
    pub nemesis: String,
    /// What exactly.
    pub kind: String,
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub until: f64,
    /// `2 (leader), 3`.
    pub targets: String,
}

/// Three figures of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many there are.
    pub count: u64,
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl Quantiles {
    /// Nearest rank, so that no figure is reported that was not measured.
    pub fn of(values: &[u64]) -> Quantiles {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| match sorted.len() {
            0 => 0,
            count => sorted[(count * percent).div_ceil(100).clamp(1, count) - 1],
        };
        Quantiles { count: sorted.len() as u64, p50: rank(50), p99: rank(99), max: rank(100) }
    }
}

impl Summary {
    /// Adds a run with its verdicts.
    pub fn add(&mut self, data: &RunData, verdicts: &[Checked]) {
        self.harness.clone_from(&data.run.harness);
        *self.scenarios.entry(data.run.scenario.clone()).or_default() += 1;
        if self.seeds.len() < FINDINGS_MAX {
            self.seeds.push(data.run.seed);
        }
        self.count(data);
        self.add_faults(data);
        self.pace.merge(Pace::of(data));
        self.plot(data);
        let end = data.calls.iter().map(|call| call.returned).max().unwrap_or(0);
        self.cluster_seconds += end as f64 / 1e6;
        for verdict in verdicts {
            let row = self.checkers.entry(verdict.checker.clone()).or_default();
            row.promise.clone_from(&verdict.promise);
            row.checked += verdict.checked;
            row.undecided += verdict.undecided;
            row.findings += verdict.findings.len() as u64;
            let what = verdict.findings.iter().map(|finding| finding.what.clone());
            for what in what.chain(verdict.unsure()) {
                self.find(format!("{} (seed {}): {what}", verdict.checker, data.run.seed));
            }
        }
    }

    /// Adds a broken promise that no checker told, such as a cluster that never served again.
    pub fn find(&mut self, what: String) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }

    /// What can be judged over all runs together only: said once, when all of them are added.
    pub fn judge_all(&mut self) {
        for what in self.pace.too_slow() {
            self.find(format!("C10 (all together): {what}"));
        }
    }

    /// Adds another summary; its plot follows behind this one's.
    pub fn merge(&mut self, other: Summary) {
        self.harness = other.harness;
        for (scenario, runs) in other.scenarios {
            *self.scenarios.entry(scenario).or_default() += runs;
        }
        self.seeds.extend(other.seeds);
        self.seeds.truncate(FINDINGS_MAX);
        self.cluster_seconds += other.cluster_seconds;
        self.operations += other.operations;
        self.attempts += other.attempts;
        self.acknowledged += other.acknowledged;
        self.orders += other.orders;
        self.refused += other.refused;
        self.read += other.read;
        self.not_done += other.not_done;
        self.unknown += other.unknown;
        for (name, theirs) in other.nemeses {
            let row = self.nemeses.entry(name).or_default();
            row.rounds += theirs.rounds;
            row.leading += theirs.leading;
            row.following += theirs.following;
            for (kind, rounds) in theirs.kinds {
                *row.kinds.entry(kind).or_default() += rounds;
            }
            row.outages_ms.extend(theirs.outages_ms);
        }
        for (name, theirs) in other.checkers {
            let row = self.checkers.entry(name).or_default();
            row.promise = theirs.promise;
            row.checked += theirs.checked;
            row.undecided += theirs.undecided;
            row.findings += theirs.findings;
        }
        self.findings_total += other.findings_total;
        self.findings.extend(other.findings);
        self.findings.truncate(FINDINGS_MAX);
        self.outages_ms.extend(other.outages_ms);
        for (kind, outages) in other.outages_by_kind {
            self.outages_by_kind.entry(kind).or_default().extend(outages);
        }
        self.pace.merge(other.pace);
        for (ms, count) in other.latency {
            *self.latency.entry(ms).or_default() += count;
        }
        let offset = self.seconds.len() as f64;
        let room = PLOT_MAX.saturating_sub(self.seconds.len());
        self.seconds.extend(other.seconds.into_iter().take(room));
        let room = PLOT_MAX.saturating_sub(self.bars.len());
        self.bars.extend(other.bars.into_iter().take(room).map(|bar| Bar {
            from: bar.from + offset,
            until: bar.until + offset,
            ..bar
        }));
    }

    /// Fault rounds of all kinds.
    pub fn rounds(&self) -> u64 {
        self.nemeses.values().map(|row| row.rounds).sum()
    }

    /// Kinds of faults, over all nemeses.
    pub fn kinds(&self) -> usize {
        self.nemeses.values().map(|row| row.kinds.len()).sum()
    }

    /// A latency that so many percent of acknowledged writes stayed below (lower edge of its bucket, milliseconds).
    pub fn latency_ms(&self, percent: u64) -> u64 {
        let total: u64 = self.latency.values().sum();
        let mut seen = 0;
        for (ms, count) in &self.latency {
            seen += count;
            if seen * 100 >= total * percent {
                return *ms;
            }
        }
        0
    }

    fn count(&mut self, data: &RunData) {
        self.attempts += data.calls.len() as u64;
        for operation in operations(&data.calls) {
            self.operations += 1;
            match (operation.outcome, operation.request.is_write()) {
                (Outcome::Yes, true) => {
                    self.acknowledged += 1;
                    self.orders += orders_of(&operation);
                    if let Some(returned) = operation.returned {
                        *self.latency.entry(bucket((returned - operation.invoked) / 1_000)).or_default() += 1;
                    }
                }
                (Outcome::Refused, true) => self.refused += 1,
                (Outcome::Yes | Outcome::Refused, false) => self.read += 1,
                (Outcome::NotDone, _) => self.not_done += 1,
                (Outcome::Unknown, _) => self.unknown += 1,
            }
        }
    }

    fn add_faults(&mut self, data: &RunData) {
        let silences = Silences::of(data);
        for fault in &data.faults {
            let outage = silences.after(fault) / 1_000;
            let row = self.nemeses.entry(fault.nemesis.clone()).or_default();
            row.rounds += 1;
            *row.kinds.entry(fault.kind.clone()).or_default() += 1;
            let hit = |role: Role| fault.in_flight > 0 && fault.targets.iter().any(|target| target.role == role);
            row.leading += u64::from(hit(Role::Leader));
            row.following += u64::from(hit(Role::Follower));
            row.outages_ms.push(outage);
            self.outages_ms.push(outage);
            self.outages_by_kind.entry(fault.kind.clone()).or_default().push(outage);
        }
    }

    fn plot(&mut self, data: &RunData) {
        let Some(end) = data.calls.iter().map(|call| call.returned).max() else { return };
        let offset = self.seconds.len();
        if offset >= PLOT_MAX {
            return;
        }
        let length = ((end / 1_000_000) as usize + 1).min(PLOT_MAX - offset);
        let mut seconds = vec![Second::default(); length];
        let mut latencies: Vec<Vec<f32>> = vec![Vec::new(); length];
        let (mut wanted, mut got) = (vec![false; length * 10], vec![false; length * 10]);
        for call in data.calls.iter().filter(|call| call.request.is_write()) {
            let at = (call.returned / 1_000_000) as usize;
            if at >= length {
                continue;
            }
            for tenth in call.invoked / 100_000..=call.returned / 100_000 {
                if let Some(slot) = wanted.get_mut(tenth as usize) {
                    *slot = true;
                }
            }
            match call.reply {
                Reply::Yes { .. } | Reply::Refused { .. } => {
                    got[(call.returned / 100_000) as usize] = true;
                    seconds[at].acknowledged += 1;
                    latencies[at].push((call.returned - call.invoked) as f32 / 1_000.0);
                }
                Reply::NotDone { .. } => seconds[at].not_done += 1,
                Reply::Unknown { .. } => seconds[at].unknown += 1,
            }
        }
        for (at, second) in seconds.iter_mut().enumerate() {
            let of_second = at * 10..at * 10 + 10;
            let asked = wanted[of_second.clone()].iter().filter(|tenth| **tenth).count();
            let served = of_second.filter(|tenth| wanted[*tenth] && got[*tenth]).count();
            second.available = if asked == 0 { 1.0 } else { served as f32 / asked as f32 };
            let sorted = &mut latencies[at];
            sorted.sort_by(f32::total_cmp);
            second.p50_ms = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
            second.max_ms = sorted.last().copied().unwrap_or(0.0);
        }
        self.seconds.extend(seconds);
        let on_axis = |at: Micros| offset as f64 + at as f64 / 1e6;
        let room = PLOT_MAX.saturating_sub(self.bars.len());
        self.bars.extend(data.faults.iter().take(room).map(|fault| {
            let name = |target: &agora_history::Target| match target.role {
                Role::Leader => format!("{} (leader)", target.node),
                Role::Follower | Role::Neither => target.node.to_string(),
            };
            Bar {
                nemesis: fault.nemesis.clone(),
                kind: fault.kind.clone(),
                from: on_axis(fault.from),
                until: on_axis(fault.until.unwrap_or(end)),
                targets: fault.targets.iter().map(name).collect::<Vec<_>>().join(", "),
            }
        }));
    }
}

/// Orders that an acknowledged operation promised.
fn orders_of(operation: &Operation<'_>) -> u64 {
    match operation.decisive.map(|call| &call.reply) {
        Some(Reply::Yes { answer: Answer::Orders(items), .. }) => {
            items.iter().filter(|item| matches!(item, Item::Order(_))).count() as u64
        }
        Some(Reply::Yes { .. }) => u64::from(matches!(operation.request, Op::Place(_))),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use agora_history::{Call, Fault, Target};

    use super::*;

    fn write(op: u64, invoked: Micros, returned: Micros, reply: Reply) -> Call {
        Call {
            op,
            attempt: 0,
            client: 0,
            node: 1,
            invoked,
            returned,
            key: Some(format!("k{op}")),
            trace: format!("{op:032x}"),
            level: None,
            min_index: None,
            request: Op::Cancel { order: "ord_1".into() },
            reply,
            index: None,
            staleness_ms: None,
            replayed: false,
            body_hash: None,
        }
    }

    fn yes() -> Reply {
        Reply::Yes { status: 200, answer: Answer::Ledger { debits: 0, credits: 0 } }
    }

    fn run() -> RunData {
        let unknown = Reply::Unknown { status: None, why: "lost".into() };
        RunData {
            calls: vec![
                write(1, 0, 5_000, yes()),
                write(2, 1_000_000, 2_400_000, yes()),
                write(3, 1_000_000, 1_200_000, unknown),
                write(4, 3_000_000, 3_004_000, yes()),
            ],
            faults: vec![Fault {
                nemesis: "N5".into(),
                kind: "leader killed".into(),
                from: 1_000_000,
                until: Some(2_000_000),
                targets: vec![Target { node: 2, role: Role::Leader }],
                in_flight: 2,
                detail: String::new(),
            }],
            ..RunData::default()
        }
    }

    #[test]
    fn a_fault_is_charged_with_the_longest_silence() {
        let mut summary = Summary::default();
        summary.add(&run(), &[]);
        assert_eq!(summary.outages_ms, [1_400]);
        let row = &summary.nemeses["N5"];
        assert_eq!((row.rounds, row.leading, row.following), (1, 1, 0));
        assert_eq!((summary.operations, summary.acknowledged, summary.unknown), (4, 3, 1));
    }

    #[test]
    fn what_nobody_could_decide_is_no_good_verdict() {
        let mut summary = Summary::default();
        let unsure = Checked { checker: "C2".into(), checked: 9, undecided: 2, ..Checked::default() };
        summary.add(&run(), &[unsure]);
        assert_eq!(summary.findings, ["C2 (seed 0): 2 of 9 could not be decided within its bounds"]);
    }

    #[test]
    fn what_is_too_slow_is_said_of_all_runs_together() {
        let mut all = Summary::default();
        all.judge_all();
        assert_eq!(all.findings_total, 0);
        let slow = Summary { pace: Pace { kills_ms: vec![1_600; 12], ..Pace::default() }, ..Summary::default() };
        all.merge(slow.clone());
        all.merge(slow);
        all.judge_all();
        assert!(all.findings_total == 1 && all.findings[0].contains("p99 of 24"), "{:?}", all.findings);
    }

    #[test]
    fn summaries_add_up_and_plots_follow_one_another() {
        let mut once = Summary::default();
        once.add(&run(), &[]);
        let mut twice = once.clone();
        twice.merge(once.clone());
        assert_eq!((twice.operations, twice.rounds(), twice.kinds()), (8, 2, 1));
        assert_eq!(twice.seconds.len(), 2 * once.seconds.len());
        assert!((twice.bars[1].from - twice.bars[0].from - once.seconds.len() as f64).abs() < 1e-9);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(Quantiles::of(&values), Quantiles { count: 200, p50: 100, p99: 198, max: 200 });
        assert_eq!(bucket(7), 7);
        assert_eq!(bucket(1_000), 960);
    }
}
