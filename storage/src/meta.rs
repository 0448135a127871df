//! The rows about the rows: keys of the Meta keyspace that the layers above share, and the types of their values.
//!
//! All three are written by every batch, so they are exact for the index the rows stand at. Values are
//! [`crate::codec`] encodings; they are part of the snapshot and not of the state digest.

use serde::{Deserialize, Serialize};

/// Key of the applied position; value: [`LogPosition`].
pub const APPLIED: &[u8] = b"applied";
/// Key of the membership in force; value: [`StoredMembership`].
pub const MEMBERSHIP: &[u8] = b"membership";
/// Key of the replicated state's summary; value: [`StateHeader`].
pub const STATE: &[u8] = b"state";

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// Index of the entry.
    pub index: u64,
    /// Term in which it was proposed.
    pub term: u64,
}

/// The membership as of the applied index. The bytes are made and read by the raft crate alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoredMembership {
    /// Where in the log the membership stands; `None` before the first one.
    pub at: Option<LogPosition>,
    /// The membership, opaque here.
    pub bytes: Vec<u8>,
}

/// The summary of the replicated state, equal on every node at equal applied index.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StateHeader {
    /// Head of the audit chain.
    pub chain_head: [u8; 32],
    /// Wrapping sum of the hashes of all rows outside Meta, see [`crate::batch::row_hash`].
    pub digest: u128,
    /// Log time of the last entry, milliseconds since 1970.
    pub log_time_ms: i64,
    /// Number of the reign in force.
    pub reign: u64,
    /// Feature level by which the last entry was applied.
    pub feature_level: u32,
    /// `(bucket, digest)` of each Outcomes keyspace that exists, ascending: what [`crate::Batch::drop_bucket`] needs.
    pub outcome_buckets: Vec<(u32, u128)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn golden_bytes_of_meta_values() {
        assert_eq!(codec::encode(&LogPosition { index: 5, term: 2 }), [5, 2]);
        assert_eq!(
            codec::encode(&StoredMembership { at: Some(LogPosition { index: 1, term: 1 }), bytes: vec![9] }),
            [1, 1, 1, 1, 9]
        );
        let mut expected = vec![7; 32];
        expected.extend([3, 4, 5, 6, 1, 8, 2]);
        assert_eq!(
            codec::encode(&StateHeader {
                chain_head: [7; 32],
                digest: 3,
                log_time_ms: 2,
                reign: 5,
                feature_level: 6,
                outcome_buckets: vec![(8, 2)],
            }),
            expected
        );
    }
}
