//! Accounting for an opened store: are all keyspaces there, do they stand at one index, is nothing missing below.

use std::collections::BTreeMap;

use fjall::{AbstractTree, Database, KeyspaceCreateOptions, Readable};

use super::{BUCKETS_VERSION, Handle, bucket_name, engine, read_marker};
use crate::{
    codec,
    error::{Error, Result},
    journal_cut,
    keyspaces::{Keyspace, Keyspaces},
    row_format::{self, BUCKETS, MARKER},
};

/// What looking at all keyspaces found.
pub(super) enum Accounted {
    All { handles: Keyspaces<Handle>, version: u64 },
    Lost(String),
}

/// Finds all keyspaces, deletes leftovers, and checks that all of them stand at one index with nothing missing below.
pub(super) fn account_for(database: &Database, journals: &journal_cut::Journals) -> Result<Accounted> {
    let lost = |reason: String| Ok(Accounted::Lost(reason));
    let mut names: Vec<String> = database.list_keyspace_names().iter().map(|name| name.to_string()).collect();
    let mut take = |name: &str| -> Result<Option<fjall::Keyspace>> {
        let Some(position) = names.iter().position(|other| other == name) else {
            return Ok(None);
        };
        names.swap_remove(position);
        database.keyspace(name, KeyspaceCreateOptions::default).map(Some).map_err(engine)
    };
    let mut fixed = Vec::with_capacity(4);
    for name in ["meta", "entity", "index", "feed"] {
        match take(name)? {
            Some(keyspace) => fixed.push(Handle::new(keyspace, 0)),
            None => return lost(format!("keyspace {name} is missing")),
        }
    }
    let snapshot = database.snapshot();
    let listed = match snapshot.get(&fixed[0].keyspace, BUCKETS) {
        Ok(Some(list)) => codec::unframe::<Vec<(u32, u64)>>(BUCKETS_VERSION, &list),
        Ok(None) => Err(Error::corrupt("the list of outcomes buckets is missing")),
        Err(error) => Err(engine(error)),
    };
    let listed = match listed {
        Ok(listed) => listed,
        Err(error @ Error::Corrupt(_)) => return lost(error.to_string()),
        Err(error) => return Err(error),
    };
    let mut outcomes = BTreeMap::new();
    for (bucket, created) in listed {
        let name = bucket_name(bucket, created);
        match take(&name)? {
            Some(keyspace) => outcomes.insert(bucket, Handle::new(keyspace, created)),
            None => return lost(format!("keyspace {name} is missing")),
        };
    }
    let [meta, entity, index, feed] =
        <[Handle; 4]>::try_from(fixed).unwrap_or_else(|_| unreachable!("four names give four handles"));
    let handles = Keyspaces { meta, entity, index, feed, outcomes };
    let mut version = None;
    for (keyspace, handle) in handles.iter() {
        let marker = match read_marker(&snapshot, handle) {
            Ok(marker) => marker,
            Err(error @ Error::Corrupt(_)) => return lost(format!("{keyspace:?}: {error}")),
            Err(error) => return Err(error),
        };
        let expected = *version.get_or_insert(marker);
        if marker != expected {
            return lost(format!(
                "keyspace {keyspace:?} stands at index {}, Meta at {}",
                marker.saturating_sub(1),
                expected.saturating_sub(1)
            ));
        }
        if let Some(reason) = missing_below_journals(keyspace, handle, journals)? {
            return lost(reason);
        }
    }
    for leftover in names {
        tracing::info!(keyspace = %leftover, "leftover keyspace deleted");
        let keyspace = database.keyspace(&leftover, KeyspaceCreateOptions::default).map_err(engine)?;
        database.delete_keyspace(keyspace).map_err(engine)?;
    }
    Ok(Accounted::All { handles, version: version.unwrap_or(0) })
}

/// Checks that the sorted files of a keyspace reach up to where the journals begin, and not further than fjall takes them
/// to reach: a journal that was removed would otherwise leave a hole below markers that agree.
fn missing_below_journals(
    keyspace: Keyspace,
    handle: &Handle,
    journals: &journal_cut::Journals,
) -> Result<Option<String>> {
    let Some((sequence, first)) = journals.first else {
        return Ok(None);
    };
    if first == 0 || handle.created >= first {
        return Ok(None);
    }
    let tree = &handle.keyspace.tree;
    let hole = |below: u64| {
        Ok(Some(format!(
            "keyspace {keyspace:?} has files up to index {}, and not what follows up to index {}, where the journals begin",
            below.saturating_sub(1),
            first - 1
        )))
    };
    let Some(persisted) = tree.get_highest_persisted_seqno() else {
        return hole(0);
    };
    // What came from the journals lies above; this is the newest marker in the files.
    let below = tree
        .get(MARKER, persisted + 1)
        .map_err(|error| engine(error.into()))?
        .and_then(|stored| row_format::parse_marker(&stored))
        .unwrap_or(0);
    // fjall skips batches of the journal up to the persisted sequence number.
    let skipped = sequence <= persisted;
    let fits = match below {
        // Filled by an ingest that the journals no longer hold: it was checked when it was finished.
        0 => !skipped,
        below => skipped == (below >= first) && below + 1 >= first,
    };
    if fits { Ok(None) } else { hole(below) }
}
