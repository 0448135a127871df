//! N3: the network works badly. Black holes, resets, flapping, loss of 10 to 50 %, delays of 50 to 500 ms with jitter,
//! low rates, packets that arrive twice.
//!
//! A black hole takes the clients' traffic as well: a host whose packets vanish without a word.

use super::{Attack, Round, Scene, Step, scene::only};
use crate::{
    cluster::{Act, Link},
    rng::Rng,
};

/// N3.
pub struct BadLink;

/// Most times a link goes away and comes back in one round.
const FLAPS_MAX: u64 = 6;

/// The variants, each with the acts it uses.
const VARIANTS: [Variant; 7] = [
    Variant::BlackHole,
    Variant::Reset,
    Variant::Flapping,
    Variant::Loss,
    Variant::Delay,
    Variant::LowRate,
    Variant::Duplicate,
];

#[derive(Clone, Copy)]
enum Variant {
    BlackHole,
    Reset,
    Flapping,
    Loss,
    Delay,
    LowRate,
    Duplicate,
}

impl Variant {
    fn acts(self) -> Vec<Act> {
        let link = |link| Act::SetLinks { from: only(1), to: only(2), link };
        match self {
            Variant::BlackHole => vec![link(Link::CUT), Act::SetClientLinks { nodes: only(1), link: Link::CUT }],
            Variant::Reset => vec![Act::ResetConnections { nodes: only(1) }],
            Variant::Flapping => vec![link(Link::CUT)],
            Variant::Loss => vec![link(Link { loss: 0.3, ..Link::default() })],
            Variant::Delay => vec![link(Link { delay_ms: 100, jitter_ms: 50, ..Link::default() })],
            Variant::LowRate => vec![link(Link { rate_bytes: 16 << 10, ..Link::default() })],
            Variant::Duplicate => vec![link(Link { duplicate: 0.2, ..Link::default() })],
        }
    }
}

impl Attack for BadLink {
    fn name(&self) -> &'static str {
        "N3"
    }

    fn about(&self) -> &'static str {
        "black holes, resets, flapping, loss, delay, low rate, duplicates"
    }

    fn needs(&self) -> Vec<Act> {
        let mut needs = Variant::Flapping.acts();
        needs.push(Act::HealNetwork);
        needs
    }

    fn wants(&self) -> Vec<Act> {
        VARIANTS.into_iter().flat_map(Variant::acts).collect()
    }

    fn longest(&self) -> std::time::Duration {
        std::time::Duration::from_secs(5)
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let possible: Vec<Variant> = VARIANTS.into_iter().filter(|variant| scene.can_all(&variant.acts())).collect();
        let variant = *rng.pick(&possible)?;
        let victim = scene.victim(rng);
        let one = only(victim);
        let rest = scene.rest(&one);
        let hold_ms = rng.between(500, 3_000);
        let both = |round: Round, link: Link| round.link(&one, &rest, link).link(&rest, &one, link).hold(hold_ms);
        let round = match variant {
            Variant::BlackHole => both(Round::new("black hole", [victim]), Link::CUT)
                .act(Act::SetClientLinks { nodes: one.clone(), link: Link::CUT }),
            Variant::Reset => {
                let mut round = Round::new("connections reset", [victim]);
                for _ in 0..rng.between(1, FLAPS_MAX) {
                    let reset = Act::ResetConnections { nodes: one.clone() };
                    round = round.act(reset).step(Step::Wait(rng.between(20, 300)));
                }
                round
            }
            Variant::Flapping => {
                let mut round = Round::new("flapping", [victim]);
                for _ in 0..rng.between(2, FLAPS_MAX) {
                    round = round.cut(&one, &rest).step(Step::Wait(rng.between(50, 400)));
                    round = round.link(&one, &rest, Link::default()).link(&rest, &one, Link::default());
                    round = round.step(Step::Wait(rng.between(50, 400)));
                }
                round
            }
            Variant::Loss => {
                let percent = rng.between(10, 50);
                let link = Link { loss: percent as f64 / 100.0, ..Link::default() };
                both(Round::new(format!("loss of {percent} %"), [victim]), link)
            }
            Variant::Delay => {
                let delay_ms = rng.between(50, 500);
                let link = Link { delay_ms, jitter_ms: rng.between(0, delay_ms), ..Link::default() };
                both(Round::new(format!("delay of {delay_ms} ms and up to {} more", link.jitter_ms), [victim]), link)
            }
            Variant::LowRate => {
                let rate_bytes = rng.between(4, 64) << 10;
                let link = Link { rate_bytes, ..Link::default() };
                both(Round::new(format!("rate of {} KiB/s", rate_bytes >> 10), [victim]), link)
            }
            Variant::Duplicate => {
                let percent = rng.between(5, 40);
                let link = Link { duplicate: percent as f64 / 100.0, jitter_ms: 20, ..Link::default() };
                both(Round::new(format!("{percent} % arrive twice"), [victim]), link)
            }
        };
        Some(round.heal(Act::HealNetwork))
    }
}
