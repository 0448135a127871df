//! N10: stored bytes are spoiled while a node is down: a bit flipped, a sector zeroed, a file cut short, in the log, in
//! the rows' journal and tables, in a snapshot file; or the whole directory is rolled back to an older state.
//!
//! Spoiled rows must come back by themselves, from the log or from a peer. A spoiled log that is noticed ends the node's
//! life under its id, and a new one takes its place; one that the damage did not touch lets it go on. What must never
//! happen is that something wrong is served, which the checkers see.

use std::time::Duration;

use agora_history::NodeId;

use super::{
    Attack, Done, Turn,
    recover::{self, Errand, Return},
    scene::only,
    watch,
};
use crate::{
    cluster::{Act, Damage, Part},
    rng::Rng,
    schedule::Context,
};

/// N10.
pub struct Rot;

const PARTS: [Part; 4] = [Part::Log, Part::RowsJournal, Part::RowsTable, Part::Snapshot];

fn damage(rng: &mut Rng) -> Damage {
    let at = rng.below(1_000_000) as u32;
    match rng.below(3) {
        0 => Damage::FlipBit { at, bit: rng.below(8) as u8 },
        1 => Damage::ZeroSector { at },
        _ => Damage::Truncate { at },
    }
}

impl Attack for Rot {
    fn name(&self) -> &'static str {
        "N10"
    }

    fn about(&self) -> &'static str {
        "bit flip, zeroed sector, truncation in log, rows, snapshot; directory rolled back"
    }

    fn needs(&self) -> Vec<Act> {
        let damages = [Damage::FlipBit { at: 1, bit: 0 }, Damage::ZeroSector { at: 1 }, Damage::Truncate { at: 1 }];
        let mut needs: Vec<Act> = damages.map(|damage| Act::Corrupt { node: 1, part: Part::Log, damage }).into();
        needs.extend([Act::Provision(9), Act::Retire(9)]);
        needs
    }

    fn wants(&self) -> Vec<Act> {
        let mut wants: Vec<Act> =
            PARTS.map(|part| Act::Corrupt { node: 1, part, damage: Damage::FlipBit { at: 1, bit: 0 } }).into();
        wants.extend([Act::KeepDirectory(1), Act::RestoreDirectory(1)]);
        wants
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(12)
    }

    fn is_destroying(&self) -> bool {
        true
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let node = scene.victim(rng);
            let rolled_back = scene.can_all(&[Act::KeepDirectory(1), Act::RestoreDirectory(1)]) && rng.per_mille(150);
            if rolled_back {
                return watch::roll_back(context, self.name(), node, rng).await;
            }
            let damage = damage(rng);
            let possible: Vec<Part> =
                PARTS.into_iter().filter(|part| scene.can(&Act::Corrupt { node, part: *part, damage })).collect();
            let part = *rng.pick(&possible).ok_or("no file can be spoiled here")?;
            spoil(context, self.name(), node, part, damage, rng).await
        })
    }
}

async fn spoil(
    context: &Context,
    name: &str,
    node: NodeId,
    part: Part,
    damage: Damage,
    rng: &mut Rng,
) -> Result<(), String> {
    if part == Part::Snapshot {
        // There is one only where it was asked for.
        recover::insist(context, &[], Errand::Snapshot(node)).await?;
    }
    let down = if rng.per_mille(500) { Act::Kill(only(node)) } else { Act::PowerLoss(only(node)) };
    let hold = rng.between(0, 1_000);
    context.wait_for_load().await;
    let targets = context.targets(&[node]).await;
    let detail = format!("{down:?}, {damage:?}, hold {hold} ms, start");
    context.act(down).await?;
    let part = spoil_what_is_there(context, node, part, damage).await?;
    let word = match damage {
        Damage::FlipBit { .. } => "bit flipped",
        Damage::ZeroSector { .. } => "sector zeroed",
        Damage::Truncate { .. } => "cut short",
    };
    // Noted only now, when it is known which file there was to spoil.
    let fault = context.begin_fault(name, &format!("{word}, {part:?}"), targets, &detail);
    context.pause(Duration::from_millis(hold)).await;
    context.act(Act::Start(node)).await?;
    match recover::comes_back(context, node).await? {
        Return::Back => {}
        Return::Refused if part == Part::Log => {
            recover::replace(context, node, rng).await?;
        }
        Return::Refused => {
            return Err(format!(
                "node {node} did not come back by itself after damage to {part:?}, which is disposable"
            ));
        }
    }
    context.end_fault(fault);
    Ok(())
}

/// Spoils the part, or, where the node has no such file yet, one that every node has. Says which.
async fn spoil_what_is_there(context: &Context, node: NodeId, part: Part, damage: Damage) -> Result<Part, String> {
    let mut last = String::new();
    for part in [part, Part::RowsJournal, Part::Log] {
        match context.act(Act::Corrupt { node, part, damage }).await {
            Ok(()) => return Ok(part),
            Err(error) => last = error,
        }
    }
    Err(last)
}
