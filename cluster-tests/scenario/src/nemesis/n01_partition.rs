//! N1: the network falls apart. The leader alone, a follower alone, a minority against the rest, everyone alone.
//!
//! Clients still reach every node: one that is cut off must say that it cannot, and must not serve what is old as new.

use std::time::Duration;

use super::{Attack, Round, Scene, scene::only};
use crate::{
    cluster::{Act, Link},
    rng::Rng,
};

/// N1.
pub struct Partition;

impl Attack for Partition {
    fn name(&self) -> &'static str {
        "N1"
    }

    fn about(&self) -> &'static str {
        "the leader, a follower or a minority cut off from the rest; everyone alone"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::SetLinks { from: only(1), to: only(2), link: Link::CUT }, Act::HealNetwork]
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(5_500)
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        // A bounded read may be two seconds old: now and then a node is away for longer than that.
        let hold_ms = if rng.per_mille(200) { rng.between(3_000, 4_500) } else { rng.between(300, 3_000) };
        if rng.per_mille(125) {
            let apart = scene.voters.iter().fold(Round::new("everyone alone", scene.all()), |round, node| {
                round.cut(&only(*node), &scene.rest(&only(*node)))
            });
            return Some(apart.hold(hold_ms).heal(Act::HealNetwork));
        }
        let size = rng.between(1, scene.minority().max(1) as u64) as usize;
        let group = scene.group(size, rng);
        let leads = group.contains(&scene.leader);
        let kind = match (group.len(), leads) {
            (1, true) => "leader isolated",
            (1, false) => "follower isolated",
            (_, true) => "minority with the leader cut off",
            (_, false) => "minority of followers cut off",
        };
        let rest = scene.rest(&group);
        Some(Round::new(kind, group.clone()).cut(&group, &rest).hold(hold_ms).heal(Act::HealNetwork))
    }
}
