//! N9: the leader loses power and is back before anyone has noticed, within the election timeout; so does a follower.
//!
//! A node that resumed its leadership without an election would decide upon what it remembers, while another may be
//! elected at the same time.

use super::{Attack, Round, Scene, n04_pause::ELECTION_TIMEOUT_MS, scene::only};
use crate::{cluster::Act, rng::Rng};

/// N9.
pub struct QuickReturn;

impl Attack for QuickReturn {
    fn name(&self) -> &'static str {
        "N9"
    }

    fn about(&self) -> &'static str {
        "power loss of the leader (or a follower) and restart inside the election timeout"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::PowerLoss(only(1)), Act::Start(1)]
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let node = scene.victim(rng);
        let who = if node == scene.leader { "leader" } else { "follower" };
        let round = Round::new(format!("power loss of the {who} and back at once"), [node]);
        Some(round.act(Act::PowerLoss(only(node))).hold(rng.between(0, ELECTION_TIMEOUT_MS / 2)).heal(Act::Start(node)))
    }
}
