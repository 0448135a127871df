//! One Raft entry as bytes: a header and opaque transactions.
//!
//! An entry is encoded once, by the journal of the leader; the same bytes go to the log, over the wire and to apply.
//!
//! ```text
//! +---------+------------------+--------------------------+----------------------------------+-------------------+
//! | version | header length    | header (codec)           | count × (length u32 LE ‖ bytes)  | crc32c over all   |
//! | u8 = 1  | u16 LE           |                          |                                  | before (u32 LE)   |
//! +---------+------------------+--------------------------+----------------------------------+-------------------+
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    error::{Error, Result},
};

/// Version of the entry format written by this release.
pub const ENTRY_VERSION: u8 = 1;
/// Largest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most transactions of one entry.
pub const ENTRY_COUNT_MAX: u32 = 65_536;

/// Version, header length, and the room a header can take at most, and the checksum.
const OVERHEAD_BYTES_MAX: usize = 1 + 2 + 128 + 4;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EntryKind {
    /// The first entry of a reign; carries no transaction.
    Fence,
    /// Transactions, in order.
    Transactions,
    /// A [`CheckpointBody`] as its single payload.
    Checkpoint,
}

/// What is known of an entry besides its transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryHeader {
    /// What the entry is for.
    pub kind: EntryKind,
    /// Reign it was decided in; 0 for a fence: apply assigns the previous one plus one.
    pub reign: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Id of the node that proposed it.
    pub node: u64,
    /// Number given by the proposer, to find those who wait for it.
    pub sequence: u64,
    /// Log time, milliseconds since 1970; never before the previous entry's.
    pub log_time_ms: i64,
    /// Feature level by which it is applied.
    pub feature_level: u32,
    /// Number of transactions.
    pub count: u32,
}

/// Payload of a checkpoint entry: what its proposer had at an index, so that the others compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointBody {
    /// Applied index the following two belong to.
    pub index: u64,
    /// Head of the audit chain there.
    pub chain_head: [u8; 32],
    /// State digest there.
    pub digest: u128,
}

/// Collects transactions for one entry.
#[derive(Debug, Default)]
pub struct EntryBuilder {
    body: Vec<u8>,
    count: u32,
}

impl EntryBuilder {
    /// An entry without transactions.
    pub fn new() -> EntryBuilder {
        EntryBuilder::default()
    }

    /// Adds a transaction at the end.
    ///
    /// # Panics
    /// If the entry would go beyond [`ENTRY_BYTES_MAX`] or [`ENTRY_COUNT_MAX`]: the caller bounds its batches.
    pub fn push(&mut self, transaction: &[u8]) {
        assert!(
            self.count < ENTRY_COUNT_MAX && self.bytes() + 4 + transaction.len() <= ENTRY_BYTES_MAX,
            "entry of {} transactions and {} bytes cannot take {} bytes more",
            self.count,
            self.bytes(),
            transaction.len()
        );
        self.body.extend_from_slice(&(transaction.len() as u32).to_le_bytes());
        self.body.extend_from_slice(transaction);
        self.count += 1;
    }

    /// Bytes of the finished entry, at most.
    pub fn bytes(&self) -> usize {
        self.body.len() + OVERHEAD_BYTES_MAX
    }

    /// Transactions so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Writes the entry. The header's `count` is set here.
    pub fn finish(self, header: EntryHeader) -> Bytes {
        let header = codec::encode(&EntryHeader { count: self.count, ..header });
        assert!(header.len() <= 128, "header of {} bytes", header.len());
        let mut out = Vec::with_capacity(7 + header.len() + self.body.len());
        out.push(ENTRY_VERSION);
        out.extend_from_slice(&(header.len() as u16).to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.body);
        let sum = crc32c::crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        Bytes::from(out)
    }
}

/// A checked entry. [`EntryReader::parse`] looks at everything, so reading on cannot fail.
#[derive(Clone, Copy, Debug)]
pub struct EntryReader<'a> {
    header: EntryHeader,
    body: &'a [u8],
}

impl<'a> EntryReader<'a> {
    /// Checks checksum, version, header and the lengths of all transactions.
    pub fn parse(bytes: &'a [u8]) -> Result<EntryReader<'a>> {
        let bad = |what: &str| Error::corrupt(format!("entry of {} bytes: {what}", bytes.len()));
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "entry",
                bytes: bytes.len() as u64,
                bytes_max: ENTRY_BYTES_MAX as u64,
            });
        }
        if bytes.len() < 7 {
            return Err(bad("too short"));
        }
        let (checked, sum) = bytes.split_at(bytes.len() - 4);
        if crc32c::crc32c(checked).to_le_bytes() != sum {
            return Err(bad("checksum does not match"));
        }
        if checked[0] > ENTRY_VERSION {
            return Err(Error::NewerFormat {
                what: "entry",
                found: u32::from(checked[0]),
                known: u32::from(ENTRY_VERSION),
            });
        }
        let header_bytes = usize::from(u16::from_le_bytes([checked[1], checked[2]]));
        let (header, body) = checked[3..].split_at_checked(header_bytes).ok_or_else(|| bad("header beyond the end"))?;
        let header: EntryHeader = codec::decode(header)?;
        let mut rest = body;
        for _ in 0..header.count {
            let (_, after) = split_transaction(rest).ok_or_else(|| bad("transaction beyond the end"))?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(bad("bytes after the last transaction"));
        }
        Ok(EntryReader { header, body })
    }

    /// The header.
    pub fn header(&self) -> &EntryHeader {
        &self.header
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> Transactions<'a> {
        Transactions { rest: self.body }
    }
}

/// Iterator over the transactions of a checked entry.
#[derive(Clone, Debug)]
pub struct Transactions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Transactions<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (transaction, rest) = split_transaction(self.rest)?;
        self.rest = rest;
        Some(transaction)
    }
}

fn split_transaction(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> EntryHeader {
        EntryHeader {
            kind: EntryKind::Transactions,
            reign: 3,
            term: 4,
            node: 1,
            sequence: 9,
            log_time_ms: 1000,
            feature_level: 1,
            count: 0,
        }
    }

    fn sample() -> Bytes {
        let mut builder = EntryBuilder::new();
        builder.push(b"first");
        builder.push(b"");
        builder.push(b"third");
        builder.finish(header())
    }

    #[test]
    fn golden_bytes_of_an_entry() {
        let bytes = sample();
        let mut expected = vec![1, 10, 0, 1, 3, 4, 1, 9, 0xfb, 0xd0, 0x07, 1, 3];
        expected.extend(b"\x05\0\0\0first\0\0\0\0\x05\0\0\0third");
        let sum = crc32c::crc32c(&expected);
        expected.extend(sum.to_le_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn golden_bytes_of_a_checkpoint() {
        let mut expected = vec![5];
        expected.extend([2; 32]);
        expected.push(7);
        assert_eq!(codec::encode(&CheckpointBody { index: 5, chain_head: [2; 32], digest: 7 }), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let entry = EntryReader::parse(&bytes).unwrap();
        assert_eq!(entry.header(), &EntryHeader { count: 3, ..header() });
        let transactions: Vec<&[u8]> = entry.transactions().collect();
        assert_eq!(transactions, [&b"first"[..], b"", b"third"]);
        let empty = EntryBuilder::new().finish(header());
        assert_eq!(EntryReader::parse(&empty).unwrap().transactions().count(), 0);
    }

    #[test]
    fn the_announced_size_is_an_upper_bound() {
        let mut builder = EntryBuilder::new();
        builder.push(&[1; 100]);
        let announced = builder.bytes();
        let full = EntryHeader {
            reign: u64::MAX,
            term: u64::MAX,
            node: u64::MAX,
            sequence: u64::MAX,
            log_time_ms: i64::MIN,
            feature_level: u32::MAX,
            ..header()
        };
        assert!(builder.finish(full).len() <= announced);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(EntryReader::parse(&bad).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(EntryReader::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_are_checked_even_where_the_checksum_matches() {
        let reseal = |mut body: Vec<u8>| {
            let sum = crc32c::crc32c(&body);
            body.extend(sum.to_le_bytes());
            body
        };
        let bytes = sample();
        let body = &bytes[..bytes.len() - 4];
        let mut long_transaction = body.to_vec();
        long_transaction[13] = 0xff;
        let mut long_header = body.to_vec();
        long_header[2] = 0xff;
        let mut more = body.to_vec();
        more.push(0);
        let mut newer = body.to_vec();
        newer[0] = 2;
        for crafted in [long_transaction, long_header, more, newer] {
            assert!(EntryReader::parse(&reseal(crafted)).is_err());
        }
    }
}
