//! How one engine entry lies in the log and on the wire: its payload, then nine bytes that say what it is.
//!
//! ```text
//! +---------------------------------+---------------+---------------------+
//! | payload                         | term (u64 LE) | kind (u8)           |
//! +---------------------------------+---------------+---------------------+
//!   kind 0: blank, empty payload · 1: members, codec of `MembershipRecord` · 2: entry of `agora_storage::entry`
//! ```
//!
//! The trailer comes last so that the journal can add it to the buffer of a finished entry in place: from then on the
//! same bytes are shared by the engine, the log, the wire, the followers' logs and apply. The index is the key under
//! which the log keeps the record, and follows from the first one on the wire.

use std::collections::BTreeSet;

use agora_storage::codec;
use bytes::{Bytes, BytesMut};
use openraft::EntryPayload;

use crate::types::{Entry, LogId, MembershipRecord, Sealed, term_id, term_of};

/// Bytes after the payload.
const TRAILER_BYTES: usize = 9;

const BLANK: u8 = 0;
const MEMBERS: u8 = 1;
const ENTRY: u8 = 2;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Shorter than a trailer, or of a kind this release does not know.
    #[error(
        "log record of {bytes} bytes has no valid trailer (kind {kind:?}): the log is damaged or of a newer release"
    )]
    Trailer {
        /// Length of the record.
        bytes: usize,
        /// Kind byte, if there is one.
        kind: Option<u8>,
    },
    /// A membership that does not decode.
    #[error("members in the log cannot be read: {0}")]
    Members(String),
}

/// Adds the trailer to a finished entry, in its own buffer where that has room.
pub fn seal(entry: Bytes, term: u64) -> Sealed {
    Sealed(with_trailer(entry, term, ENTRY))
}

/// The payload of a sealed entry, sharing its buffer.
pub fn payload(sealed: &Sealed) -> Bytes {
    assert!(sealed.0.len() >= TRAILER_BYTES, "sealed entry of {} bytes has no trailer", sealed.0.len());
    sealed.0.slice(..sealed.0.len() - TRAILER_BYTES)
}

/// The record of an engine entry.
pub fn encode(entry: &Entry) -> Bytes {
    let term = term_of(&entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => with_trailer(Bytes::new(), term, BLANK),
        EntryPayload::Membership(membership) => {
            let record =
                MembershipRecord { used_ids: BTreeSet::new(), ..MembershipRecord::new(membership, &BTreeSet::new()) };
            with_trailer(Bytes::from(codec::encode(&record)), term, MEMBERS)
        }
        EntryPayload::Normal(sealed) => {
            assert_eq!(
                sealed_term(&sealed.0),
                Some(term),
                "an entry sealed for one term was given a place in another: the engine checks the expected leader first"
            );
            sealed.0.clone()
        }
    }
}

/// The engine entry of a record; `index` is the engine's, from 0.
pub fn decode(index: u64, record: Bytes) -> Result<Entry, RecordError> {
    let (term, kind) =
        trailer(&record).ok_or(RecordError::Trailer { bytes: record.len(), kind: record.last().copied() })?;
    let payload = match kind {
        BLANK if record.len() == TRAILER_BYTES => EntryPayload::Blank,
        MEMBERS => {
            let members: MembershipRecord = codec::decode(&record[..record.len() - TRAILER_BYTES])
                .map_err(|error| RecordError::Members(error.to_string()))?;
            EntryPayload::Membership(members.to_membership())
        }
        ENTRY => EntryPayload::Normal(Sealed(record)),
        other => return Err(RecordError::Trailer { bytes: record.len(), kind: Some(other) }),
    };
    Ok(Entry { log_id: LogId::new(term_id(term), index), payload })
}

/// The term in a record's trailer.
pub fn sealed_term(record: &[u8]) -> Option<u64> {
    trailer(record).map(|(term, _)| term)
}

fn trailer(record: &[u8]) -> Option<(u64, u8)> {
    let (rest, kind) = record.split_last_chunk::<1>()?;
    let (_, term) = rest.split_last_chunk::<8>()?;
    Some((u64::from_le_bytes(*term), kind[0]))
}

fn with_trailer(payload: Bytes, term: u64, kind: u8) -> Bytes {
    let mut buffer = match payload.try_into_mut() {
        Ok(own) => own,
        Err(shared) => {
            let mut copy = BytesMut::with_capacity(shared.len() + TRAILER_BYTES);
            copy.extend_from_slice(&shared);
            copy
        }
    };
    buffer.extend_from_slice(&term.to_le_bytes());
    buffer.extend_from_slice(&[kind]);
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::MemberAddr;

    fn entry(term: u64, index: u64, payload: EntryPayload<Sealed, u64, MemberAddr>) -> Entry {
        Entry { log_id: LogId::new(term_id(term), index), payload }
    }

    #[test]
    fn golden_bytes_of_the_three_kinds() {
        assert_eq!(encode(&entry(3, 0, EntryPayload::Blank)).as_ref(), [3, 0, 0, 0, 0, 0, 0, 0, 0]);
        let sealed = seal(Bytes::from_static(b"abc"), 0x0102);
        assert_eq!(encode(&entry(0x0102, 9, EntryPayload::Normal(sealed))).as_ref(), b"abc\x02\x01\0\0\0\0\0\0\x02");
        let membership = openraft::Membership::new(
            vec![BTreeSet::from([1])],
            BTreeMap::from([(1, MemberAddr { peer_addr: "p".into(), http_addr: "h".into() })]),
        )
        .unwrap();
        assert_eq!(
            encode(&entry(1, 0, EntryPayload::Membership(membership))).as_ref(),
            b"\x01\x01\x01\x01\x01\x01p\x01h\x00\x01\0\0\0\0\0\0\0\x01"
        );
    }

    #[test]
    fn what_is_sealed_is_read_back_without_a_copy() {
        let sealed = seal(Bytes::from(vec![7; 100]), 5);
        let read = decode(41, encode(&entry(5, 41, EntryPayload::Normal(sealed.clone())))).unwrap();
        assert_eq!(read.log_id, LogId::new(term_id(5), 41));
        let EntryPayload::Normal(again) = read.payload else { panic!("kind changed") };
        assert_eq!(again.0.as_ptr(), sealed.0.as_ptr());
        assert_eq!(payload(&again).as_ref(), [7; 100]);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bad in
            [&b""[..], b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0\x09", b"x\0\0\0\0\0\0\0\0\0", b"x\0\0\0\0\0\0\0\0\x01"]
        {
            assert!(decode(0, Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }
}
