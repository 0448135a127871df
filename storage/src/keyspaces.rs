//! The schema: which keyspaces there are, what is in them, and how their keys look.
//!
//! Few keyspaces, because each memtable flush costs, and because every keyspace gets a marker row in every batch.

use serde::{Deserialize, Serialize};

/// One ordered map of the row store. The order of the variants is the order of rows in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Keyspace {
    /// See [`Keyspaces::meta`].
    Meta,
    /// See [`Keyspaces::entity`].
    Entity,
    /// See [`Keyspaces::index`].
    Index,
    /// See [`Keyspaces::feed`].
    Feed,
    /// See [`Keyspaces::outcomes`].
    Outcomes(u32),
}

impl Keyspace {
    /// The keyspaces that always exist, in order.
    pub const FIXED: [Keyspace; 4] = [Keyspace::Meta, Keyspace::Entity, Keyspace::Index, Keyspace::Feed];

    /// The byte that names this keyspace in digests and snapshots.
    pub const fn tag(self) -> u8 {
        match self {
            Keyspace::Meta => 0,
            Keyspace::Entity => 1,
            Keyspace::Index => 2,
            Keyspace::Feed => 3,
            Keyspace::Outcomes(_) => 4,
        }
    }

    /// The bucket number, for outcomes.
    pub const fn bucket(self) -> Option<u32> {
        match self {
            Keyspace::Outcomes(bucket) => Some(bucket),
            _ => None,
        }
    }

    /// The reverse of [`Keyspace::tag`] and [`Keyspace::bucket`]; `None` for a tag this release does not know.
    pub const fn from_tag(tag: u8, bucket: u32) -> Option<Keyspace> {
        match tag {
            0 => Some(Keyspace::Meta),
            1 => Some(Keyspace::Entity),
            2 => Some(Keyspace::Index),
            3 => Some(Keyspace::Feed),
            4 => Some(Keyspace::Outcomes(bucket)),
            _ => None,
        }
    }
}

/// The schema of the row store: one field per keyspace, with the layout of its keys. `T` is whatever a store keeps per
/// keyspace (a handle, a map). Numbers in keys are big-endian, so that bytes sort like values.
#[derive(Clone, Debug, Default)]
pub struct Keyspaces<T> {
    /// `name (ascii)` → a few rows about the rows themselves; names in [`crate::meta`]. Not part of the state digest.
    pub meta: T,
    /// `kind u8 ‖ id u128` → the state of one entity (and of other things with an id), see [`crate::key::entity`].
    /// Changed only with the old row in hand.
    pub entity: T,
    /// `kind u8 ‖ prefix (fixed length per kind) ‖ suffix` → small value or nothing, see [`crate::key::index_entry`].
    /// Secondary indexes, timers, movements: what is scanned in order.
    pub index: T,
    /// `log index u64 ‖ n u32` → one event with what was before and after, see [`crate::key::feed`]. Insert-once.
    pub feed: T,
    /// Per bucket of time: `hash u128` → the outcome of one idempotency key, see [`crate::key::outcome`]. Insert-once;
    /// a bucket is dropped whole. The field holds all buckets that exist.
    pub outcomes: std::collections::BTreeMap<u32, T>,
}

impl<T> Keyspaces<T> {
    /// What is kept for a keyspace; `None` for a bucket that does not exist.
    pub fn get(&self, keyspace: Keyspace) -> Option<&T> {
        match keyspace {
            Keyspace::Meta => Some(&self.meta),
            Keyspace::Entity => Some(&self.entity),
            Keyspace::Index => Some(&self.index),
            Keyspace::Feed => Some(&self.feed),
            Keyspace::Outcomes(bucket) => self.outcomes.get(&bucket),
        }
    }

    /// All keyspaces that exist, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Keyspace, &T)> {
        [
            (Keyspace::Meta, &self.meta),
            (Keyspace::Entity, &self.entity),
            (Keyspace::Index, &self.index),
            (Keyspace::Feed, &self.feed),
        ]
        .into_iter()
        .chain(self.outcomes.iter().map(|(bucket, kept)| (Keyspace::Outcomes(*bucket), kept)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_golden_and_sort_like_keyspaces() {
        let all = [
            Keyspace::Meta,
            Keyspace::Entity,
            Keyspace::Index,
            Keyspace::Feed,
            Keyspace::Outcomes(0),
            Keyspace::Outcomes(7),
        ];
        assert!(all.is_sorted());
        assert_eq!(all.map(Keyspace::tag), [0, 1, 2, 3, 4, 4]);
        for keyspace in all {
            let bucket = keyspace.bucket().unwrap_or(0);
            assert_eq!(Keyspace::from_tag(keyspace.tag(), bucket), Some(keyspace));
        }
        assert_eq!(Keyspace::from_tag(5, 0), None);
        assert_eq!(crate::codec::encode(&Keyspace::Outcomes(300)), [4, 0xfb, 0x2c, 1]);
    }
}
