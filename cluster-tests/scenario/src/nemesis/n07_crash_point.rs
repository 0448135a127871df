//! N7: a node dies at its N-th fsync, write or rename from now on: under load, while it votes, while it writes a
//! snapshot file, while it recovers from the last time.
//!
//! Small N are drawn as often as large ones, so that the first calls of each piece of work are met.

use super::{Attack, Round, Scene, Step, Wish, scene::only};
use crate::{
    cluster::{Act, Syscall},
    rng::Rng,
};

/// N7.
pub struct CrashPoint;

/// Doublings of the largest N: up to 128.
const DOUBLINGS: u64 = 8;
/// How long the point may take to be reached, in milliseconds.
const REACHED_MS: u64 = 2_500;

impl Attack for CrashPoint {
    fn name(&self) -> &'static str {
        "N7"
    }

    fn about(&self) -> &'static str {
        "death at the N-th fsync, write or rename"
    }

    fn needs(&self) -> Vec<Act> {
        [Syscall::Fsync, Syscall::Write].map(|call| Act::CrashAt { node: 1, call, n: 1 }).into()
    }

    fn wants(&self) -> Vec<Act> {
        vec![Act::CrashAt { node: 1, call: Syscall::Rename, n: 1 }]
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let node = scene.victim(rng);
        let most = 1 << rng.below(DOUBLINGS);
        let n = rng.between(most / 2 + 1, most);
        let call = if rng.per_mille(600) { Syscall::Fsync } else { Syscall::Write };
        let name = if call == Syscall::Fsync { "fsync" } else { "write" };
        let round = match rng.below(10) {
            // Files are renamed when a snapshot is finished, and hardly ever otherwise.
            0 | 1 if scene.can_all(&self.wants()) => {
                Round::new("death at a rename while a snapshot is written", [node])
                    .act(Act::CrashAt { node, call: Syscall::Rename, n: rng.between(1, 2) })
                    .step(Step::Ask(Wish::Snapshot { of: node }))
            }
            2 => Round::new(format!("death at {name} {n} while a snapshot is written"), [node])
                .act(Act::CrashAt { node, call, n })
                .step(Step::Ask(Wish::Snapshot { of: node })),
            3 | 4 => {
                // It votes, or it hands over, or it is elected.
                let to = scene.follower(rng);
                let n = rng.between(1, 6);
                Round::new(format!("death at {name} {n} while leadership moves"), [node])
                    .act(Act::CrashAt { node, call, n })
                    .step(Step::Ask(Wish::Transfer { via: scene.leader, to }))
            }
            5 | 6 => Round::new(format!("death at {name} {n} after the start"), [node])
                .act(Act::Kill(only(node)))
                .act(Act::CrashAt { node, call, n })
                .act(Act::Start(node)),
            _ => Round::new(format!("death at {name} {n} under load"), [node]).act(Act::CrashAt { node, call, n }),
        };
        let round = round.step(Step::UntilDown(node, REACHED_MS)).hold(rng.between(0, 600));
        Some(round.heal(Act::MendDisk(node)).heal(Act::Start(node)))
    }
}
