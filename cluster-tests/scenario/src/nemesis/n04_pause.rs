//! N4: a node stands still for half an election timeout, one, three or ten of them, with requests queued at it, and
//! goes on as if no time had passed.
//!
//! A leader that wakes up after another was elected must not act upon what it remembers.

use std::time::Duration;

use super::{Attack, Round, Scene};
use crate::{cluster::Act, rng::Rng};

/// From the leader's silence to the next election with the defaults (100 ms heartbeats, 300 to 500 ms): 0.8 to 1.0 s.
pub const ELECTION_TIMEOUT_MS: u64 = 800;

/// N4.
pub struct Pause;

impl Attack for Pause {
    fn name(&self) -> &'static str {
        "N4"
    }

    fn about(&self) -> &'static str {
        "a node stands still for 0.5, 1, 3 or 10 election timeouts"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::Pause(1), Act::Resume(1)]
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        // The long ones more rarely, so that many rounds fit.
        let halves = *rng.pick(&[1, 1, 1, 2, 2, 2, 2, 6, 6, 20])?;
        let size = if rng.per_mille(150) { scene.majority() } else { 1 };
        let group = scene.group(size, rng);
        let who = if group.len() > 1 {
            "a majority"
        } else if group.contains(&scene.leader) {
            "the leader"
        } else {
            "a follower"
        };
        let mut round =
            Round::new(format!("{who} paused for {}.{} election timeouts", halves / 2, halves % 2 * 5), group.clone());
        for node in &group {
            round = round.act(Act::Pause(*node)).heal(Act::Resume(*node));
        }
        Some(round.hold(halves * ELECTION_TIMEOUT_MS / 2))
    }
}
