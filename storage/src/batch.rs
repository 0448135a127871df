//! What one log entry changes in the rows: committed as one, or not at all.
//!
//! The batch also keeps the change of the **state digest**: a wrapping 128-bit sum over the hashes of all rows outside
//! Meta. A new row is added, an old one subtracted, so the sum depends neither on order nor on history, and two nodes
//! with equal rows have equal digests. That needs the old row of everything that is overwritten or removed; there are
//! therefore only two kinds of rows: those written once ([`Batch::insert`]), and those whose old value the caller has in
//! hand because it read it ([`Batch::replace`], [`Batch::remove`]). There is no third kind.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use crate::{key::KEY_BYTES_MAX, keyspaces::Keyspace, row_format};

/// Longest value of a row, in bytes. Values longer than 2 KiB are split inside the stores.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One change, as it lies in the batch. `old_bytes` is the length of the value that is replaced, 0 if there is none: the
/// stores need it to remove the continuation rows of a longer old value.
#[derive(Clone, Copy, Debug)]
struct Op {
    keyspace: Keyspace,
    at: usize,
    key_bytes: usize,
    /// `None` for a removal.
    value_bytes: Option<usize>,
    old_bytes: usize,
}

/// One change, to be read by a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) keyspace: Keyspace,
    pub(crate) old_bytes: usize,
    /// [`row_format::ROW`] and the key.
    pub(crate) stored_key: &'a [u8],
    /// [`row_format::WHOLE`] and the value; `None` for a removal.
    pub(crate) stored_value: Option<&'a [u8]>,
}

impl<'a> Change<'a> {
    pub(crate) fn key(&self) -> &'a [u8] {
        &self.stored_key[1..]
    }

    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        self.stored_value.map(|stored| &stored[1..])
    }
}

/// What must be known of a row to overwrite or remove it: cheaper to keep than the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMark {
    hash: u128,
    bytes: usize,
}

impl RowMark {
    /// Of a row as it is in the store.
    pub fn of(keyspace: Keyspace, key: &[u8], value: &[u8]) -> RowMark {
        RowMark { hash: row_hash(keyspace, key, value), bytes: value.len() }
    }

    /// Length of the row's value.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The changes of one entry, and what they do to the state digest.
///
/// Keys and values lie behind one another in one buffer, in the form in which the store on disk takes short rows:
/// no row costs an allocation of its own before the store keeps it.
#[derive(Clone, Debug)]
pub struct Batch {
    applied: u64,
    ops: Vec<Op>,
    bytes: Vec<u8>,
    pub(crate) dropped: Vec<u32>,
    digest: u128,
    bucket_digests: BTreeMap<u32, u128>,
}

impl Batch {
    /// An empty batch for the entry at log index `applied`.
    pub fn new(applied: u64) -> Batch {
        Batch::with_capacity(applied, 0, 0)
    }

    /// The same, with room for so many rows and so many bytes of them.
    pub fn with_capacity(applied: u64, rows: usize, bytes: usize) -> Batch {
        Batch {
            applied,
            ops: Vec::with_capacity(rows),
            bytes: Vec::with_capacity(bytes),
            dropped: Vec::new(),
            digest: 0,
            bucket_digests: BTreeMap::new(),
        }
    }

    /// Writes a row that does not exist yet.
    ///
    /// # Panics
    /// On an empty or overlong key, an overlong value, and on [`Keyspace::Meta`] (see [`Batch::put_meta`]); so do
    /// [`Batch::replace`], [`Batch::put`] and [`Batch::remove`].
    pub fn insert(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.put(keyspace, key.as_ref(), None, |out| out.extend_from_slice(value.as_ref()));
    }

    /// Overwrites a row whose value is `old`.
    pub fn replace(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>, old: &[u8], value: impl AsRef<[u8]>) {
        let mark = RowMark::of(keyspace, key.as_ref(), old);
        self.put(keyspace, key.as_ref(), Some(mark), |out| out.extend_from_slice(value.as_ref()));
    }

    /// Writes a row over the one that `old` was taken of, or a new one; `write` appends its value. Returns the mark of
    /// the row as it is now.
    pub fn put(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        old: Option<RowMark>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> RowMark {
        check_key(keyspace, key);
        let value_bytes = self.push(keyspace, key, old.map_or(0, |old| old.bytes), Some(write));
        let value = &self.bytes[self.bytes.len() - value_bytes..];
        let mark = RowMark::of(keyspace, key, value);
        self.add_to_digest(keyspace, mark.hash.wrapping_sub(old.map_or(0, |old| old.hash)));
        mark
    }

    /// Removes a row whose value is `old`.
    pub fn remove(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>, old: &[u8]) {
        let key = key.as_ref();
        check_key(keyspace, key);
        self.add_to_digest(keyspace, row_hash(keyspace, key, old).wrapping_neg());
        self.push(keyspace, key, old.len(), None::<fn(&mut Vec<u8>)>);
    }

    /// Writes a row of Meta, whatever was there before. Meta is not in the digest.
    pub fn put_meta(&mut self, key: &'static [u8], value: Vec<u8>) {
        assert!(!key.is_empty() && key.len() <= KEY_BYTES_MAX, "key of {} bytes in Meta", key.len());
        self.push(Keyspace::Meta, key, 0, Some(|out: &mut Vec<u8>| out.extend_from_slice(&value)));
    }

    /// Drops a whole Outcomes bucket. `digest` is the sum of its rows' hashes, kept by the caller (who adds up
    /// [`Batch::bucket_digest_delta`]). Rows of the same bucket in the same batch are refused by `commit`.
    pub fn drop_bucket(&mut self, bucket: u32, digest: u128) {
        self.digest = self.digest.wrapping_sub(digest);
        self.dropped.push(bucket);
    }

    /// What this batch adds to the state digest (wrapping).
    pub fn digest_delta(&self) -> u128 {
        self.digest
    }

    /// What this batch's rows in one Outcomes bucket add to the state digest (wrapping).
    pub fn bucket_digest_delta(&self, bucket: u32) -> u128 {
        self.bucket_digests.get(&bucket).copied().unwrap_or(0)
    }

    /// Number of rows changed.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether no row is changed.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values, with what the store puts before them.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Log index this batch belongs to.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Outcomes buckets this batch writes to, ascending, each once.
    pub(crate) fn buckets_written(&self) -> impl Iterator<Item = u32> + '_ {
        self.bucket_digests.keys().copied()
    }

    /// The changes, in the order they were made.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.ops.iter().map(|op| {
            let value_at = op.at + 1 + op.key_bytes;
            Change {
                keyspace: op.keyspace,
                old_bytes: op.old_bytes,
                stored_key: &self.bytes[op.at..value_at],
                stored_value: op.value_bytes.map(|bytes| &self.bytes[value_at..value_at + 1 + bytes]),
            }
        })
    }

    /// Appends a change; returns the length of its value.
    fn push(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        old_bytes: usize,
        write: Option<impl FnOnce(&mut Vec<u8>)>,
    ) -> usize {
        let at = self.bytes.len();
        self.bytes.push(row_format::ROW);
        self.bytes.extend_from_slice(key);
        let value_bytes = write.map(|write| {
            self.bytes.push(row_format::WHOLE);
            let value_at = self.bytes.len();
            write(&mut self.bytes);
            let bytes = self.bytes.len() - value_at;
            assert!(bytes <= VALUE_BYTES_MAX, "value of {bytes} bytes is above the bound of {VALUE_BYTES_MAX} bytes");
            bytes
        });
        self.ops.push(Op { keyspace, at, key_bytes: key.len(), value_bytes, old_bytes });
        value_bytes.unwrap_or(0)
    }

    fn add_to_digest(&mut self, keyspace: Keyspace, change: u128) {
        self.digest = self.digest.wrapping_add(change);
        if let Keyspace::Outcomes(bucket) = keyspace {
            let sum = self.bucket_digests.entry(bucket).or_insert(0);
            *sum = sum.wrapping_add(change);
        }
    }
}

fn check_key(keyspace: Keyspace, key: &[u8]) {
    assert!(keyspace != Keyspace::Meta, "meta rows are written with put_meta");
    assert!(!key.is_empty() && key.len() <= KEY_BYTES_MAX, "key of {} bytes, 1 to {KEY_BYTES_MAX} allowed", key.len());
}

/// Hash of one row: `xxh3_128(tag u8 ‖ bucket u32 BE (outcomes only) ‖ key length u16 LE ‖ key ‖ value)`. The length keeps
/// `("ab", "c")` and `("a", "bc")` apart. Replicated behaviour: must never change.
pub fn row_hash(keyspace: Keyspace, key: &[u8], value: &[u8]) -> u128 {
    // One contiguous buffer: hashing short inputs in one go is several times faster than the streaming interface.
    const ON_STACK: usize = 512;
    let mut head = [0u8; 7];
    head[0] = keyspace.tag();
    let mut head_bytes = 1;
    if let Keyspace::Outcomes(bucket) = keyspace {
        head[1..5].copy_from_slice(&bucket.to_be_bytes());
        head_bytes = 5;
    }
    head[head_bytes..head_bytes + 2].copy_from_slice(&(key.len() as u16).to_le_bytes());
    head_bytes += 2;
    let total = head_bytes + key.len() + value.len();
    if total <= ON_STACK {
        let mut buffer = [0u8; ON_STACK];
        buffer[..head_bytes].copy_from_slice(&head[..head_bytes]);
        buffer[head_bytes..head_bytes + key.len()].copy_from_slice(key);
        buffer[head_bytes + key.len()..total].copy_from_slice(value);
        xxh3_128(&buffer[..total])
    } else {
        let mut buffer = Vec::with_capacity(total);
        buffer.extend_from_slice(&head[..head_bytes]);
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value);
        xxh3_128(&buffer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn row_hash_is_over_the_documented_bytes() {
        assert_eq!(row_hash(Keyspace::Entity, b"ab", b"c"), xxh3_128(b"\x01\x02\x00abc"));
        assert_eq!(row_hash(Keyspace::Outcomes(258), b"ab", b"c"), xxh3_128(b"\x04\x00\x00\x01\x02\x02\x00abc"));
        let long = vec![7u8; 3000];
        let mut bytes = b"\x03\x01\x00k".to_vec();
        bytes.extend_from_slice(&long);
        assert_eq!(row_hash(Keyspace::Feed, b"k", &long), xxh3_128(&bytes));
    }

    #[test]
    fn golden_row_hash() {
        assert_eq!(
            format!("{:032x}", row_hash(Keyspace::Entity, b"key", b"value")),
            "dd6bf535470f8ced34a245dbbbe13818"
        );
    }

    #[test]
    fn key_and_value_do_not_run_into_each_other() {
        assert_ne!(row_hash(Keyspace::Index, b"ab", b"c"), row_hash(Keyspace::Index, b"a", b"bc"));
        assert_ne!(row_hash(Keyspace::Index, b"a", b"b"), row_hash(Keyspace::Feed, b"a", b"b"));
    }

    #[test]
    fn a_dropped_bucket_takes_its_digest_along() {
        let mut first = Batch::new(1);
        first.insert(Keyspace::Outcomes(4), *b"k1", *b"v1");
        first.insert(Keyspace::Entity, *b"e", *b"v");
        let bucket = first.bucket_digest_delta(4);
        assert_eq!(bucket, row_hash(Keyspace::Outcomes(4), b"k1", b"v1"));
        let mut second = Batch::new(2);
        second.drop_bucket(4, bucket);
        assert_eq!(first.digest_delta().wrapping_add(second.digest_delta()), row_hash(Keyspace::Entity, b"e", b"v"));
    }

    proptest! {
        #[test]
        fn the_digest_is_the_sum_over_what_is_left(
            steps in proptest::collection::vec((0u8..8, proptest::option::of(0u8..4)), 0..60)
        ) {
            let mut batch = Batch::new(1);
            let mut model = BTreeMap::<u8, Vec<u8>>::new();
            for (key, value) in steps {
                let value = value.map(|byte| vec![byte; 3]);
                match (model.get(&key).cloned(), value) {
                    (None, Some(value)) => {
                        batch.insert(Keyspace::Entity, [key], value.clone());
                        model.insert(key, value);
                    }
                    (Some(old), Some(value)) => {
                        batch.replace(Keyspace::Entity, [key], &old, value.clone());
                        model.insert(key, value);
                    }
                    (Some(old), None) => {
                        batch.remove(Keyspace::Entity, [key], &old);
                        model.remove(&key);
                    }
                    (None, None) => {}
                }
            }
            let sum = model.iter().fold(0u128, |sum, (key, value)| {
                sum.wrapping_add(row_hash(Keyspace::Entity, &[*key], value))
            });
            prop_assert_eq!(batch.digest_delta(), sum);
        }
    }
}
