//! Which rows there are, and how their keys are made of domain ids.
//!
//! Entities live under (kind, id). Everything else is either a fact in the feed, stored once, or an index onto one of
//! the two. Numbers of index kinds are part of the row format: append only.

use agora_domain::{
    Entity, Kind, OrderId, OrderStatus, SkuId,
    fact::{Fact, FactRow},
    id::AccountId,
};
use agora_storage::{Keyspace, Result, codec, key, rows::Rows};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of every row this release writes. Version 1 had a row of the feed per transaction and one of
/// [`MOVEMENTS`] per movement; there was no release that wrote it.
pub const ROW_VERSION: u8 = 2;

/// Width of one bucket of idempotency outcomes. A key must be known for 24 hours; with buckets of six hours, five of
/// them are looked through and a key lives 24 to 30 hours. Smaller buckets would be looked through more often than
/// they save room.
pub const OUTCOME_BUCKET_MS: i64 = 6 * 60 * 60 * 1000;
/// Buckets kept: the present one and those that may hold a key younger than 24 hours.
pub const OUTCOME_BUCKETS_MAX: usize = 5;

/// (account, order) → nothing: an account's orders, oldest first.
pub const ORDERS_BY_ACCOUNT: u8 = 1;
/// (status, order) → nothing: orders of a status, oldest first; of every status but CREATED, which [`TIMERS`] tells.
pub const ORDERS_BY_STATUS: u8 = 2;
/// (sku, log index, sub) → [`Moves`]: the facts that moved a SKU's stock, [`MOVES_MAX`] of them in a row, under the
/// place of the first. The latest ones, too few for a row, are in the SKU's own row.
pub const MOVEMENTS: u8 = 3;

/// Movements in one row of [`MOVEMENTS`].
pub const MOVES_MAX: usize = 16;
/// Bytes of facts in one row of the feed, about: rows longer than 2 KiB are stored in parts.
pub const FACTS_BYTES_MAX: usize = 1_900;
/// (due in ms, order) → nothing: orders that are CREATED, by the time they expire.
pub const TIMERS: u8 = 4;

/// Longest key of an index row, in bytes.
const INDEX_KEY_BYTES_MAX: usize = 40;

/// Key of an index row, without an allocation of its own. Sorts as its bytes do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexKey {
    /// Zero behind the key, so that the order of keys of one length is that of these bytes; the lengths of one index
    /// are all alike, and indexes differ in the first byte.
    bytes: [u8; INDEX_KEY_BYTES_MAX],
    length: u8,
}

impl IndexKey {
    fn new(kind: u8, prefix: &[u8], suffix: &[u8]) -> Self {
        let mut bytes = [0; INDEX_KEY_BYTES_MAX];
        bytes[0] = kind;
        let (from, to) = (1 + prefix.len(), 1 + prefix.len() + suffix.len());
        bytes[1..from].copy_from_slice(prefix);
        bytes[from..to].copy_from_slice(suffix);
        Self { bytes, length: to as u8 }
    }
}

impl std::ops::Deref for IndexKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Key of [`ORDERS_BY_ACCOUNT`].
pub fn order_by_account(account: AccountId, order: OrderId) -> IndexKey {
    IndexKey::new(ORDERS_BY_ACCOUNT, &account.0.0.to_be_bytes(), &order.0.0.to_be_bytes())
}

/// Key of [`ORDERS_BY_STATUS`].
pub fn order_by_status(status: OrderStatus, order: OrderId) -> IndexKey {
    IndexKey::new(ORDERS_BY_STATUS, &[status as u8], &order.0.0.to_be_bytes())
}

/// Key of [`MOVEMENTS`].
pub fn movement(sku: SkuId, index: u64, sub: u32) -> IndexKey {
    IndexKey::new(MOVEMENTS, &sku.0.0.to_be_bytes(), &key::feed(index, sub))
}

/// Key of [`TIMERS`]. Times before 1970 sort as 1970.
pub fn timer(due_ms: i64, order: OrderId) -> IndexKey {
    IndexKey::new(TIMERS, &due_ms.max(0).to_be_bytes(), &order.0.0.to_be_bytes())
}

/// The reverse of [`timer`].
pub fn parse_timer(key: &[u8]) -> Option<(i64, u128)> {
    let due = i64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some((due, tail_id(key)?))
}

/// The id that an index key ends with.
pub fn tail_id(key: &[u8]) -> Option<u128> {
    let at = key.len().checked_sub(16)?;
    Some(u128::from_be_bytes(key[at..].try_into().ok()?))
}

/// Key of an entity's row.
pub fn entity(kind: Kind, id: u128) -> [u8; 17] {
    key::entity(kind as u8, id)
}

/// Bucket of idempotency outcomes for a log time.
pub fn outcome_bucket(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / OUTCOME_BUCKET_MS).unwrap_or(u32::MAX)
}

/// Decodes a row.
///
/// # Errors
/// A damaged row, or one written by a newer release.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    codec::unframe(ROW_VERSION, bytes)
}

/// Encodes a row.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    codec::frame(ROW_VERSION, value)
}

/// Places of facts in the feed, oldest first: each entry's index as the distance from the one before, and the sub.
///
/// A SKU's row ends with the latest of its movements. The row is written anyhow when its stock moves, so a movement costs
/// a few bytes in it, and a row of its own only once in [`MOVES_MAX`] times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves(Vec<(u64, u32)>);

impl Moves {
    /// Adds one, later than all others.
    pub(crate) fn push(&mut self, index: u64, sub: u32) {
        let last: u64 = self.0.iter().map(|(distance, _)| distance).sum();
        self.0.push((index.saturating_sub(last), sub));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// (log index, sub) of each.
    pub fn places(&self) -> impl Iterator<Item = (u64, u32)> {
        self.0.iter().scan(0u64, |at, (distance, sub)| {
            *at = at.saturating_add(*distance);
            Some((*at, *sub))
        })
    }
}

/// Writes an entity's row: its state, and behind it a SKU's latest movements if there are any.
pub(crate) fn encode_entity<E: Entity>(state: &E, moves: &Moves, out: &mut Vec<u8>) {
    codec::frame_with(ROW_VERSION, out, |out| {
        codec::encode_into(state, out);
        if moves.len() > 0 {
            codec::encode_into(moves, out);
        }
    });
}

/// Reads an entity's row, with the latest movements of a SKU.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_entity<E: DeserializeOwned>(bytes: &[u8]) -> Result<(E, Moves)> {
    let (state, rest) = codec::take(codec::payload(ROW_VERSION, bytes)?)?;
    Ok((state, if rest.is_empty() { Moves::default() } else { codec::decode(rest)? }))
}

/// Writes a row of the feed: the encoded [`FactRow`]s one behind the other, as a list of them.
pub(crate) fn encode_facts(count: usize, facts: &[u8], out: &mut Vec<u8>) {
    codec::frame_with(ROW_VERSION, out, |out| {
        codec::encode_into(&(count as u64), out);
        out.extend_from_slice(facts);
    });
}

/// Reads a row of the feed whose first event has the sub `first_sub`: its events, each with its sub.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_facts(bytes: &[u8], first_sub: u32) -> Result<Vec<(u32, Fact)>> {
    let mut facts = Vec::new();
    for row in decode::<Vec<FactRow>>(bytes)? {
        facts.extend(row.facts(first_sub + facts.len() as u32));
    }
    Ok(facts)
}

/// Reads an entity's committed state.
///
/// # Errors
/// Storage errors, and those of [`decode`].
pub fn load<E: Entity>(rows: &dyn Rows, id: u128) -> Result<Option<E>> {
    let row = rows.get(Keyspace::Entity, &entity(E::KIND, id))?;
    row.map(|bytes| decode_entity(&bytes).map(|(state, _)| state)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agora_domain::Uid;

    #[test]
    fn keys_are_golden() {
        let order = OrderId(Uid(0x0102));
        let mut expected = vec![TIMERS, 0, 0, 0, 0, 0, 0, 0x03, 0xe8];
        expected.extend([0; 14]);
        expected.extend([1, 2]);
        assert_eq!(*timer(1_000, order), *expected);
        assert_eq!(parse_timer(&expected), Some((1_000, 0x0102)));
        assert_eq!(order_by_status(OrderStatus::Paid, order)[..2], [ORDERS_BY_STATUS, 2]);
        assert_eq!(tail_id(&order_by_account(AccountId(Uid(9)), order)), Some(0x0102));
    }

    #[test]
    fn moves_are_golden() {
        let mut moves = Moves::default();
        for (index, sub) in [(1_000, 3), (1_000, 9), (1_002, 1)] {
            moves.push(index, sub);
        }
        assert_eq!(codec::encode(&moves), [3, 0xfb, 0xe8, 0x03, 3, 0, 9, 2, 1]);
        assert_eq!(moves.places().collect::<Vec<_>>(), [(1_000, 3), (1_000, 9), (1_002, 1)]);
    }

    #[test]
    fn timers_sort_by_time() {
        assert!(timer(999, OrderId(Uid(u128::MAX))) < timer(1_000, OrderId(Uid(0))));
    }

    #[test]
    fn buckets_change_every_six_hours() {
        assert_eq!(outcome_bucket(OUTCOME_BUCKET_MS - 1), 0);
        assert_eq!(outcome_bucket(OUTCOME_BUCKET_MS), 1);
        assert_eq!(outcome_bucket(-5), 0);
    }
}
