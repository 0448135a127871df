//! N16: snapshots are taken in the middle of chaos, and an old copy of a node's directory is put back while the others
//! live.
//!
//! The product has no backup and no restore yet, so there is no restoring to an index. What there is: a snapshot file is
//! asked for while nodes die, and every file a node then lists must stand at an index it has applied and not be empty;
//! and a node that comes back with an old directory is refused under its id, so that it neither serves what is old nor
//! counts for entries it forgot.

use std::time::Duration;

use agora_history::NodeId;
use http::Method;
use serde_json::Value;

use super::{
    Attack, Done, Turn,
    recover::{self, Errand},
    round::begin,
    scene::only,
    watch,
};
use crate::{admin::ACT, cluster::Act, rng::Rng, schedule::Context};

/// N16.
pub struct OldCopy;

impl Attack for OldCopy {
    fn name(&self) -> &'static str {
        "N16"
    }

    fn about(&self) -> &'static str {
        "snapshot files during chaos, an old directory put back while others live"
    }

    fn needs(&self) -> Vec<Act> {
        vec![Act::KeepDirectory(1), Act::RestoreDirectory(1), Act::Kill(only(1)), Act::Provision(9), Act::Retire(9)]
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
            if rng.per_mille(500) {
                watch::roll_back(context, self.name(), node, rng).await
            } else {
                snapshot_during_chaos(context, node, rng).await
            }
        })
    }
}

async fn snapshot_during_chaos(context: &Context, node: NodeId, rng: &mut Rng) -> Result<(), String> {
    let (delay, down, power) = (1 << rng.below(8), rng.between(0, 800), rng.per_mille(500));
    let detail = format!("node {node} dies {delay} ms after it was asked, power {power}, down {down} ms");
    let fault = begin(context, "N16", "dies while it writes a snapshot file", &[node], &detail).await;
    let (_, died) = tokio::join!(biased; context.admin().snapshot(node), async {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        context.act(if power { Act::PowerLoss(only(node)) } else { Act::Kill(only(node)) }).await
    });
    died?;
    context.pause(Duration::from_millis(down)).await;
    context.act(Act::Start(node)).await?;
    context.end_fault(fault);
    if recover::recover(context, true).await? != recover::Recovery::Whole {
        return Ok(());
    }
    // Whatever is listed is whole, also of the attempt that was cut short.
    recover::insist(context, &[], Errand::Snapshot(node)).await?;
    let listed = context.admin().ask(node, Method::GET, "/api/v2/cluster/snapshots", None, ACT).await;
    let Ok((200, listed)) = listed else { return Ok(()) };
    let applied = context.admin().status(node).await.map_or(u64::MAX, |status| status.applied);
    let files = listed["data"].as_array().map_or(&[][..], Vec::as_slice);
    if files.is_empty() {
        return Err(format!("node {node} wrote a snapshot and lists none"));
    }
    let number = |file: &Value, name: &str| file[name].as_u64().unwrap_or(0);
    for file in files {
        if number(file, "bytes") == 0 || number(file, "index") == 0 || number(file, "index") > applied {
            return Err(format!("node {node} at index {applied} lists a snapshot that cannot be: {file}"));
        }
    }
    Ok(())
}
