//! N18: two to four of the other attacks at once; then only a majority is healed and must serve; then all.
//!
//! Attacks that destroy are not laid over others: a log is destroyed only while all others are whole.

use std::{sync::Arc, time::Duration};

use agora_history::NodeId;

use super::{Attack, Done, Round, Scene, Turn, all, missing, recover, round};
use crate::{cluster::Act, rng::Rng, schedule::Context};

/// N18.
pub struct Overlap;

impl Attack for Overlap {
    fn name(&self) -> &'static str {
        "N18"
    }

    fn about(&self) -> &'static str {
        "two to four attacks at once, then a majority healed, then all"
    }

    fn needs(&self) -> Vec<Act> {
        ["N1", "N5"].iter().filter_map(|name| super::named(name)).flat_map(|attack| attack.needs()).collect()
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let rounds = choose(context, rng, scene);
            let majority: Vec<NodeId> = {
                let mut voters = scene.voters.clone();
                rng.shuffle(&mut voters);
                voters.truncate(scene.majority());
                voters
            };
            let (hold, alone) = (rng.between(300, 1_500), rng.between(500, 2_000));
            let names: Vec<String> = rounds.iter().map(|(name, round)| format!("{name} {}", round.kind)).collect();
            let details: Vec<String> =
                rounds.iter().map(|(name, round)| format!("{name}: {}", round.detail())).collect();
            let detail = format!("{}; then {majority:?} healed for {alone} ms", details.join("; "));
            let hit: Vec<NodeId> = rounds
                .iter()
                .flat_map(|(_, round)| round.targets.iter().copied())
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect();
            let fault = round::begin(context, self.name(), &names.join(" + "), &hit, &detail).await;
            for (_, round) in &rounds {
                round::take(context, &round.strike).await?;
                context.pause(Duration::from_millis(rng.between(0, 300))).await;
            }
            context.pause(Duration::from_millis(hold)).await;
            recover::mend(context, &majority).await?;
            recover::led(context, &majority).await?;
            context.pause(Duration::from_millis(alone)).await;
            recover::mend_all(context).await?;
            context.end_fault(fault);
            Ok(())
        })
    }
}

/// Two to four rounds of different attacks, all planned upon the same sight of the cluster.
fn choose(context: &Context, rng: &mut Rng, scene: &Scene) -> Vec<(&'static str, Round)> {
    let mut attacks: Vec<Arc<dyn Attack>> = all()
        .into_iter()
        .filter(|attack| !attack.is_destroying() && missing(&**attack, &**context.cluster()).0.is_empty())
        .collect();
    rng.shuffle(&mut attacks);
    let count = rng.between(2, 4) as usize;
    let mut rounds = Vec::new();
    for attack in attacks {
        if rounds.len() == count {
            break;
        }
        // Each round of the others may hit someone else: the turn is drawn.
        let mut sight = scene.clone();
        sight.turn += rng.below(2);
        if let Some(round) = attack.plan(rng, &sight) {
            rounds.push((attack.name(), round));
        }
    }
    rounds
}
