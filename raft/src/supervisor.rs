//! Looks after a running node: stalled threads, damaged rows, clocks, diverged states, checkpoints, the size of the log.
//!
//! Each concern is a small loop of its own on Raft's runtime. What cannot be put right here ends the process through
//! `Fatal`: a supervisor outside starts it anew, which is always better than a node that is half there.

use std::sync::Arc;
use std::time::Duration;

use agora_storage::entry::CheckpointBody;
use futures_util::future::join_all;

use crate::core::Core;
use crate::divergence::{Verdict, compare};
use crate::hand_over::hand_over;
use crate::membership::{Joint, reconcile};
use crate::status::{Health, Role};
use crate::transport::Lane;
use crate::transport::frame::Body;
use crate::transport::link::after;
use crate::transport::wire::{self, Ping, kind};

/// How often the threads' gauges are read.
const STALL_INTERVAL: Duration = Duration::from_millis(50);
/// How often peers are pinged.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// A peer that does not answer a ping in time has its connection dialled anew.
const PING_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A calls connection on which nothing comes back for so long is dialled anew.
const CALLS_PING_TIMEOUT: Duration = Duration::from_millis(5_000);
/// A clock is measured only by round trips shorter than this, in milliseconds.
const CLOCK_ROUND_TRIP_MAX_MS: u64 = 250;
/// How often the log's size and the rows' age are looked at.
const HOUSE_INTERVAL: Duration = Duration::from_millis(500);
/// So many times its bound the log may grow while peers need it to catch up; then it is purged whoever needs it.
const LOG_HARD_FACTOR: u64 = 2;
/// How often it is looked whether a checkpoint is due.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(50);
/// Two states that differ wait so long for the word of a third node, in milliseconds.
const UNDECIDED_MS: u64 = 1_000;
/// Peers are given so long to hear that this node's rows are damaged, so that no two of them end at once, in milliseconds.
const DAMAGE_TOLD_MS: u64 = 1_000;
/// Pause before a failed hand-over is tried again.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(500);

/// A thread that does work handed to it: when did it last move while work waited.
struct Gauge {
    done: u64,
    since_ms: u64,
}

impl Gauge {
    /// Milliseconds for which work has waited without any being done.
    fn stuck_ms(&mut self, (handed, done): (u64, u64), now_ms: u64) -> u64 {
        if done != self.done || handed <= done {
            self.done = done;
            self.since_ms = now_ms;
        }
        now_ms.saturating_sub(self.since_ms)
    }
}

/// A leader whose log or apply thread does not move gives way; a node that stays stuck ends.
pub(crate) async fn watch_stalls(core: Arc<Core>) {
    let start = core.pulse.now_ms();
    let mut log = Gauge { done: 0, since_ms: start };
    let mut apply = Gauge { done: 0, since_ms: start };
    let mut damaged_since = None;
    loop {
        tokio::time::sleep(STALL_INTERVAL).await;
        let now = core.pulse.now_ms();
        let stuck = [("log", log.stuck_ms(core.log.gauge(), now)), ("apply", apply.stuck_ms(core.apply.gauge(), now))];
        let (name, stuck_ms) = if stuck[0].1 >= stuck[1].1 { stuck[0] } else { stuck[1] };
        // What can be read is served until the others know of it and can do without this node.
        let damage = core.apply.rows().rows().damage();
        core.pulse.set_damaged(damage.is_some());
        let since = damage.as_ref().map(|_| *damaged_since.get_or_insert(now));
        let is_told = since.is_some_and(|since| now.saturating_sub(since) >= DAMAGE_TOLD_MS);
        if let Some(damage) = damage.filter(|_| is_told && others_suffice(&core)) {
            if core.pulse.leading().is_none() {
                core.fatal.report(format!("its rows are damaged: {damage}"));
                return;
            }
            if hand_over(&core, None, "the rows are damaged").await.is_err() {
                tokio::time::sleep(HAND_OVER_PAUSE).await;
            }
        }
        let stalled = stuck_ms >= core.config.stall_hand_over_ms;
        core.pulse.set_stalled(stalled);
        if stuck_ms >= core.config.stall_exit_ms {
            core.fatal
                .report(format!("the {name} thread has not moved for {stuck_ms} ms with work waiting: check the disk"));
            return;
        }
        if stalled && core.pulse.leading().is_some() {
            tracing::warn!(thread = name, stuck_ms, "a thread does not move: giving leadership away");
            if hand_over(&core, None, "a thread does not move").await.is_err() {
                tokio::time::sleep(HAND_OVER_PAUSE).await;
            }
        }
    }
}

/// Whether those who vote beside this node are a majority that can go on, and none of them with damaged rows is to end
/// first: one after the other, the lowest id first.
fn others_suffice(core: &Core) -> bool {
    let status = core.build_status();
    let voters = || status.members.iter().filter(|member| member.role != Role::Learner);
    let others = || voters().filter(|member| member.id != status.node);
    let before_this = others().any(|member| member.health == Health::Damaged && member.id < status.node);
    let up = others().filter(|member| matches!(member.health, Health::Ok | Health::Damaged)).count();
    up > voters().count() / 2 && !before_this
}

/// Exchanges reports with all members; compares clocks and states.
pub(crate) async fn ping_peers(core: Arc<Core>) {
    let mut undecided_since = None;
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        let own = core.who.node();
        let peers: Vec<u64> =
            core.pulse.observed.read().members.nodes.keys().copied().filter(|node| *node != own).collect();
        join_all(peers.iter().map(|peer| ping(&core, *peer))).await;
        core.heard.lock().retain(|node, _| peers.contains(node));
        judge_clock(&core);
        judge_states(&core, &mut undecided_since);
        judge_levels(&core, &peers);
        if core.pulse.leading().is_some() && !core.pulse.clock_leads() {
            // A failure is logged there, and tried again with the next round.
            let _ = hand_over(&core, None, "the clock is off").await;
        }
    }
}

/// Exchanges reports with one peer; true when it answered.
pub(crate) async fn ping(core: &Core, peer: u64) -> bool {
    let Ok(Ok(link)) = tokio::time::timeout(PING_TIMEOUT, core.links.get(peer, Lane::Control)).await else {
        return false;
    };
    let sent_ms = core.pulse.now_ms();
    let ask = Ping { report: core.report() };
    let answer = link.call(kind::PING, wire::encode(&ask), after(PING_TIMEOUT)).await;
    let pong = match answer {
        Ok((kind::PONG, body)) => wire::decode::<Ping>(&body).ok().filter(|pong| pong.report.node == peer),
        Ok(_) | Err(_) => None,
    };
    let Some(pong) = pong else {
        link.close();
        return false;
    };
    let round_trip_ms = core.pulse.now_ms().saturating_sub(sent_ms);
    let offset_ms = (round_trip_ms <= CLOCK_ROUND_TRIP_MAX_MS).then(|| {
        let middle = core.world.clock.wall_ms() - i64::try_from(round_trip_ms / 2).unwrap_or(0);
        pong.report.wall_ms - middle
    });
    core.hear(pong.report, offset_ms);
    true
}

/// Notices calls connections whose other end is silently gone.
pub(crate) async fn ping_calls(core: Arc<Core>) {
    loop {
        tokio::time::sleep(CALLS_PING_TIMEOUT / 2).await;
        let links = core.links.open(Lane::Calls);
        join_all(links.iter().map(|link| async move {
            if link.call(kind::PING, Body::default(), after(CALLS_PING_TIMEOUT)).await.is_err() {
                link.close();
            }
        }))
        .await;
    }
}

/// Compares our clock with the middle of the voters' clocks.
fn judge_clock(core: &Core) {
    let own = core.who.node();
    let voters: std::collections::BTreeSet<u64> =
        core.pulse.observed.read().members.configs.iter().flatten().copied().collect();
    let now = core.pulse.now_ms();
    let mut offsets = vec![0];
    for (node, heard) in core.heard.lock().iter() {
        let fresh = now.saturating_sub(heard.at_ms) <= core.silence_max_ms();
        if *node != own && voters.contains(node) && fresh {
            offsets.extend(heard.offset_ms);
        }
    }
    let (trusted, leads) = clock_verdict(offsets, core.config.clock_skew_max_ms);
    if core.pulse.clock_leads() && !leads {
        tracing::warn!(
            "the clock of this node is too far from the middle of the voters' clocks: it does not lead; set the clock"
        );
    }
    core.pulse.set_clock(trusted, leads);
    core.raft.runtime_config().elect(leads);
}

/// From the offsets of all clocks seen (ours is 0): may decisions depend on time, and may this node lead.
fn clock_verdict(mut offsets: Vec<i64>, skew_max_ms: i64) -> (bool, bool) {
    offsets.sort_unstable();
    let count = offsets.len();
    let middle = if count % 2 == 1 { offsets[count / 2] } else { (offsets[count / 2 - 1] + offsets[count / 2]) / 2 };
    let near = middle.abs() <= skew_max_ms;
    match count {
        // Alone there is nothing to compare with; that is for a cluster of one to accept.
        1 => (true, true),
        // Two that disagree: nobody knows who is right, so nobody is told to go, and nothing may depend on time.
        2 => (offsets[1] - offsets[0] <= skew_max_ms, true),
        _ => (near, near),
    }
}

/// New entries may use a feature level as soon as every member was heard to know it.
fn judge_levels(core: &Core, peers: &[u64]) {
    let heard = core.heard.lock();
    let levels: Option<Vec<u32>> =
        peers.iter().map(|peer| heard.get(peer).map(|heard| heard.report.feature_level)).collect();
    let common = levels.map(|levels| levels.into_iter().fold(core.config.feature_level, u32::min));
    drop(heard);
    if let Some(common) = common {
        core.journal.set_feature_level(common);
    }
}

/// Compares states at checkpoints with what the peers report.
fn judge_states(core: &Core, undecided_since: &mut Option<u64>) {
    let own = core.checkpoints();
    let heard: Vec<_> =
        core.heard.lock().iter().map(|(node, heard)| (*node, heard.report.checkpoints.clone())).collect();
    let verdict = compare(&own, &heard);
    if !matches!(verdict, Verdict::Undecided(_)) {
        *undecided_since = None;
    }
    match verdict {
        Verdict::Equal => {}
        Verdict::OthersDiffer(why) => {
            tracing::error!(why, "another node has another state; it must stop");
            if core.pulse.clear_diverged() {
                tracing::info!("a majority has the state of this node: writes are taken again");
            }
        }
        Verdict::WeDiffer(why) => core.fatal.report(format!(
            "{why}: this node is the odd one out; remove its data directory and let it join under a new id"
        )),
        Verdict::Undecided(why) => {
            let now = core.pulse.now_ms();
            let waited_ms = now.saturating_sub(*undecided_since.get_or_insert(now));
            // This is for good, and a third node that is a moment behind with its report would have decided it: without
            // waiting for it, one bad follower could take a sound leader's writes away.
            if waited_ms >= UNDECIDED_MS && core.pulse.diverged().is_none() {
                tracing::error!(
                    why,
                    "two nodes have different states: writes are stopped on both; stop each, run `agora verify` on it, and \
                     let the one that fails join anew under a new id"
                );
                core.pulse.set_diverged(why);
                core.journal.end_reign("states differ");
            }
        }
    }
}

/// Proposes checkpoints while this node leads.
pub(crate) async fn checkpoints(core: Arc<Core>) {
    let mut last_ms = core.pulse.now_ms();
    loop {
        tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        if core.journal.reign_number().is_none() {
            continue;
        }
        let now = core.pulse.now_ms();
        let body = core.apply.with_progress(|progress| {
            let due = progress.since_checkpoint >= core.config.checkpoint_entries
                || progress.since_checkpoint > 0 && now.saturating_sub(last_ms) >= core.config.checkpoint_ms;
            due.then_some(CheckpointBody {
                index: progress.applied.index,
                chain_head: progress.state.chain_head,
                digest: progress.state.digest,
            })
        });
        if let Some(body) = body {
            last_ms = now;
            core.journal.want_checkpoint(body);
        }
    }
}

/// Keeps the rows durable, the log bounded, and the disk free of what nobody needs.
pub(crate) async fn keep_house(core: Arc<Core>) {
    let mut written = core.counters.log_bytes_written.get();
    let mut synced_ms = core.pulse.now_ms();
    let mut joint = Joint::default();
    loop {
        tokio::time::sleep(HOUSE_INTERVAL).await;
        core.apply.rows().remove_retired(&*core.world.disk, HOUSE_INTERVAL);
        reconcile(&core, &mut joint).await;
        let applied = core.apply.with_progress(|progress| progress.applied.index);
        let synced = core.log.synced_index();
        let now = core.pulse.now_ms();
        let grown = core.counters.log_bytes_written.get().saturating_sub(written);
        let old = now.saturating_sub(synced_ms) >= core.config.snapshot_age_ms;
        if applied > synced && (grown >= core.config.snapshot_log_bytes || old) {
            written = core.counters.log_bytes_written.get();
            synced_ms = now;
            // For the engine this is "building a snapshot": it makes the rows durable and writes down how far.
            if core.raft.trigger().snapshot().await.is_err() {
                continue;
            }
        }
        let log = Kept {
            bytes: core.counters.log_bytes.get(),
            bytes_max: core.config.log_bytes_max,
            purged: core.log.purged().index,
            applied,
            synced,
        };
        if let Some(upto) = purge_target(&log, core.sender.log_needed_after())
            && core.raft.trigger().purge_log(upto - 1).await.is_ok()
        {
            tracing::debug!(upto, "purging the log");
            if log.bytes > log.hard_max() {
                cut_off_readers(&core, upto);
            }
        }
    }
}

/// Ends the append connections of peers that still read what must go: the engine purges nothing that a peer is being
/// sent, so one that reads more slowly than the log grows would let it grow until the disk is full. They get a snapshot.
fn cut_off_readers(core: &Core, upto: u64) {
    let matched = crate::core::metrics(&core.raft).replication.unwrap_or_default();
    for (node, at) in matched.iter().filter(|(node, _)| **node != core.who.node()) {
        if at.as_ref().map_or(0, |at| at.index + 1) < upto && core.links.close(*node, Lane::Append) {
            tracing::warn!(node, upto, "a peer reads the log more slowly than it grows: it is left a snapshot");
        }
    }
}

/// The log as it is, for the decision how much of it may go.
struct Kept {
    bytes: u64,
    bytes_max: u64,
    purged: u64,
    applied: u64,
    synced: u64,
}

impl Kept {
    /// Beyond the bound, and up to here, the log is kept for peers that need it to catch up.
    fn hard_max(&self) -> u64 {
        self.bytes_max.saturating_mul(LOG_HARD_FACTOR)
    }
}

/// Up to where the log may go so that about three quarters of its bound are left; never beyond what the rows hold for
/// sure, and, unless it is far too large, never beyond what a peer needs.
fn purge_target(log: &Kept, needed_after: Option<u64>) -> Option<u64> {
    let Kept { bytes, bytes_max, purged, applied, synced } = *log;
    let entries = applied.saturating_sub(purged);
    if bytes <= bytes_max || entries == 0 {
        return None;
    }
    let excess = bytes - bytes_max / 4 * 3;
    // Entries are taken to be equally large; what is left too much goes with the next look.
    let count = (u128::from(entries) * u128::from(excess) / u128::from(bytes)) as u64;
    let needed_after = needed_after.filter(|_| bytes <= log.hard_max()).unwrap_or(u64::MAX);
    let upto = (purged + count.max(1)).min(synced).min(needed_after);
    (upto > purged).then_some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_stuck_only_while_work_waits() {
        let mut gauge = Gauge { done: 0, since_ms: 0 };
        assert_eq!(gauge.stuck_ms((1, 0), 400), 400);
        assert_eq!(gauge.stuck_ms((2, 1), 500), 0);
        assert_eq!(gauge.stuck_ms((2, 1), 1_200), 700);
        assert_eq!(gauge.stuck_ms((2, 2), 9_000), 0);
        assert_eq!(gauge.stuck_ms((3, 2), 9_100), 100);
    }

    #[test]
    fn only_a_clock_far_from_the_middle_may_not_lead() {
        assert_eq!(clock_verdict(vec![0], 1_000), (true, true));
        assert_eq!(clock_verdict(vec![0, 999], 1_000), (true, true));
        assert_eq!(clock_verdict(vec![0, 1_500], 1_000), (false, true));
        assert_eq!(clock_verdict(vec![0, 86_400_000, 10], 1_000), (true, true));
        assert_eq!(clock_verdict(vec![0, -5_000, -5_100], 1_000), (false, false));
    }

    #[test]
    fn the_log_is_purged_by_bytes_and_never_beyond_the_synced_rows() {
        let target = |bytes, purged, applied, synced, needed| {
            purge_target(&Kept { bytes, bytes_max: 100, purged, applied, synced }, needed)
        };
        assert_eq!(target(100, 0, 50, 50, None), None);
        assert_eq!(target(200, 0, 1_000, 1_000, None), Some(625));
        assert_eq!(target(200, 0, 1_000, 10, None), Some(10));
        assert_eq!(target(200, 10, 1_000, 10, None), None);
        assert_eq!(target(200, 10, 10, 10, None), None);
        // What follows a snapshot that is on its way stays, unless the log is far too large.
        assert_eq!(target(200, 0, 1_000, 1_000, Some(300)), Some(300));
        assert_eq!(target(200, 300, 1_000, 1_000, Some(300)), None);
        assert_eq!(target(201, 300, 1_000, 1_000, Some(300)), Some(738));
    }
}
