//! The promises, each as a file: what is promised, where that is said, and the run that would break it.
//!
//! A scenario names loads, attacks, and the checkers that decide; it is written once and sized for its harness. All
//! checkers look at every run in any case: a scenario says which of them it was made for.

mod acknowledged_survives;
mod feed_has_no_gaps;
mod forgetful_stay_out;
mod members_are_safe;
mod money_is_conserved;
mod never_oversell;
mod old_leaders_are_fenced;
mod one_key_one_effect;
mod operators_at_work;
mod overload_is_bounded;
mod reads_are_current;
mod replicas_are_equal;
mod rows_are_disposable;
mod service_returns;
mod time_is_the_logs;
mod unknown_is_not_no;

use std::{sync::Arc, time::Duration};

use crate::{
    cluster::{Act, Cluster},
    nemesis::{Campaign, missing, named},
    rng::Rng,
    runner::Plan,
    schedule::{Calm, Nemesis},
    workloads::{Catalogue, Kind, Load},
};

/// For whom a scenario is sized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One seed of about 30 simulated seconds.
    Simulation,
    /// Real processes, attacked for so long.
    Real(Duration),
}

/// Time of the attack in one simulated seed; before it the shop is opened, after it the cluster heals and is compared.
const SIMULATED_CHAOS: Duration = Duration::from_secs(20);

impl Size {
    /// The first figure in simulation, the second for real processes.
    pub fn scaled<T>(self, simulation: T, real: T) -> T {
        match self {
            Size::Simulation => simulation,
            Size::Real(_) => real,
        }
    }

    /// How long the attack lasts.
    pub fn chaos(self) -> Duration {
        match self {
            Size::Simulation => SIMULATED_CHAOS,
            Size::Real(chaos) => chaos,
        }
    }

    /// So many clients, each with this pace in milliseconds: (simulation, real).
    fn load(self, kind: Kind, clients: (u32, u32), pace_ms: (u64, u64)) -> Load {
        let pace = Duration::from_millis(self.scaled(pace_ms.0, pace_ms.1));
        Load::new(kind, self.scaled(clients.0, clients.1), pace)
    }
}

/// What the nodes' configurations must say, so that what a scenario waits for comes within its time. `None` leaves the
/// default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// `[shop] order_ttl_ms`: unpaid orders expire.
    pub order_ttl_ms: Option<u64>,
    /// `[raft] log_bytes_max` and, a sixteenth of it, `snapshot_log_bytes`: the log is purged.
    pub log_bytes_max: Option<u64>,
    /// `[shop] admission_max`: requests are turned away.
    pub admission_max: Option<u64>,
}

/// The least the product takes for `log_bytes_max`.
const SHORT_LOG: u64 = 1 << 20;

impl NodeSettings {
    /// The defaults.
    const NONE: NodeSettings = NodeSettings { order_ttl_ms: None, log_bytes_max: None, admission_max: None };

    /// Unpaid orders live so long.
    const fn expiring(order_ttl_ms: u64) -> NodeSettings {
        NodeSettings { order_ttl_ms: Some(order_ttl_ms), ..NodeSettings::NONE }
    }

    /// And the log is as short as may be.
    const fn short_log(self) -> NodeSettings {
        NodeSettings { log_bytes_max: Some(SHORT_LOG), ..self }
    }

    /// `[raft] snapshot_log_bytes` to go with it.
    pub fn snapshot_log_bytes(&self) -> Option<u64> {
        self.log_bytes_max.map(|bytes| bytes / 16)
    }
}

/// A promise and the run that would break it.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As in reports and on the command line.
    pub name: &'static str,
    /// In a few words.
    pub promise: &'static str,
    /// `N1` … `N18`; none for a run in calm.
    pub attacks: &'static [&'static str],
    /// `C1` … `C11`: those it was made for.
    pub checkers: &'static [&'static str],
    /// What the nodes must be configured to.
    pub settings: NodeSettings,
    /// What there is to buy.
    pub catalogue: fn(Size) -> Catalogue,
    /// What clients do.
    pub loads: fn(Size) -> Vec<Load>,
}

impl Scenario {
    /// What a cluster cannot be attacked with here: by attack, acts it cannot do without and acts some variants need.
    pub fn missing(&self, cluster: &dyn Cluster) -> Vec<(&'static str, Vec<Act>, Vec<Act>)> {
        let attacks = self.attacks.iter().filter_map(|name| named(name));
        let lacks = attacks.map(|attack| {
            let (needs, wants) = missing(&*attack, cluster);
            (attack.name(), needs, wants)
        });
        lacks.filter(|(_, needs, wants)| !needs.is_empty() || !wants.is_empty()).collect()
    }

    /// The run, with all its attacks; one the cluster cannot be attacked with fails it before it begins.
    ///
    /// # Errors
    /// An attack that does not exist.
    pub fn plan(&self, seed: u64, size: Size) -> Result<Plan, String> {
        let nemesis: Arc<dyn Nemesis> =
            if self.attacks.is_empty() { Arc::new(Calm) } else { Arc::new(Campaign::of(self.attacks)?) };
        Ok(self.plan_with(seed, size, nemesis))
    }

    /// The run with those of its attacks that this cluster can be attacked with.
    ///
    /// # Errors
    /// None of them is.
    pub fn plan_for(&self, seed: u64, size: Size, cluster: &dyn Cluster) -> Result<Plan, String> {
        if self.attacks.is_empty() {
            return self.plan(seed, size);
        }
        let campaign = Campaign::that_fits(self.attacks, cluster);
        let campaign = campaign.ok_or_else(|| format!("{}: none of {:?} can be done here", self.name, self.attacks))?;
        Ok(self.plan_with(seed, size, Arc::new(campaign)))
    }

    /// The run under another attack.
    pub fn plan_with(&self, seed: u64, size: Size, nemesis: Arc<dyn Nemesis>) -> Plan {
        let mut plan = Plan::new(self.name, seed, nemesis, size.chaos());
        plan.catalogue = (self.catalogue)(size);
        plan.loads = (self.loads)(size);
        plan
    }
}

/// All scenarios, by name.
pub fn all() -> Vec<Scenario> {
    vec![
        acknowledged_survives::SCENARIO,
        feed_has_no_gaps::SCENARIO,
        forgetful_stay_out::SCENARIO,
        members_are_safe::SCENARIO,
        money_is_conserved::SCENARIO,
        never_oversell::SCENARIO,
        old_leaders_are_fenced::SCENARIO,
        one_key_one_effect::SCENARIO,
        operators_at_work::SCENARIO,
        overload_is_bounded::SCENARIO,
        reads_are_current::SCENARIO,
        replicas_are_equal::SCENARIO,
        rows_are_disposable::SCENARIO,
        service_returns::SCENARIO,
        time_is_the_logs::SCENARIO,
        unknown_is_not_no::SCENARIO,
    ]
}

/// The scenario of that name.
pub fn by_name(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// The scenario of a seed, and how many nodes it has: three, in every fifth case five.
pub fn pick(seed: u64) -> (Scenario, u64) {
    let mut rng = Rng::new(seed).fork("scenario");
    let scenarios = all();
    let scenario = rng.pick(&scenarios).copied().unwrap_or(never_oversell::SCENARIO);
    let nodes = if rng.per_mille(200) { 5 } else { 3 };
    (scenario, nodes)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<&str> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(names.iter().all(|name| by_name(name).is_some_and(|scenario| scenario.name == *name)));
        assert!(by_name("nothing").is_none());
    }

    #[test]
    fn every_scenario_can_be_planned_for_both() {
        for scenario in all() {
            for size in [Size::Simulation, Size::Real(Duration::from_secs(60))] {
                let plan = scenario.plan(7, size).expect(scenario.name);
                assert_eq!((plan.scenario.as_str(), plan.seed, plan.chaos), (scenario.name, 7, size.chaos()));
                assert!(!plan.loads.is_empty() && plan.loads.iter().all(|load| load.clients > 0), "{}", scenario.name);
                assert!(!scenario.promise.is_empty() && !scenario.checkers.is_empty(), "{}", scenario.name);
            }
        }
    }

    #[test]
    fn every_attack_load_and_checker_is_in_some_scenario() {
        let attacks: BTreeSet<&str> = all().iter().flat_map(|scenario| scenario.attacks).copied().collect();
        for attack in crate::nemesis::all() {
            assert!(attacks.contains(attack.name()), "{} is in no scenario", attack.name());
        }
        let loads: BTreeSet<Kind> =
            all().iter().flat_map(|scenario| (scenario.loads)(Size::Simulation)).map(|load| load.kind).collect();
        for kind in Kind::ALL {
            assert!(loads.contains(&kind), "{} is in no scenario", kind.name());
        }
        let checkers: BTreeSet<&str> = all().iter().flat_map(|scenario| scenario.checkers).copied().collect();
        for number in 1..=11 {
            assert!(checkers.contains(format!("C{number}").as_str()), "no scenario is made for C{number}");
        }
    }

    #[test]
    fn operators_are_not_let_loose_while_logs_are_destroyed() {
        // Both change the members; an attack that destroys a log counts upon all others being there.
        for scenario in all() {
            let operates = (scenario.loads)(Size::Simulation).iter().any(|load| load.kind == Kind::Operators);
            let destroys = |name: &&str| named(name).is_some_and(|attack| attack.is_destroying());
            assert!(!operates || !scenario.attacks.iter().any(destroys), "{}", scenario.name);
        }
    }

    #[test]
    fn seeds_pick_every_scenario_about_as_often() {
        let mut picked: BTreeMap<&str, u32> = BTreeMap::new();
        let mut large = 0;
        for seed in 0..3_200 {
            let (scenario, nodes) = pick(seed);
            assert_eq!(pick(seed).0.name, scenario.name);
            *picked.entry(scenario.name).or_default() += 1;
            large += u32::from(nodes == 5);
        }
        assert_eq!(picked.len(), all().len());
        assert!(picked.values().all(|count| (120..280).contains(count)), "{picked:?}");
        assert!((500..800).contains(&large), "{large}");
    }
}
