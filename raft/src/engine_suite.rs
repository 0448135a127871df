//! The engine's own test suite for storage, run over our log and machine.

use std::sync::Arc;

use agora_storage::entry::EntryHeader;
use agora_storage::meta::{self, LogPosition, StateHeader, StoredMembership};
use agora_storage::open::{Expect, NewIdentity, Opened};
use agora_storage::rows::Rows;
use agora_storage::{Batch, MemDisk, codec};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::applier::ApplyHandle;
use crate::apply::{Applied, Apply, ApplyError, Committed, Payload, StateDigest};
use crate::counters::Counters;
use crate::error::Fatal;
use crate::identity::Who;
use crate::journal::OnApplied;
use crate::log_store::{LogAdapter, LogHandle};
use crate::machine::{Machine, Syncer};
use crate::rows_cell::RowsCell;
use crate::snapshot::{Making, Template};
use crate::stages::AppliedTimes;
use crate::types::TypeConfig;
use crate::world::{Exec, World};

/// Writes meta rows only. The suite leaves out indexes, which the rows do not allow: those get empty batches.
struct Blank;

impl Apply for Blank {
    type Outcome = ();

    fn apply(&mut self, rows: &Arc<dyn Rows>, entry: Committed<'_>) -> Result<Applied<()>, ApplyError> {
        for index in rows.applied() + 1..entry.index {
            rows.commit(Batch::new(index)).map_err(ApplyError::new)?;
        }
        let at = LogPosition { index: entry.index, term: entry.term };
        let mut batch = Batch::new(entry.index);
        batch.put_meta(meta::APPLIED, codec::encode(&at));
        batch.put_meta(meta::STATE, codec::encode(&StateHeader::default()));
        if let Payload::Membership(bytes) = entry.payload {
            batch.put_meta(meta::MEMBERSHIP, codec::encode(&StoredMembership { at: Some(at), bytes: bytes.to_vec() }));
        }
        rows.commit(batch).map_err(ApplyError::new)?;
        Ok(Applied { outcomes: Vec::new(), reign: 0, state: StateDigest::default(), ends_reign: false })
    }

    fn reset(&mut self, _rows: &Arc<dyn Rows>) -> Result<(), ApplyError> {
        Ok(())
    }
}

struct Nobody;

impl OnApplied<()> for Nobody {
    fn on_applied(&self, _at: LogPosition, _header: Option<EntryHeader>, _applied: Applied<()>, _times: AppliedTimes) {}
    fn on_reset(&self, _log_time_ms: i64, _feature_level: u32) {}
    fn on_installed(&self) {}
}

struct Builder {
    exec: Exec,
}

impl StoreBuilder<TypeConfig, LogAdapter, Machine, MemDisk> for Builder {
    async fn build(&self) -> Result<(MemDisk, LogAdapter, Machine), StorageError<TypeConfig>> {
        let disk = MemDisk::new();
        let world = World { exec: self.exec, ..World::real(Arc::new(disk.clone())) };
        let expect = Expect { cluster: "suite".to_owned(), node: 1, nonce: 1 };
        let opened = agora_storage::open::open(&disk, &expect, Some(NewIdentity { lineage: 1 })).unwrap();
        let Opened::Ready { log, identity, rows } = opened else { panic!("a new directory has its rows") };
        let counters = Arc::new(Counters::default());
        let fatal = Fatal::new();
        let log = LogHandle::open(log, world.exec, world.clock.clone(), 4096, counters.clone(), fatal.clone()).unwrap();
        log.start().unwrap();
        let rows = Arc::new(RowsCell::new(identity.generation, rows));
        let clock = world.clock.clone();
        let (apply, _) =
            ApplyHandle::start(Blank, rows, world.exec, clock.clone(), counters.clone(), fatal, Arc::new(Nobody))
                .unwrap();
        let template = Arc::new(Template {
            who: Arc::new(Who::new(identity)),
            disk: world.disk.clone(),
            clock,
            exec: world.exec,
            making: parking_lot::Mutex::new(Making::default()),
        });
        let syncer = Syncer { log: log.clone(), exec: world.exec, counters };
        // The suite applies entries that it never appended.
        let machine = Machine { apply, syncer, template, behind: None };
        Ok((disk, LogAdapter::new(log), machine))
    }
}

#[tokio::test]
async fn the_engines_suite_passes_with_threads() {
    Suite::test_all(Builder { exec: Exec::Threads }).await.unwrap();
}

#[tokio::test]
async fn the_engines_suite_passes_inline() {
    Suite::test_all(Builder { exec: Exec::Inline }).await.unwrap();
}
