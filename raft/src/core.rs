//! The parts of a running node, held together; not generic over what is applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, Raft, RaftMetrics};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::applier::ApplyHandle;
use crate::barrier::Barriers;
use crate::committed::CommittedIndex;
use crate::config::RaftConfig;
use crate::counters::Counters;
use crate::error::Fatal;
use crate::identity::Who;
use crate::journal::Gate;
use crate::log_store::LogHandle;
use crate::machine::{Machine, Syncer};
use crate::pulse::Pulse;
use crate::snapshot::{Sender, Template};
use crate::status::{CheckpointReport, Health, MemberStatus, NodeReport, Role, Status};
use crate::transport::link::Links;
use crate::types::TypeConfig;
use crate::world::{BoxFuture, World};

/// What the supervisor asks of the journal, whatever its outcomes are.
pub(crate) trait JournalControl: Send + Sync + 'static {
    fn set_leading(&self, term: Option<u64>);
    fn end_reign(&self, reason: &str);
    fn set_draining(&self, draining: bool);
    fn drained(&self) -> BoxFuture<'_, ()>;
    fn want_checkpoint(&self, body: agora_storage::entry::CheckpointBody);
    fn reign_number(&self) -> Option<u64>;
    fn set_feature_level(&self, common: u32);
    fn stop(&self);
}

impl<O: Send + 'static> JournalControl for Gate<O> {
    fn set_leading(&self, term: Option<u64>) {
        Gate::set_leading(self, term);
    }

    fn end_reign(&self, reason: &str) {
        Gate::end_reign(self, reason);
    }

    fn set_draining(&self, draining: bool) {
        Gate::set_draining(self, draining);
    }

    fn drained(&self) -> BoxFuture<'_, ()> {
        Box::pin(Gate::drained(self))
    }

    fn want_checkpoint(&self, body: agora_storage::entry::CheckpointBody) {
        Gate::want_checkpoint(self, body);
    }

    fn reign_number(&self) -> Option<u64> {
        self.reign().map(|reign| reign.number)
    }

    fn set_feature_level(&self, common: u32) {
        Gate::set_feature_level(self, common);
    }

    fn stop(&self) {
        Gate::stop(self);
    }
}

/// The last report of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) report: NodeReport,
    /// Monotonic milliseconds when it came.
    pub(crate) at_ms: u64,
    /// Its wall clock minus ours, in milliseconds, when last measured by a short round trip.
    pub(crate) offset_ms: Option<i64>,
}

/// Everything a running node consists of.
pub(crate) struct Core {
    pub(crate) config: RaftConfig,
    pub(crate) world: World,
    pub(crate) who: Arc<Who>,
    pub(crate) http_addr: String,
    pub(crate) log: LogHandle,
    pub(crate) apply: ApplyHandle,
    pub(crate) raft: Raft<TypeConfig, Machine>,
    pub(crate) links: Arc<Links>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) committed: Arc<CommittedIndex>,
    pub(crate) journal: Arc<dyn JournalControl>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) fatal: Fatal,
    pub(crate) template: Arc<Template>,
    pub(crate) syncer: Syncer,
    pub(crate) sender: Arc<Sender>,
    pub(crate) heard: Mutex<BTreeMap<u64, Heard>>,
    pub(crate) status: watch::Sender<Arc<Status>>,
    /// Held while members are changed here.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Held while leadership is handed over.
    pub(crate) handing: tokio::sync::Mutex<()>,
    /// The index this node's rows must reach before anything is read from them; 0 unless they were begun anew.
    pub(crate) serves_from: u64,
}

/// A copy of what the engine last said; the channel is never held.
pub(crate) fn metrics(raft: &Raft<TypeConfig, Machine>) -> RaftMetrics<TypeConfig> {
    let receiver = raft.metrics();
    let metrics = receiver.borrow_watched();
    metrics.clone()
}

impl Core {
    /// A report older than this says that its node does not answer, in milliseconds.
    pub(crate) fn silence_max_ms(&self) -> u64 {
        3_000
    }

    /// What this node says of itself.
    pub(crate) fn report(&self) -> NodeReport {
        let (role, term, leader, committed) = {
            let observed = self.pulse.observed.read();
            (observed.role, observed.term, observed.leader, observed.committed.index)
        };
        NodeReport {
            node: self.who.node(),
            role,
            term,
            leader,
            last_log: self.log.durable_end(),
            committed,
            applied: self.apply.rows().applied(),
            version: self.config.version.clone(),
            http_addr: self.http_addr.clone(),
            feature_level: self.config.feature_level,
            health: self.pulse.health().0,
            wall_ms: self.world.clock.wall_ms(),
            checkpoints: self.checkpoints(),
        }
    }

    pub(crate) fn checkpoints(&self) -> Vec<CheckpointReport> {
        self.apply.with_progress(|progress| {
            let report = |at: &crate::applier::Checkpoint| CheckpointReport {
                index: at.index,
                chain_head: at.state.chain_head,
                digest: at.state.digest,
            };
            progress.checkpoints.iter().map(report).collect()
        })
    }

    /// Notes what a peer says; `offset_ms` when its clock was measured too.
    pub(crate) fn hear(&self, report: NodeReport, offset_ms: Option<i64>) {
        let mut heard = self.heard.lock();
        let at_ms = self.pulse.now_ms();
        let known = heard.get(&report.node).and_then(|known| known.offset_ms);
        let offset_ms = offset_ms.or(known);
        heard.insert(report.node, Heard { report, at_ms, offset_ms });
    }

    /// The cluster as this node sees it now.
    pub(crate) fn build_status(&self) -> Status {
        let observed = self.pulse.observed.read().clone();
        let own = self.report();
        let now = self.pulse.now_ms();
        let heard = self.heard.lock().clone();
        let (health, health_detail) = self.pulse.health();
        let voters: std::collections::BTreeSet<u64> = observed.members.configs.iter().flatten().copied().collect();
        let members = observed
            .members
            .nodes
            .iter()
            .map(|(id, addr)| {
                let (report, heard_ms) = if *id == own.node {
                    (Some(&own), Some(0))
                } else {
                    heard
                        .get(id)
                        .map_or((None, None), |heard| (Some(&heard.report), Some(now.saturating_sub(heard.at_ms))))
                };
                self.member_status(*id, addr, report, heard_ms, voters.contains(id), &observed)
            })
            .collect();
        Status {
            node: own.node,
            cluster: self.who.cluster().to_owned(),
            lineage: self.who.lineage(),
            incarnation: self.who.incarnation(),
            role: observed.role,
            term: observed.term,
            leader: observed.leader,
            reign: self.journal.reign_number(),
            last_log: observed.last_log,
            commit: observed.committed.index,
            applied: own.applied,
            purged: self.log.purged().index,
            quorum_age_ms: self.pulse.quorum_age_ms(),
            health,
            health_detail,
            clock_trusted: self.pulse.clock_trusted(),
            changing_members: observed.members.configs.len() > 1 || !observed.members_committed,
            members,
        }
    }

    fn member_status(
        &self,
        id: u64,
        addr: &crate::types::MemberAddr,
        report: Option<&NodeReport>,
        heard_ms: Option<u64>,
        votes: bool,
        observed: &crate::pulse::Observed,
    ) -> MemberStatus {
        let fresh = heard_ms.is_some_and(|age| age <= self.silence_max_ms());
        let own_word = report.map_or(Role::Follower, |report| report.role);
        let role = match (observed.leader == Some(id), votes, own_word) {
            (true, _, _) => Role::Leader,
            (false, false, _) => Role::Learner,
            (false, true, Role::Candidate) if fresh => Role::Candidate,
            (false, true, _) => Role::Follower,
        };
        let applied = report.map_or(0, |report| report.applied);
        MemberStatus {
            id,
            role,
            peer_addr: addr.peer_addr.clone(),
            http_addr: addr.http_addr.clone(),
            term: report.map_or(0, |report| report.term),
            last_log: report.map_or(0, |report| report.last_log.index),
            commit: report.map_or(0, |report| report.committed),
            applied,
            lag: observed.committed.index.saturating_sub(applied),
            version: report.map_or_else(String::new, |report| report.version.clone()),
            feature_level: report.map_or(0, |report| report.feature_level),
            health: if fresh {
                report.map_or(Health::Unreachable, |report| report.health)
            } else {
                Health::Unreachable
            },
            checkpoint: report.and_then(|report| report.checkpoints.last().copied()),
            heard_ms,
        }
    }

    /// Publishes the status for whoever watches.
    pub(crate) fn publish_status(&self) {
        self.status.send_replace(Arc::new(self.build_status()));
    }

    /// Voters other than this node that answered lately, with the index their log matches; only meaningful on a leader.
    pub(crate) fn live_voters(&self) -> BTreeMap<u64, u64> {
        let metrics = metrics(&self.raft);
        let own = self.who.node();
        let limit = std::time::Duration::from_millis(self.config.election_max_ms);
        let mut live = BTreeMap::new();
        for voter in metrics.membership_config.membership().voter_ids() {
            let acked = metrics.heartbeat.as_ref().and_then(|acked| acked.get(&voter).cloned().flatten());
            if voter == own || acked.is_none_or(|at| at.elapsed() > limit) {
                continue;
            }
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&voter).copied().flatten());
            live.insert(voter, matched.map_or(0, |at| at.index + 1));
        }
        live
    }
}
