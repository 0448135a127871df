//! Giving leadership away.
//!
//! The engine's transfer has no way back: once told, a leader refuses writes and sends no heartbeats until someone else
//! leads. So the journal is drained first and the successor must be reachable and caught up; if none leads within a few
//! seconds, the process ends and its supervisor starts it anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::{Core, metrics};

/// How long the journal may take to run out.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait for a successor to be caught up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A node that stops anyway waits no longer than this for its successor, in milliseconds.
const STOPPING_TIMEOUT_MS: u64 = 1_500;
/// How often to look.
const STEP: Duration = Duration::from_millis(10);

/// The same for callers that may lose interest half way: a request whose client is gone is dropped. The hand-over is not:
/// the journal would stay closed, and nobody would see that a successor which was told does not lead.
pub(crate) async fn hand_over_to_the_end(
    core: &Arc<Core>,
    to: Option<u64>,
    reason: &'static str,
) -> Result<(), String> {
    let core = core.clone();
    let work = tokio::spawn(async move { hand_over(&core, to, reason).await });
    work.await.unwrap_or_else(|_| Err("the node stopped meanwhile".to_owned()))
}

/// Hands leadership to `to`, or to the voter that is furthest. `Ok` when another node leads, or this one did not. Not to
/// be dropped before it ends, unless the node ends with it.
pub(crate) async fn hand_over(core: &Arc<Core>, to: Option<u64>, reason: &str) -> Result<(), String> {
    let _one = core.handing.lock().await;
    let Some(term) = core.pulse.leading() else { return Ok(()) };
    tracing::info!(term, ?to, reason, "handing leadership over");
    core.pulse.set_handing_over(true);
    core.journal.set_draining(true);
    let result = try_hand_over(core, to, term).await;
    core.journal.set_draining(false);
    core.pulse.set_handing_over(false);
    if let Err(why) = &result {
        tracing::warn!(term, why, "leadership was not handed over");
    }
    result
}

async fn try_hand_over(core: &Arc<Core>, to: Option<u64>, term: u64) -> Result<(), String> {
    // A stalled node may never run out; what is left then is answered by whoever applies it.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, core.journal.drained()).await;
    let successor = find_successor(core, to).await?;
    core.journal.end_reign("leadership is handed over");
    core.raft.trigger().transfer_leader(successor).await.map_err(|error| error.to_string())?;
    let stopping = core.pulse.stopping();
    let patience_ms = if stopping {
        core.config.transfer_timeout_ms.min(STOPPING_TIMEOUT_MS)
    } else {
        core.config.transfer_timeout_ms
    };
    let deadline = Instant::now() + Duration::from_millis(patience_ms);
    while Instant::now() < deadline {
        let metrics = metrics(&core.raft);
        if metrics.current_term > term && metrics.current_leader.is_some() {
            return Ok(());
        }
        if metrics.running_state.is_err() {
            return Err("the consensus engine stopped meanwhile".to_owned());
        }
        tokio::time::sleep(STEP).await;
    }
    let message = format!("leadership was handed to node {successor}, but no successor was seen in {patience_ms} ms");
    if !stopping {
        core.fatal.report(message.clone());
    }
    Err(message)
}

async fn find_successor(core: &Core, to: Option<u64>) -> Result<u64, String> {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let last = metrics(&core.raft).last_log_index.map_or(0, |index| index + 1);
        let live = core.live_voters();
        let best = live
            .iter()
            .filter(|(node, _)| to.is_none_or(|to| to == **node))
            .max_by_key(|(_, matched)| **matched)
            .map(|(node, matched)| (*node, *matched));
        match best {
            Some((node, matched)) if matched >= last => return Ok(node),
            _ if Instant::now() < deadline => tokio::time::sleep(STEP).await,
            Some((node, matched)) => {
                return Err(format!("node {node} is behind: it holds the log up to {matched} of {last}"));
            }
            None => return Err("no other voter answers".to_owned()),
        }
    }
}
