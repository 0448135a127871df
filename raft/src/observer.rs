//! Watches the engine and tells the rest of the node: who leads, whether a majority answers, who the members are.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};

use crate::core::{Core, metrics};
use crate::pulse::Observed;
use crate::status::Role;
use crate::types::{LogId, MembershipRecord, TypeConfig, position};

/// The engine is looked at so often even when it reports no change of role.
const INTERVAL: Duration = Duration::from_millis(20);
/// The status is published so often even when nothing happens.
const STATUS_INTERVAL_MS: u64 = 200;

/// Runs until the engine stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut server = core.raft.server_metrics();
    let mut last = Last::default();
    loop {
        // Either way the engine is looked at; a closed channel shows in its metrics too.
        let changed = tokio::time::timeout(INTERVAL, server.changed()).await;
        if core.pulse.stopping() && (matches!(changed, Ok(Err(_))) || metrics(&core.raft).running_state.is_err()) {
            return;
        }
        if matches!(changed, Ok(Err(_))) {
            core.fatal.report("the consensus engine stopped unexpectedly; start the node again");
            core.journal.set_leading(None);
            return;
        }
        let metrics = metrics(&core.raft);
        if let Err(fatal) = &metrics.running_state {
            core.fatal.report(format!("the consensus engine failed: {fatal}"));
            core.journal.set_leading(None);
            return;
        }
        last.look(&core, &metrics);
    }
}

#[derive(Default)]
struct Last {
    leading: Option<u64>,
    members_at: Option<Option<LogId>>,
    members: MembershipRecord,
    shown: Option<(Role, u64, Option<u64>)>,
    shown_ms: u64,
}

impl Last {
    fn look(&mut self, core: &Core, metrics: &RaftMetrics<TypeConfig>) {
        let own = core.who.node();
        let members_at = *metrics.membership_config.log_id();
        let members_changed = self.members_at != Some(members_at);
        if members_changed {
            self.members_at = Some(members_at);
            self.members = MembershipRecord::new(metrics.membership_config.membership(), &Default::default());
            for (id, addr) in &self.members.nodes {
                core.links.set_addr(*id, &addr.peer_addr);
            }
            if !self.members.nodes.is_empty() {
                core.links.retain(|node| self.members.nodes.contains_key(&node));
                core.log.saw_members(&self.members.nodes);
            }
        }
        let leading = (metrics.state == ServerState::Leader && metrics.current_leader == Some(own))
            .then_some(metrics.current_term);
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        };
        let committed = metrics.local_committed.as_ref().map(position).unwrap_or_default();
        {
            let mut observed = core.pulse.observed.write();
            *observed = Observed {
                role,
                term: metrics.current_term,
                leader: metrics.current_leader,
                last_log: metrics.last_log_index.map_or(0, |index| index + 1),
                committed,
                members: if members_changed { self.members.clone() } else { std::mem::take(&mut observed.members) },
                members_committed: metrics.membership_config == metrics.committed_membership_config,
            };
        }
        core.pulse.set_leading(leading);
        let age_ms = metrics.last_quorum_acked.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        let alone = {
            let mut voters = metrics.membership_config.membership().voter_ids();
            voters.next() == Some(own) && voters.next().is_none()
        };
        core.pulse.set_quorum(age_ms, alone);
        if self.leading != leading {
            self.leading = leading;
            if let Some(term) = leading {
                core.counters.elections_won.one();
                tracing::info!(term, "this node leads");
            }
            core.journal.set_leading(leading);
        }
        if let Some(matched) = metrics.replication.as_ref() {
            for (node, at) in matched.iter().filter(|(node, _)| **node != own) {
                if let Some(at) = at {
                    core.log.saw_log(*node, position(at), committed);
                }
            }
        }
        self.show(core, members_changed);
    }

    fn show(&mut self, core: &Core, force: bool) {
        let shown = {
            let observed = core.pulse.observed.read();
            (observed.role, observed.term, observed.leader)
        };
        let now = core.pulse.now_ms();
        if force || self.shown != Some(shown) || now.saturating_sub(self.shown_ms) >= STATUS_INTERVAL_MS {
            self.shown = Some(shown);
            self.shown_ms = now;
            core.publish_status();
        }
    }
}
