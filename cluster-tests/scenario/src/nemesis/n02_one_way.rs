//! N2: the network is not symmetric or not transitive. Two nodes do not see each other but a third sees both; a node is
//! heard but hears nothing, or hears and is not heard.
//!
//! Clients still reach every node. A leader that is not heard any more must lose its leadership, and a node that hears
//! nothing must not disturb the others by standing for election again and again.

use super::{Attack, Round, Scene, scene::only};
use crate::{
    cluster::{Act, Link},
    rng::Rng,
};

/// N2.
pub struct OneWay;

impl Attack for OneWay {
    fn name(&self) -> &'static str {
        "N2"
    }

    fn about(&self) -> &'static str {
        "bridges and one-way cuts, clients connected"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::SetLinks { from: only(1), to: only(2), link: Link::CUT }, Act::HealNetwork]
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let victim = scene.victim(rng);
        let one = only(victim);
        let rest = scene.rest(&one);
        let other = *rng.pick(&rest.iter().copied().collect::<Vec<_>>())?;
        let round = match rng.below(4) {
            0 => Round::new("bridge: two do not see each other", [victim, other]).cut(&one, &only(other)),
            1 => Round::new("hears and is not heard", [victim]).link(&one, &rest, Link::CUT),
            2 => Round::new("is heard and does not hear", [victim]).link(&rest, &one, Link::CUT),
            _ => Round::new("one does not hear one other", [victim, other]).link(&only(other), &one, Link::CUT),
        };
        Some(round.hold(rng.between(300, 3_000)).heal(Act::HealNetwork))
    }
}
