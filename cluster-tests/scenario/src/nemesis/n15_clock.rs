//! N15: clocks jump and drift, each node's by itself.
//!
//! Decisions depend on time (an unpaid order expires), so a node whose clock is far from the middle of the voters' clocks
//! must not lead, and no replica may ask its own clock while it applies. Never more than a minority is far off: what the
//! majority's clocks say is the time.

use super::{Attack, Round, Scene, Step};
use crate::{cluster::Act, rng::Rng};

/// N15.
pub struct Clock;

/// Jumps in milliseconds: below and above what is tolerated (a second), a minute, an hour, a day.
const JUMPS_MS: [i64; 6] = [300, 900, 1_500, 60_000, 3_600_000, 86_400_000];
/// Steps of a drift.
const DRIFT_STEPS: i64 = 10;

impl Attack for Clock {
    fn name(&self) -> &'static str {
        "N15"
    }

    fn about(&self) -> &'static str {
        "clocks of a minority jump or drift"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::ClockOffset { node: 1, ms: 1_000 }]
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let group = scene.group(rng.between(1, scene.minority().max(1) as u64) as usize, rng);
        let drifts = rng.per_mille(300);
        let mut round = Round::new(if drifts { "clock drifts" } else { "clock jumps" }, group.clone());
        for node in group {
            let jump = *rng.pick(&JUMPS_MS)?;
            let ms = if rng.per_mille(500) { jump } else { -jump };
            if drifts {
                let whole = ms.clamp(-3_000, 3_000);
                for step in 1..=DRIFT_STEPS {
                    let ms = whole * step / DRIFT_STEPS;
                    round = round.act(Act::ClockOffset { node, ms }).step(Step::Wait(100));
                }
            } else {
                round = round.act(Act::ClockOffset { node, ms });
            }
            round = round.heal(Act::ClockOffset { node, ms: 0 });
        }
        Some(round.hold(rng.between(500, 2_500)))
    }
}
