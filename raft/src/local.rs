//! What the transport's listening side asks of the node it belongs to.

use std::sync::Arc;

use openraft::storage::{Snapshot, SnapshotMeta};

use crate::core::Core;
use crate::machine::SnapshotHandle;
use crate::membership;
use crate::snapshot::{Prepared, serve};
use crate::status::NodeReport;
use crate::transport::server::Local;
use crate::transport::wire::{Barrier, Manage, Managed, ReadIndex};
use crate::types::{MembershipRecord, StoredMembership, VoteRecord, log_id};
use crate::world::{BoxFuture, NetStream};

/// The node, as its server sees it.
pub(crate) struct LocalNode {
    core: Arc<Core>,
}

impl LocalNode {
    pub(crate) fn new(core: Arc<Core>) -> LocalNode {
        LocalNode { core }
    }
}

impl Local for LocalNode {
    fn report(&self) -> NodeReport {
        self.core.report()
    }

    fn heard(&self, report: NodeReport) {
        self.core.hear(report, None);
    }

    fn saw_term(&self, node: u64, term: u64) {
        self.core.log.saw_term(node, term);
    }

    fn read_index(&self, barrier: Barrier) -> BoxFuture<'static, ReadIndex> {
        let barriers = self.core.barriers.clone();
        Box::pin(async move { barriers.as_leader(barrier).await })
    }

    fn manage(&self, change: Manage) -> BoxFuture<'static, Managed> {
        Box::pin(membership::as_leader(self.core.clone(), change))
    }

    fn serve_snapshot(&self, stream: Box<dyn NetStream>, from: u64) -> BoxFuture<'static, ()> {
        let core = self.core.clone();
        Box::pin(async move {
            let offer = |vote: VoteRecord, prepared: Prepared| -> BoxFuture<'static, Result<VoteRecord, String>> {
                Box::pin(install(core.clone(), vote, prepared))
            };
            let own_vote = || core.log.vote();
            let served = serve(stream, from, &core.sender, core.apply.rows(), &core.template, own_vote, &offer).await;
            if let Err(error) = served {
                tracing::warn!(from, %error, "a snapshot transfer failed");
            }
        })
    }
}

/// Offers a finished generation to the engine as the leader's snapshot.
async fn install(core: Arc<Core>, vote: VoteRecord, prepared: Prepared) -> Result<VoteRecord, String> {
    let header = prepared.header();
    let at = agora_storage::meta::LogPosition { index: header.index, term: header.term };
    let members: MembershipRecord =
        agora_storage::codec::decode(&header.membership.bytes).map_err(|error| error.to_string())?;
    let last_membership = StoredMembership::new(header.membership.at.map(log_id), members.to_membership());
    let meta = SnapshotMeta { last_log_id: Some(log_id(at)), last_membership };
    let snapshot = Snapshot { meta, snapshot: SnapshotHandle::Prepared(Box::new(prepared)) };
    let response =
        core.raft.install_full_snapshot(vote.to_vote(), snapshot).await.map_err(|error| error.to_string())?;
    Ok((&response.vote).into())
}
