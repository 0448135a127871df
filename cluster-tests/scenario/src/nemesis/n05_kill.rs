//! N5: `kill -9` of one node, of a majority, of all; started again at once or after a while.
//!
//! It proves nothing about durability (what was written survives it); it proves that a process may end anywhere.

use super::{Attack, Round, Scene, Step};
use crate::{cluster::Act, rng::Rng};

/// N5.
pub struct Kill;

impl Attack for Kill {
    fn name(&self) -> &'static str {
        "N5"
    }

    fn about(&self) -> &'static str {
        "kill -9 of one, the leader, a majority, all"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::Kill([1].into()), Act::Start(1)]
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let (group, who) = casualties(rng, scene, [600, 200]);
        let mut round = Round::new(format!("kill of {who}"), group.clone()).act(Act::Kill(group.clone()));
        round = round.hold(down_ms(rng));
        let mut order: Vec<_> = group.into_iter().collect();
        rng.shuffle(&mut order);
        for node in order {
            round = round.heal(Act::Start(node)).heal_step(Step::Wait(rng.between(0, 200)));
        }
        Some(round)
    }
}

/// How long they stay down, in milliseconds: often shorter than an election takes.
pub fn down_ms(rng: &mut Rng) -> u64 {
    if rng.per_mille(400) { rng.between(0, 300) } else { rng.between(300, 2_000) }
}

/// Who dies: in so many of a thousand cases one, a majority, and otherwise all; and what to call them.
pub fn casualties(
    rng: &mut Rng,
    scene: &Scene,
    [one, majority]: [u64; 2],
) -> (std::collections::BTreeSet<agora_history::NodeId>, &'static str) {
    let lot = rng.below(1_000);
    if lot < one {
        let group = scene.group(1, rng);
        let who = if group.contains(&scene.leader) { "the leader" } else { "a follower" };
        (group, who)
    } else if lot < one + majority {
        (scene.group(scene.majority(), rng), "a majority")
    } else {
        (scene.all(), "all")
    }
}
