//! N8: one node's disk fails without losing power: an fsync fails once and works again, writes fail, no space is left,
//! every write hangs, every fsync is slow.
//!
//! After a failed fsync nobody knows what is on the disk, so the node must die of it rather than go on. A leader whose
//! disk hangs must give way. The others must not be held up.

use std::time::Duration;

use super::{Attack, Done, Round, Scene, Step, Turn, round};
use crate::{
    cluster::{Act, DiskFault, Part},
    rng::Rng,
};

/// N8.
pub struct Disk;

/// A log under load is synced many times a second: a node that lives so long after its fsync failed has ignored it.
const DIES_WITHIN_MS: u64 = 4_000;

const FAULTS: [DiskFault; 7] = [
    DiskFault::FsyncErrorOnce(Part::Log),
    DiskFault::FsyncErrorOnce(Part::RowsJournal),
    DiskFault::WriteError(Part::Log),
    DiskFault::WriteError(Part::RowsJournal),
    DiskFault::Full,
    DiskFault::Hung,
    DiskFault::Slow { ms: 50 },
];

impl Attack for Disk {
    fn name(&self) -> &'static str {
        "N8"
    }

    fn about(&self) -> &'static str {
        "fsync error once, write error, disk full, hung, slow"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::BreakDisk { node: 1, fault: FAULTS[0] }, Act::MendDisk(1)]
    }

    fn wants(&self) -> Vec<Act> {
        FAULTS.map(|fault| Act::BreakDisk { node: 1, fault }).into()
    }

    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let node = scene.victim(rng);
        let possible: Vec<DiskFault> =
            FAULTS.into_iter().filter(|fault| scene.can(&Act::BreakDisk { node, fault: *fault })).collect();
        let fault = match *rng.pick(&possible)? {
            DiskFault::Slow { .. } => DiskFault::Slow { ms: rng.between(2, 200) },
            other => other,
        };
        let kind = match fault {
            DiskFault::FsyncErrorOnce(part) => format!("fsync error once, {part:?}"),
            DiskFault::WriteError(part) => format!("write error, {part:?}"),
            DiskFault::Full => "disk full".to_owned(),
            DiskFault::Hung => "disk hung".to_owned(),
            DiskFault::Slow { .. } => "disk slow".to_owned(),
        };
        let lasts_ms = rng.between(500, 2_500);
        let round = Round::new(kind, [node]).act(Act::BreakDisk { node, fault });
        let round = match fault {
            // It is over when the node has died of it.
            DiskFault::FsyncErrorOnce(_) | DiskFault::WriteError(_) => {
                round.step(Step::UntilDown(node, lasts_ms)).hold(rng.between(0, 500))
            }
            DiskFault::Full | DiskFault::Hung | DiskFault::Slow { .. } => round.hold(lasts_ms),
        };
        Some(round.heal(Act::MendDisk(node)).heal(Act::Start(node)))
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(6)
    }

    /// Alone, the node whose log was not synced is busy and must die of it; under other attacks it may have nothing to
    /// sync.
    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let Some(mut planned) = self.plan(rng, scene) else { return Ok(()) };
            let log_fails = |step: &Step| {
                matches!(step, Step::Do(Act::BreakDisk { fault: DiskFault::FsyncErrorOnce(Part::Log), .. }))
            };
            if planned.strike.iter().any(log_fails) {
                for step in &mut planned.strike {
                    if let Step::UntilDown(node, _) = *step {
                        *step = Step::MustDie(node, DIES_WITHIN_MS);
                    }
                }
            }
            round::perform(context, self.name(), &planned).await
        })
    }
}
