//! C11: did the faults hit anything?
//!
//! A nemesis that was declared (setting `nemeses`, a list with commas) must have hit who led and who followed, each with
//! requests under way. Otherwise the run has shown nothing and is rejected. A short run of one seed cannot be asked for
//! that: with the setting `coverage=off` only figures are given, and [`merge`] judges many runs together.

use std::collections::BTreeMap;

use agora_history::{Role, RunData};

use crate::{Checked, report::Report};

/// What one nemesis has hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    pub rounds: u64,
    pub leader: u64,
    pub follower: u64,
    /// Rounds with requests under way.
    pub in_flight: u64,
    /// Of these, those that hit who led, and who followed.
    pub leader_in_flight: u64,
    pub follower_in_flight: u64,
}

impl Hits {
    fn add(&mut self, other: &Hits) {
        self.rounds += other.rounds;
        self.leader += other.leader;
        self.follower += other.follower;
        self.in_flight += other.in_flight;
        self.leader_in_flight += other.leader_in_flight;
        self.follower_in_flight += other.follower_in_flight;
    }
}

/// What faults have hit, by nemesis and by kind, and what had been declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// By nemesis: `N1` …; declared ones are there even if they never came.
    pub nemeses: BTreeMap<String, Hits>,
    /// By nemesis and kind.
    pub kinds: BTreeMap<String, Hits>,
    /// Which were declared.
    pub declared: Vec<String>,
}

/// What the faults of a run have hit.
pub fn coverage(data: &RunData) -> Coverage {
    let mut coverage = Coverage::default();
    let names = data.run.settings.get("nemeses").map_or("", String::as_str);
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        coverage.nemeses.entry(name.to_owned()).or_default();
        if !coverage.declared.iter().any(|known| known == name) {
            coverage.declared.push(name.to_owned());
        }
    }
    for fault in &data.faults {
        let hit = |role| fault.targets.iter().any(|target| target.role == role);
        let (leader, follower, busy) = (hit(Role::Leader), hit(Role::Follower), fault.in_flight > 0);
        let hits = Hits {
            rounds: 1,
            leader: u64::from(leader),
            follower: u64::from(follower),
            in_flight: u64::from(busy),
            leader_in_flight: u64::from(leader && busy),
            follower_in_flight: u64::from(follower && busy),
        };
        coverage.nemeses.entry(fault.nemesis.clone()).or_default().add(&hits);
        coverage.kinds.entry(format!("{} {}", fault.nemesis, fault.kind)).or_default().add(&hits);
    }
    coverage
}

/// Of many runs together.
pub fn merge<'a>(runs: impl IntoIterator<Item = &'a Coverage>) -> Coverage {
    let mut all = Coverage::default();
    for run in runs {
        for (name, hits) in &run.nemeses {
            all.nemeses.entry(name.clone()).or_default().add(hits);
        }
        for (kind, hits) in &run.kinds {
            all.kinds.entry(kind.clone()).or_default().add(hits);
        }
        for name in &run.declared {
            if !all.declared.contains(name) {
                all.declared.push(name.clone());
            }
        }
    }
    all
}

/// Judges one run, or many that were merged.
pub fn judge(coverage: &Coverage, strict: bool) -> Checked {
    let mut report = Report::new("C11", "every declared fault hit who led and who followed, at work");
    for (name, hits) in &coverage.nemeses {
        report.looked_at(hits.rounds);
        report.figure(&format!("{name} rounds"), hits.rounds as f64);
        report.figure(&format!("{name} while leading"), hits.leader_in_flight as f64);
        report.figure(&format!("{name} while following"), hits.follower_in_flight as f64);
    }
    report.figure("kinds", coverage.kinds.len() as f64);
    if !strict {
        return report.done();
    }
    for name in &coverage.declared {
        let hits = coverage.nemeses.get(name).copied().unwrap_or_default();
        let why = match hits {
            Hits { rounds: 0, .. } => "never came",
            Hits { leader: 0, .. } => "never hit who led",
            Hits { follower: 0, .. } => "never hit who followed",
            Hits { leader_in_flight: 0, .. } => "hit who led only while nobody asked for anything",
            Hits { follower_in_flight: 0, .. } => "hit who followed only while nobody asked for anything",
            _ => continue,
        };
        report.find(format!("vacuous: {name} {why}, in {} rounds", hits.rounds), &[], None);
    }
    report.done()
}

/// Checks a run.
pub fn check(data: &RunData) -> Checked {
    let strict = data.run.settings.get("coverage").is_none_or(|coverage| coverage != "off");
    judge(&coverage(data), strict)
}
