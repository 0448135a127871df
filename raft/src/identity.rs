//! Who this node is, and the gate at which it says so and judges others.

use std::sync::Arc;

use agora_planted::{self as planted, Bug};
use agora_storage::log::{Identity, LogOp};
use agora_storage::meta::LogPosition;
use parking_lot::Mutex;

use crate::log_store::LogHandle;
use crate::transport::Lane;
use crate::transport::hello::{Gate, Hello};
use crate::types::MembershipRecord;

/// The facts about this node that do not change while it runs, save one: a joining node learns its lineage.
pub(crate) struct Who {
    identity: Mutex<Identity>,
    cluster: String,
    node: u64,
}

impl Who {
    pub(crate) fn new(identity: Identity) -> Who {
        Who { cluster: identity.cluster.clone(), node: identity.node, identity: Mutex::new(identity) }
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// 0 while a joining node does not know it.
    pub(crate) fn lineage(&self) -> u128 {
        self.identity.lock().lineage
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.identity.lock().incarnation
    }

    fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    fn set_lineage(&self, lineage: u128) {
        self.identity.lock().lineage = lineage;
    }
}

/// What the gate looks at besides the peer's own words.
pub(crate) trait Seen: Send + Sync + 'static {
    /// The members as applied here, and the last committed position.
    fn members(&self) -> (MembershipRecord, LogPosition);
}

/// Says who we are and judges others.
pub(crate) struct NodeGate {
    pub(crate) who: Arc<Who>,
    pub(crate) log: LogHandle,
    pub(crate) seen: Arc<dyn Seen>,
}

impl Gate for NodeGate {
    fn hello(&self, to: u64, lane: Lane) -> Hello {
        let identity = self.who.identity();
        Hello {
            cluster: identity.cluster,
            lineage: identity.lineage,
            node: identity.node,
            to,
            incarnation: identity.incarnation,
            nonce: identity.nonce,
            vote: self.log.vote(),
            last_log: self.log.durable_end(),
            lane,
        }
    }

    fn admit(&self, hello: &Hello) -> Result<(), String> {
        let own = self.who.identity();
        if hello.cluster != own.cluster {
            return Err(format!(
                "node {} belongs to cluster {:?}, this one to {:?}",
                hello.node, hello.cluster, own.cluster
            ));
        }
        if hello.node == own.node {
            return Err(format!("another node calls itself {} too: give each node an id of its own", own.node));
        }
        if hello.to != own.node {
            return Err(format!(
                "node {} wants node {}, this is node {}: check the addresses",
                hello.node, hello.to, own.node
            ));
        }
        if hello.lineage != own.lineage && own.lineage != 0 && !planted::is(Bug::LineageUnchecked) {
            return Err(format!(
                "node {} is of lineage {:032x}, this one of {:032x}: it survives from before a restore, or was made by another `create`",
                hello.node, hello.lineage, own.lineage
            ));
        }
        let (members, committed) = self.seen.members();
        let removed = members.used_ids.contains(&hello.node) && !members.nodes.contains_key(&hello.node);
        if removed && !planted::is(Bug::NodeIdReused) {
            return Err(format!("node {} was removed from the cluster: join under a new id", hello.node));
        }
        let is_voter = members.configs.iter().any(|config| config.contains(&hello.node));
        if is_voter && hello.last_log.index == 0 && !planted::is(Bug::WipedNodeVotes) {
            // A voter is given its log before it becomes one, and each first member writes its first entry itself.
            return Err(format!(
                "node {} votes in this cluster but has an empty log: it was wiped; join under a new id",
                hello.node
            ));
        }
        self.log.admit(hello, committed)?;
        if own.lineage == 0 && hello.lineage != 0 {
            self.adopt(hello.lineage);
        }
        Ok(())
    }
}

impl NodeGate {
    /// A joining node takes over the lineage of the first peer that proves itself, for good.
    fn adopt(&self, lineage: u128) {
        self.who.set_lineage(lineage);
        let identity = self.who.identity();
        tracing::info!(lineage = %format!("{lineage:032x}"), "joined a cluster");
        // In the queue before anything this peer will send; the log is written in order.
        self.log.write_later(vec![LogOp::Identity(identity)]);
    }
}

#[cfg(test)]
mod tests {
    use agora_storage::{Expect, MemDisk, NewIdentity, Opened};

    use super::*;
    use crate::counters::Counters;
    use crate::error::Fatal;
    use crate::world::{Exec, World};

    struct Alone;

    impl Seen for Alone {
        fn members(&self) -> (MembershipRecord, LogPosition) {
            (MembershipRecord::default(), LogPosition::default())
        }
    }

    fn gate(lineage: u128) -> NodeGate {
        let disk = MemDisk::new();
        let world = World { exec: Exec::Inline, ..World::real(Arc::new(disk.clone())) };
        let expect = Expect { cluster: "shop".to_owned(), node: 1, nonce: 1 };
        let opened = agora_storage::open::open(&disk, &expect, Some(NewIdentity { lineage })).unwrap();
        let Opened::Ready { log, identity, .. } = opened else { panic!("a new directory has its rows") };
        let (counters, fatal) = (Arc::new(Counters::default()), Fatal::new());
        let log = LogHandle::open(log, world.exec, world.clock.clone(), 4096, counters, fatal).unwrap();
        NodeGate { who: Arc::new(Who::new(identity)), log, seen: Arc::new(Alone) }
    }

    /// Its log is longer, its term later, and nobody remembers anything of it: only its history is not ours.
    #[test]
    fn a_node_of_another_lineage_is_refused_for_that_alone() {
        let stranger = |lineage| Hello {
            node: 2,
            to: 1,
            lineage,
            last_log: LogPosition { term: 9, index: 1_000 },
            ..gate(lineage).hello(1, Lane::Append)
        };
        assert_eq!(gate(1).admit(&stranger(1)), Ok(()));
        let refused = gate(1).admit(&stranger(2)).unwrap_err();
        assert!(refused.contains("is of lineage"), "{refused}");
    }
}
