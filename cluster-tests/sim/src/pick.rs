//! What a seed runs.

use std::{sync::Arc, time::Duration};

use agora_actors::{RaftConfig, ShopConfig};
use agora_scenario::{
    invariants::{self, NodeSettings, Size},
    nemesis::{self, Campaign},
    rng::Rng,
    runner::Plan,
    schedule::{Calm, Nemesis},
    workloads::{Kind, Load},
};

use crate::cluster::SimCluster;

/// Things that clients of a scenario begin per second; each is an operation or a few.
const RATE_MAX: f64 = 90.0;
/// Pause of a client that sends batches of a hundred orders.
const BULK_PACE: Duration = Duration::from_millis(1_500);
/// Time under attack, if nobody says otherwise.
pub const CHAOS: Duration = Duration::from_secs(30);

/// What a seed runs if nobody says otherwise: every second one the scenario of a promise, the others attacks and loads
/// mixed by chance, which meet each other as no scenario makes them.
pub fn scenario(seed: u64) -> Option<String> {
    seed.is_multiple_of(2).then(|| invariants::pick(seed).0.name.to_owned())
}

/// A log that is purged within a seed's time.
const LOG_BYTES_SHORT: u64 = 64 * 1024;

/// How long a node works on a request, in milliseconds: in every second seed it gives up before its client does, so that
/// its own word of what it does not know is heard.
pub fn request_timeout_ms(seed: u64) -> u64 {
    let mut rng = Rng::new(seed).fork("request timeout");
    if rng.per_mille(500) { rng.between(700, 2_500) } else { 10_000 }
}

/// Nodes of a seed's cluster: mostly three.
pub fn nodes(seed: u64) -> u64 {
    if Rng::new(seed).fork("nodes").per_mille(800) { 3 } else { 5 }
}

/// What a scenario's nodes must be configured to; `None` leaves it to the seed.
fn settings(scenario: Option<&str>) -> NodeSettings {
    let named = scenario.and_then(|name| invariants::by_name(name.split('@').next().unwrap_or_default()));
    named.map(|scenario| scenario.settings).unwrap_or_default()
}

/// The shop of a seed: in some, few entities fit into memory, so that those asked for leave and come back all the time.
pub fn shop(seed: u64, scenario: Option<&str>) -> ShopConfig {
    let mut rng = Rng::new(seed).fork("shop");
    let settings = settings(scenario);
    let usual = ShopConfig::default();
    ShopConfig {
        // Orders run out within a run.
        order_ttl_ms: settings.order_ttl_ms.unwrap_or(6_000),
        live_entities_max: if rng.per_mille(300) { 8 } else { usual.live_entities_max },
        admission_max: settings.admission_max.unwrap_or(usual.admission_max),
        ..usual
    }
}

/// Bounds of log and cache of a seed: some so small that purges and snapshots are daily bread.
pub fn raft(seed: u64, scenario: Option<&str>, usual: RaftConfig) -> RaftConfig {
    let settings = settings(scenario);
    if settings.log_bytes_max.is_some() {
        // As short as may be: a seed's load is small.
        return RaftConfig {
            log_bytes_max: LOG_BYTES_SHORT,
            snapshot_log_bytes: LOG_BYTES_SHORT / 16,
            snapshot_age_ms: 2_000,
            ..usual
        };
    }
    let mut rng = Rng::new(seed).fork("raft");
    if rng.per_mille(600) {
        return RaftConfig { snapshot_age_ms: rng.between(500, 5_000), ..usual };
    }
    RaftConfig {
        log_bytes_max: LOG_BYTES_SHORT * rng.between(1, 8),
        snapshot_log_bytes: rng.between(4 * 1024, 48 * 1024),
        log_cache_bytes_max: usize::try_from(rng.between(1, 64) * 1024).unwrap_or(64 * 1024),
        snapshot_age_ms: rng.between(500, 3_000),
        checkpoint_entries: rng.between(20, 500),
        ..usual
    }
}

/// The checker that judges many runs together: one short run cannot hit everything.
pub fn is_about_many_runs(checker: &str) -> bool {
    checker == "C11"
}

/// The scenario of that name, if there is one; `never_oversell@N3` is its load under another attack, or in `calm`.
fn named(seed: u64, name: &str, cluster: &SimCluster) -> Option<Result<Plan, String>> {
    let (name, attacks) = name.split_once('@').unwrap_or((name, ""));
    let scenario = invariants::by_name(name)?;
    Some(match attacks {
        "" => scenario.plan_for(seed, Size::Simulation, cluster),
        "calm" => Ok(scenario.plan_with(seed, Size::Simulation, Arc::new(Calm))),
        names => {
            let names: Vec<&str> = names.split('+').collect();
            let campaign = Campaign::that_fits(&names, cluster).ok_or("none of these can be played here".to_owned());
            campaign.map(|campaign| scenario.plan_with(seed, Size::Simulation, Arc::new(campaign)))
        }
    })
}

/// With the clients slowed down so far that a seed carries some thousand operations: every order is read from every node
/// in the end, and more seeds show more than longer ones.
fn paced(mut plan: Plan) -> Plan {
    for load in plan.loads.iter_mut().filter(|load| load.kind == Kind::Bulk) {
        load.pace = load.pace.max(BULK_PACE);
    }
    let per_second = |load: &Load| f64::from(load.clients) / load.pace.as_secs_f64().max(0.001);
    let rate: f64 = plan.loads.iter().map(per_second).sum();
    if rate > RATE_MAX {
        for load in &mut plan.loads {
            load.pace = load.pace.mul_f64(rate / RATE_MAX);
        }
    }
    plan
}

/// Load and attacks.
///
/// # Errors
/// A scenario of that name is not known, or cannot be played here.
pub fn plan(seed: u64, scenario: Option<&str>, chaos: Duration, cluster: &SimCluster) -> Result<Plan, String> {
    if let Some(plan) = scenario.and_then(|name| named(seed, name, cluster)) {
        return plan.map(|plan| paced(Plan { chaos, ..plan }));
    }
    let mut rng = Rng::new(seed).fork("plan");
    let (name, nemesis): (String, Arc<dyn Nemesis>) = match scenario {
        Some("calm") => ("calm".to_owned(), Arc::new(Calm)),
        Some(names) => {
            let names: Vec<&str> = names.split('+').collect();
            let campaign = Campaign::that_fits(&names, cluster).ok_or("none of these can be played here")?;
            (names.join("+"), Arc::new(campaign))
        }
        None => {
            let all = nemesis::all();
            let mut fitting: Vec<_> =
                all.iter().filter(|attack| nemesis::missing(&***attack, cluster).0.is_empty()).collect();
            rng.shuffle(&mut fitting);
            let count = usize::try_from(rng.between(1, 3)).unwrap_or(1);
            let names: Vec<&str> = fitting.iter().take(count).map(|attack| attack.name()).collect();
            let campaign = Campaign::that_fits(&names, cluster).ok_or("nothing can be played here")?;
            (names.join("+"), Arc::new(campaign))
        }
    };
    let mut plan = Plan::new(&name, seed, nemesis, chaos);
    plan.warm_up = Duration::from_millis(500);
    let loads = [
        (Kind::Rush, 6, 250),
        (Kind::Carts, 3, 300),
        (Kind::Payments, 3, 300),
        (Kind::Storm, 2, 300),
        (Kind::Receiving, 2, 400),
        (Kind::Feed, 1, 400),
        (Kind::Reads, 2, 200),
    ];
    for (kind, clients, pace_ms) in loads {
        // Every seed has a mixture of its own.
        if kind == Kind::Rush || rng.per_mille(650) {
            plan = plan.load(Load::new(kind, clients, Duration::from_millis(pace_ms)));
        }
    }
    Ok(plan)
}
