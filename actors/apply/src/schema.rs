//! Which rows there are, and how their keys are made of domain ids.
//!
//! Entities live under (kind, id). Everything else is either a fact in the feed, stored once, or an index onto one of
//! the two. Numbers of index kinds are part of the row format: append only.

use agora_domain::{Entity, Kind, OrderId, OrderStatus, SkuId, id::AccountId};
use agora_storage::{Keyspace, Result, codec, key, rows::Rows};

/// Version of every row this release writes.
pub const ROW_VERSION: u8 = 1;

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
/// (sku, log index, sub) → nothing: the facts that moved a SKU's stock.
pub const MOVEMENTS: u8 = 3;
/// (due in ms, order) → nothing: orders that are CREATED, by the time they expire.
pub const TIMERS: u8 = 4;

/// Key of [`ORDERS_BY_ACCOUNT`].
pub fn order_by_account(account: AccountId, order: OrderId) -> Vec<u8> {
    key::index_entry(ORDERS_BY_ACCOUNT, &account.0.0.to_be_bytes(), &order.0.0.to_be_bytes())
}

/// Key of [`ORDERS_BY_STATUS`].
pub fn order_by_status(status: OrderStatus, order: OrderId) -> Vec<u8> {
    key::index_entry(ORDERS_BY_STATUS, &[status as u8], &order.0.0.to_be_bytes())
}

/// Key of [`MOVEMENTS`].
pub fn movement(sku: SkuId, index: u64, sub: u32) -> Vec<u8> {
    key::index_entry(MOVEMENTS, &sku.0.0.to_be_bytes(), &key::feed(index, sub))
}

/// Key of [`TIMERS`]. Times before 1970 sort as 1970.
pub fn timer(due_ms: i64, order: OrderId) -> Vec<u8> {
    key::index_entry(TIMERS, &due_ms.max(0).to_be_bytes(), &order.0.0.to_be_bytes())
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

/// Reads an entity's committed state.
///
/// # Errors
/// Storage errors, and those of [`decode`].
pub fn load<E: Entity>(rows: &dyn Rows, id: u128) -> Result<Option<E>> {
    rows.get(Keyspace::Entity, &entity(E::KIND, id))?.map(|bytes| decode(&bytes)).transpose()
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
        assert_eq!(timer(1_000, order), expected);
        assert_eq!(parse_timer(&expected), Some((1_000, 0x0102)));
        assert_eq!(order_by_status(OrderStatus::Paid, order)[..2], [ORDERS_BY_STATUS, 2]);
        assert_eq!(tail_id(&order_by_account(AccountId(Uid(9)), order)), Some(0x0102));
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
