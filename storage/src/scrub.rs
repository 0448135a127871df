//! Counting and summing all rows again, to know that nothing is wrong.
//!
//! The digest in [`crate::meta::StateHeader`] is kept up by differences. This is the other way to get it: from the rows
//! themselves. Where the two differ, a row was lost, changed on disk, or written past the batch.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    batch::row_hash,
    codec,
    error::{Error, Result},
    keyspaces::Keyspace,
    meta::{self, StateHeader},
    rows::RowView,
};

/// What a scan of all rows found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubReport {
    /// Applied index of the view.
    pub applied: u64,
    /// Rows outside Meta.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Their digest.
    pub digest: u128,
    /// Rows and digest of each keyspace, Meta included.
    pub keyspaces: BTreeMap<Keyspace, (u64, u128)>,
}

/// Reads all rows of a view, in constant memory.
pub fn scrub(view: &dyn RowView) -> Result<ScrubReport> {
    let mut report = ScrubReport { applied: view.applied(), ..ScrubReport::default() };
    for keyspace in view.keyspaces() {
        let (mut rows, mut digest) = (0, 0u128);
        for row in view.scan(keyspace, Bound::Unbounded, Bound::Unbounded, false) {
            let (key, value) = row?;
            rows += 1;
            digest = digest.wrapping_add(row_hash(keyspace, &key, &value));
            if keyspace != Keyspace::Meta {
                report.bytes += (key.len() + value.len()) as u64;
            }
        }
        report.keyspaces.insert(keyspace, (rows, digest));
        if keyspace != Keyspace::Meta {
            report.rows += rows;
            report.digest = report.digest.wrapping_add(digest);
        }
    }
    Ok(report)
}

/// Reads all rows and compares with the [`StateHeader`] kept beside them.
pub fn verify(view: &dyn RowView) -> Result<ScrubReport> {
    let report = scrub(view)?;
    let stored = view.get(Keyspace::Meta, meta::STATE)?.ok_or_else(|| Error::corrupt("rows without a state header"))?;
    let state: StateHeader = codec::decode(&stored)?;
    if state.digest != report.digest {
        return Err(Error::corrupt(format!(
            "rows at index {} have digest {:032x}, {:032x} expected",
            report.applied, report.digest, state.digest
        )));
    }
    for (bucket, expected) in &state.outcome_buckets {
        let found = report.keyspaces.get(&Keyspace::Outcomes(*bucket)).map_or(0, |(_, digest)| *digest);
        if found != *expected {
            return Err(Error::corrupt(format!(
                "outcomes bucket {bucket} at index {} has digest {found:032x}, {expected:032x} expected",
                report.applied
            )));
        }
    }
    Ok(report)
}
