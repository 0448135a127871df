//! N6: the power goes, for one node, for a majority, for all at once. Only what was synced surely survives.
//!
//! In some rounds the rows' journal is holed as well while all nodes are down. The rows are disposable by design: a node
//! that cannot account for them makes them again from its log, or takes them from a peer. What must stay is a log that
//! begins at the beginning on a majority of the nodes, or sound rows on a majority; if neither would be left, fewer
//! nodes are holed. (All rows lost behind a purged log is a disaster that only a backup undoes, and no promise speaks
//! of it.)

use std::{collections::BTreeSet, time::Duration};

use agora_history::NodeId;

use super::{
    Attack, Round, Scene, Step,
    n05_kill::{casualties, down_ms},
};
use crate::{
    cluster::{Act, Damage, Part},
    rng::Rng,
};

/// N6.
pub struct PowerLoss;

impl Attack for PowerLoss {
    fn name(&self) -> &'static str {
        "N6"
    }

    fn about(&self) -> &'static str {
        "power loss of one, a majority, all; with the rows' journal holed everywhere"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::PowerLoss([1].into()), Act::Start(1)]
    }

    fn wants(&self) -> Vec<Act> {
        vec![hole(1, Damage::FlipBit { at: 500_000, bit: 0 }), hole(1, Damage::ZeroSector { at: 500_000 })]
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        if rng.per_mille(250) && scene.can_all(&self.wants()) {
            return Some(holed_everywhere(rng, scene));
        }
        let (group, who) = casualties(rng, scene, [300, 200]);
        let round = Round::new(format!("power loss of {who}"), group.clone()).act(Act::PowerLoss(group.clone()));
        Some(start_again(round.hold(down_ms(rng)), group, rng))
    }
}

fn start_again(mut round: Round, group: BTreeSet<NodeId>, rng: &mut Rng) -> Round {
    let mut order: Vec<_> = group.into_iter().collect();
    rng.shuffle(&mut order);
    for node in order {
        round = round.heal(Act::Start(node)).heal_step(Step::Wait(rng.between(0, 300)));
    }
    round
}

fn hole(node: NodeId, damage: Damage) -> Act {
    Act::Corrupt { node, part: Part::RowsJournal, damage }
}

fn holed_everywhere(rng: &mut Rng, scene: &Scene) -> Round {
    let mut victims: Vec<NodeId> = scene.voters.clone();
    let uncut = victims.iter().filter(|node| scene.uncut.contains(node)).count();
    if uncut < scene.majority() {
        rng.shuffle(&mut victims);
        victims.truncate(scene.minority());
    }
    let everywhere = victims.len() == scene.voters.len();
    let kind = if everywhere {
        "power loss of all, rows' journal holed on all"
    } else {
        "power loss of all, rows' journal holed"
    };
    let mut round = Round::new(kind, scene.all()).act(Act::PowerLoss(scene.all()));
    for node in victims {
        // Towards the end more often: that is where the un-synced tail was.
        let at = if rng.per_mille(500) { rng.between(0, 999_999) } else { rng.between(900_000, 999_999) } as u32;
        let bit = rng.below(8) as u8;
        let damage = if rng.per_mille(500) { Damage::FlipBit { at, bit } } else { Damage::ZeroSector { at } };
        round = round.act(hole(node, damage));
    }
    start_again(round.hold(rng.between(0, 500)), scene.all(), rng)
}
