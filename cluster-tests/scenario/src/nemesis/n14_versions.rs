//! N14: mixed versions: nodes are stopped and started again one after the other, some of them with another binary.
//!
//! The product has no earlier release to mix with. Where the harness was given a second binary (the same source built in
//! another profile, or a later commit), it is used; without one the round is what it says, a rolling restart: every node
//! leaves in order, the leader handing over, while clients go on.

use std::time::Duration;

use super::{Attack, Done, Turn, recover, round::begin};
use crate::cluster::Act;

/// N14.
pub struct Versions;

impl Attack for Versions {
    fn name(&self) -> &'static str {
        "N14"
    }

    fn about(&self) -> &'static str {
        "rolling restart, with another binary where there is one"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::Stop(1), Act::Start(1)]
    }

    fn wants(&self) -> Vec<Act> {
        vec![Act::SwapBinary(1)]
    }

    fn longest(&self) -> Duration {
        Duration::from_secs(8)
    }

    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            let mut order = scene.voters.clone();
            rng.shuffle(&mut order);
            // The leader first on even turns; otherwise it may well be met twice.
            let first = scene.victim(rng);
            order.sort_by_key(|node| *node != first);
            for node in order {
                let swaps = scene.can(&Act::SwapBinary(node)) && rng.per_mille(600);
                let kind = if swaps { "restart with the other binary" } else { "restart in a row" };
                let down = rng.between(0, 400);
                let detail = format!("node {node}, down {down} ms");
                let fault = begin(context, self.name(), kind, &[node], &detail).await;
                if swaps {
                    context.act(Act::SwapBinary(node)).await?;
                }
                context.act(Act::Stop(node)).await?;
                context.pause(Duration::from_millis(down)).await;
                context.act(Act::Start(node)).await?;
                let back = recover::recover(context, true).await?;
                context.end_fault(fault);
                if back != recover::Recovery::Whole {
                    return Ok(());
                }
            }
            Ok(())
        })
    }
}
