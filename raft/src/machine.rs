//! The engine's view of the state machine.
//!
//! For the engine, the rows *are* the snapshot: they are durable by themselves, so "building a snapshot" is making them
//! durable up to a point and writing that down, and a follower that needs one is served from a live view. Snapshot
//! files are made for operators only, see `snapshot`.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use agora_planted::{self as planted, Bug};
use agora_storage::rows::Rows;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend};

use crate::applier::{ApplyHandle, Batch};
use crate::counters::Counters;
use crate::log_store::LogHandle;
use crate::snapshot::{Prepared, Source, Template};
use crate::types::{LogId, MemberAddr, StoredMembership, TermId, TypeConfig, log_id};
use crate::world::Exec;

/// Most bytes of entries handed to the apply thread at once.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most entries handed to the apply thread at once.
const BATCH_COUNT_MAX: usize = 1024;

type EngineMeta = SnapshotMeta<TermId, u64, MemberAddr>;
type EngineSnapshot = Snapshot<TermId, u64, MemberAddr, SnapshotHandle>;

/// What the engine passes around as "the snapshot".
pub(crate) enum SnapshotHandle {
    /// A view of our rows, to be sent.
    Source(Box<Source>),
    /// A complete generation made from what was received, to be made current.
    Prepared(Box<Prepared>),
}

/// Implements the engine's trait over the apply thread.
pub(crate) struct Machine {
    pub(crate) apply: ApplyHandle,
    pub(crate) syncer: Syncer,
    pub(crate) template: Arc<Template>,
    /// Rows wait for this log to be on disk; `None` in the engine's own test suite, which applies without a log.
    pub(crate) behind: Option<LogHandle>,
}

/// Makes rows durable and writes down how far.
#[derive(Clone)]
pub(crate) struct Syncer {
    pub(crate) log: LogHandle,
    pub(crate) exec: Exec,
    pub(crate) counters: Arc<Counters>,
}

impl Syncer {
    /// Syncs rows of a generation; returns the index that is durable and written down as such.
    pub(crate) async fn sync(&self, generation: u64, rows: Arc<dyn Rows>) -> io::Result<u64> {
        let index = match self.exec {
            _ if planted::is(Bug::PurgeBeyondSnapshot) => Ok(rows.applied()),
            Exec::Inline => rows.sync(),
            Exec::Threads => tokio::task::spawn_blocking(move || rows.sync()).await.map_err(io::Error::other)?,
        }
        .map_err(io::Error::other)?;
        self.log.rows_synced(generation, index).await?;
        self.counters.row_syncs.one();
        Ok(index)
    }
}

impl Syncer {
    /// The same where Raft's runtime is already gone: the caller's thread waits for the disk.
    pub(crate) async fn sync_blocking(&self, generation: u64, rows: Arc<dyn Rows>) -> io::Result<u64> {
        self.sync(generation, rows).await
    }
}

impl Machine {
    fn membership(&self) -> StoredMembership {
        self.apply.with_progress(|progress| {
            StoredMembership::new(progress.membership.at.map(log_id), progress.members.to_membership())
        })
    }

    fn applied(&self) -> Option<LogId> {
        self.apply.with_progress(|progress| (progress.applied.index > 0).then(|| log_id(progress.applied)))
    }

    async fn hand(&self, batch: &mut Batch) -> io::Result<()> {
        let Some((last, _)) = batch.last() else { return Ok(()) };
        if let Some(log) = &self.behind {
            log.wait_durable(last.log_id.index + 1).await;
        }
        self.apply.apply(std::mem::take(batch)).await.map_err(io::Error::other)
    }

    fn meta(&self, source: &Source) -> EngineMeta {
        let header = source.header();
        let at = agora_storage::meta::LogPosition { index: header.index, term: header.term };
        let last_log_id = (at.index > 0).then(|| log_id(at));
        EngineMeta { last_log_id, last_membership: self.membership() }
    }

    fn source(&self) -> io::Result<(EngineMeta, Source)> {
        let source = Source::open(self.apply.rows(), &self.template).map_err(io::Error::other)?;
        Ok((self.meta(&source), source))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied(), self.membership()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Batch::new();
        let mut bytes = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(sealed) = &entry.payload {
                bytes += sealed.0.len();
            }
            batch.push((entry, responder));
            if bytes >= BATCH_BYTES_MAX || batch.len() >= BATCH_COUNT_MAX {
                self.hand(&mut batch).await?;
                bytes = 0;
            }
        }
        self.hand(&mut batch).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { source: Some(self.source()), syncer: self.syncer.clone(), rows: self.apply.rows().current() }
    }

    async fn install_snapshot(&mut self, meta: &EngineMeta, snapshot: SnapshotHandle) -> Result<(), io::Error> {
        let prepared = match snapshot {
            SnapshotHandle::Prepared(prepared) => prepared,
            #[cfg(test)]
            SnapshotHandle::Source(source) => Box::new(self.template.prepare_from(*source).map_err(io::Error::other)?),
            #[cfg(not(test))]
            SnapshotHandle::Source(_) => return Err(io::Error::other("a view of our own rows cannot be installed")),
        };
        let header = prepared.header().clone();
        let (at, expected) = (header.index, meta.last_log_id.map_or(0, |at| at.index + 1));
        if at != expected {
            return Err(io::Error::other(format!("received rows stand at index {at}, the engine expects {expected}")));
        }
        let generation = prepared.generation();
        // The one commit that makes the generation current; before it a restart finds the old one, after it the new.
        self.syncer.log.rows_synced(generation, at).await?;
        self.apply.replace(generation, prepared.keep()).await.map_err(io::Error::other)?;
        self.syncer.counters.snapshots_installed.one();
        tracing::info!(index = at, generation, "a snapshot was installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<EngineSnapshot>, io::Error> {
        let (meta, source) = self.source()?;
        // Rows that nothing was applied to are no snapshot: the log has everything.
        let snapshot = SnapshotHandle::Source(Box::new(source));
        Ok(meta.last_log_id.is_some().then_some(EngineSnapshot { meta, snapshot }))
    }
}

/// Makes the rows durable up to where they stood when it was made.
pub(crate) struct Builder {
    source: Option<io::Result<(EngineMeta, Source)>>,
    syncer: Syncer,
    rows: (u64, Arc<dyn Rows>),
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<EngineSnapshot, io::Error> {
        let taken = self.source.take().unwrap_or_else(|| Err(io::Error::other("a builder builds once")));
        let (meta, source) = taken?;
        let (generation, rows) = self.rows.clone();
        let durable = self.syncer.sync(generation, rows).await?;
        let index = source.header().index;
        assert!(durable >= index, "rows are durable up to {durable}, below the index {index} they stood at before");
        Ok(EngineSnapshot { meta, snapshot: SnapshotHandle::Source(Box::new(source)) })
    }
}

/// Ids of all voters, in whichever set.
pub(crate) fn voters(membership: &crate::types::Membership) -> BTreeSet<u64> {
    membership.voter_ids().collect()
}
