//! How a row looks inside the store on disk: prefixes, the marker, and long values split.
//!
//! ```text
//! key                          value
//! 00                           version u64 BE: applied index + 1, 0 before the first batch      the marker, in every keyspace
//! 00 'b'                       codec frame of the list of Outcomes buckets                      in Meta alone
//! 01 ‖ key                     00 ‖ value                                                       a row
//! 01 ‖ key                     01 ‖ length of the value u32 LE ‖ first part                     a long row
//! 02 ‖ key ‖ part u16 BE       a further part                                                   its continuation
//! ```
//!
//! No value in the store is longer than 2 KiB. The store's journal is not synced at every commit; where a power cut leaves a
//! hole in it and one value spans the hole, the store refuses to open. A value that fits well within a page cannot.
//!
//! Two different keys never share a continuation key: if two of them have equal length, so have the keys they are made of.

use crate::error::{Error, Result};

/// Longest value inside the store, in bytes.
pub(crate) const STORED_BYTES_MAX: usize = 2048;

/// The marker's key.
pub(crate) const MARKER: &[u8] = &[0];
/// Key of the list of buckets, in Meta.
pub(crate) const BUCKETS: &[u8] = &[0, b'b'];
/// First byte of rows.
pub(crate) const ROW: u8 = 1;
/// First byte of continuations: also the end of the rows.
pub(crate) const CONTINUATION: u8 = 2;

/// First byte of a value that is stored whole.
pub(crate) const WHOLE: u8 = 0;
const SPLIT: u8 = 1;

/// Bytes of a value that fit into the first part of a long row.
const HEAD_BYTES: usize = STORED_BYTES_MAX - 5;

/// Number of continuations of a value of this length.
pub(crate) fn continuations(value_bytes: usize) -> u16 {
    if value_bytes < STORED_BYTES_MAX {
        return 0;
    }
    let parts = (value_bytes - HEAD_BYTES).div_ceil(STORED_BYTES_MAX);
    u16::try_from(parts).expect("values are bounded far below 65,536 parts")
}

/// Writes `01 ‖ key` into `out`.
pub(crate) fn row_key<'a>(key: &[u8], out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    out.push(ROW);
    out.extend_from_slice(key);
    out
}

/// Writes `02 ‖ key ‖ part` into `out`.
pub(crate) fn continuation_key<'a>(key: &[u8], part: u16, out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    out.push(CONTINUATION);
    out.extend_from_slice(key);
    out.extend_from_slice(&part.to_be_bytes());
    out
}

/// Writes what is stored under the row's key into `out`: the whole value, or its first part.
pub(crate) fn head<'a>(value: &[u8], out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    if value.len() < STORED_BYTES_MAX {
        out.push(WHOLE);
        out.extend_from_slice(value);
    } else {
        out.push(SPLIT);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(&value[..HEAD_BYTES]);
    }
    out
}

/// The bytes of one continuation of a value.
pub(crate) fn continuation(value: &[u8], part: u16) -> &[u8] {
    let from = HEAD_BYTES + usize::from(part) * STORED_BYTES_MAX;
    &value[from..value.len().min(from + STORED_BYTES_MAX)]
}

/// What a row's key holds.
pub(crate) enum Head<'a> {
    /// All of the value.
    Whole(&'a [u8]),
    /// The first part of a value of `bytes` bytes.
    Split { bytes: usize, first: &'a [u8] },
}

/// Reads what is stored under a row's key.
pub(crate) fn parse_head(stored: &[u8]) -> Result<Head<'_>> {
    match stored.split_first() {
        Some((&WHOLE, value)) => Ok(Head::Whole(value)),
        Some((&SPLIT, rest)) => {
            let (bytes, first) =
                rest.split_first_chunk::<4>().ok_or_else(|| Error::corrupt("long row without a length"))?;
            let bytes = u32::from_le_bytes(*bytes) as usize;
            if first.len() != HEAD_BYTES || !(STORED_BYTES_MAX..=crate::batch::VALUE_BYTES_MAX).contains(&bytes) {
                return Err(Error::corrupt(format!(
                    "long row of {bytes} bytes whose first part has {} bytes",
                    first.len()
                )));
            }
            Ok(Head::Split { bytes, first })
        }
        _ => Err(Error::corrupt(format!("row that begins with {:?}", stored.first()))),
    }
}

/// Puts a long value together; `read` gives the stored value of a continuation key.
pub(crate) fn join(
    key: &[u8],
    bytes: usize,
    first: &[u8],
    mut read: impl FnMut(&[u8], &mut Vec<u8>) -> Result<bool>,
) -> Result<Vec<u8>> {
    let mut value = Vec::with_capacity(bytes);
    value.extend_from_slice(first);
    let mut scratch = Vec::with_capacity(key.len() + 3);
    for part in 0..continuations(bytes) {
        if !read(continuation_key(key, part, &mut scratch), &mut value)? {
            return Err(Error::corrupt(format!("part {part} of a row of {bytes} bytes is missing")));
        }
    }
    if value.len() != bytes {
        return Err(Error::corrupt(format!("row of {bytes} bytes whose parts have {} bytes", value.len())));
    }
    Ok(value)
}

/// The marker's value.
pub(crate) fn marker(version: u64) -> [u8; 8] {
    version.to_be_bytes()
}

/// Reads a marker; `None` if these are not eight bytes.
pub(crate) fn parse_marker(stored: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(stored.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn store(key: &[u8], value: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let (mut k, mut v) = (Vec::new(), Vec::new());
        let mut stored = BTreeMap::new();
        stored.insert(row_key(key, &mut k).to_vec(), head(value, &mut v).to_vec());
        for part in 0..continuations(value.len()) {
            stored.insert(continuation_key(key, part, &mut k).to_vec(), continuation(value, part).to_vec());
        }
        stored
    }

    fn load(key: &[u8], stored: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>> {
        match parse_head(&stored[row_key(key, &mut Vec::new())])? {
            Head::Whole(value) => Ok(value.to_vec()),
            Head::Split { bytes, first } => join(key, bytes, first, |key, value| {
                let part = stored.get(key);
                value.extend_from_slice(part.map_or(&[], Vec::as_slice));
                Ok(part.is_some())
            }),
        }
    }

    #[test]
    fn golden_bytes_of_stored_rows() {
        assert_eq!(store(b"k", b"v"), BTreeMap::from([(b"\x01k".to_vec(), b"\x00v".to_vec())]));
        let long = store(b"k", &[7; 2048]);
        assert_eq!(long[&b"\x01k"[..]][..6], [1, 0, 8, 0, 0, 7]);
        assert_eq!(long[&b"\x02k\0\0"[..]], [7; 5]);
        assert_eq!(marker(258), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn values_of_all_lengths_come_back_and_no_stored_value_is_too_long() {
        for bytes in [0, 1, 2046, 2047, 2048, 2049, 4091, 4092, 9000, 100_000] {
            let value: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            let stored = store(b"key", &value);
            assert!(stored.values().all(|part| part.len() <= STORED_BYTES_MAX));
            assert_eq!(load(b"key", &stored).unwrap(), value, "{bytes} bytes");
        }
    }

    #[test]
    fn a_missing_or_short_part_is_damage() {
        let mut stored = store(b"key", &[1; 9000]);
        let part = continuation_key(b"key", 1, &mut Vec::new()).to_vec();
        stored.get_mut(&part).unwrap().pop();
        assert!(load(b"key", &stored).is_err());
        stored.remove(&part);
        assert!(load(b"key", &stored).is_err());
        assert!(parse_head(&[]).is_err());
        assert!(parse_head(&[2, 1]).is_err());
        assert!(parse_head(&[1, 1]).is_err());
        assert!(parse_head(&[1, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }

    #[test]
    fn markers_and_rows_sort_before_continuations() {
        let mut scratch = Vec::new();
        assert!(MARKER < BUCKETS);
        assert!(BUCKETS < row_key(b"", &mut scratch));
        let last_row = row_key(&[0xff; 9], &mut scratch).to_vec();
        assert!(last_row.as_slice() < continuation_key(b"", 0, &mut scratch));
    }
}
