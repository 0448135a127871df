//! How values become bytes. The only module of the workspace that knows bincode.
//!
//! bincode 2.0.1 is frozen and unmaintained; keeping it behind four functions means the format can be written again byte
//! for byte. It is positional: persisted types may only grow by new enum variants at the end or by a new frame version,
//! and each of them has a golden-bytes test.
//!
//! Two hazards of bincode are closed here: a crafted length would make it allocate without bound (a byte limit is always
//! set), and it accepts trailing bytes (they are refused).
//!
//! A *frame* is what stands alone on disk or wire:
//!
//! ```text
//! +---------+---------+------------------------------------------+
//! | version | payload | crc32c over version and payload (u32 LE) |
//! +---------+---------+------------------------------------------+
//! ```

use bincode::config;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Upper bound of one encoded value, in bytes.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes a frame adds to its payload: version and checksum.
pub const FRAME_OVERHEAD_BYTES: usize = 5;

/// Encodes a value bare: for things that sit inside another checked frame.
///
/// # Panics
/// If the value is larger than [`FRAME_BYTES_MAX`] or its `Serialize` fails: both are bugs of the writer, and bytes that
/// nobody could read again must not be written.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

/// Appends the bare encoding of a value to `out`. Panics as [`encode`] does.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let before = out.len();
    bincode::serde::encode_into_std_write(value, out, config::standard())
        .expect("a persisted type must serialize into memory");
    let bytes = out.len() - before;
    assert!(bytes <= FRAME_BYTES_MAX, "encoded value of {bytes} bytes is above the bound of {FRAME_BYTES_MAX} bytes");
}

/// Decodes a bare value. Refuses trailing bytes, lengths beyond the input and inputs beyond [`FRAME_BYTES_MAX`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let (value, rest) = take(bytes)?;
    if !rest.is_empty() {
        return Err(Error::corrupt(format!("value of {} bytes: {} trailing bytes", bytes.len(), rest.len())));
    }
    Ok(value)
}

/// Decodes a bare value that others may follow, and gives what follows. Bounded as [`decode`] is.
pub fn take<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8])> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "encoded value",
            bytes: bytes.len() as u64,
            bytes_max: FRAME_BYTES_MAX as u64,
        });
    }
    let limited = config::standard().with_limit::<FRAME_BYTES_MAX>();
    let (value, used) = bincode::serde::decode_from_slice::<T, _>(bytes, limited)
        .map_err(|error| Error::corrupt(format!("value of {} bytes: {error}", bytes.len())))?;
    Ok((value, bytes.get(used..).unwrap_or_default()))
}

/// Encodes a value into a frame of the given version. Panics as [`encode`] does.
pub fn frame<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    frame_into(version, value, &mut out);
    out
}

/// Appends a frame to `out`. Panics as [`encode`] does.
pub fn frame_into<T: Serialize>(version: u8, value: &T, out: &mut Vec<u8>) {
    frame_with(version, out, |out| encode_into(value, out));
}

/// Appends a frame to `out`, whose payload is what `write` appends.
pub fn frame_with(version: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(version);
    write(out);
    let sum = crc32c::crc32c(&out[at..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Decodes a frame. The checksum is looked at before the version, so that a flipped version byte is damage and not
/// a message from the future. `version_max` is the newest version the caller reads.
pub fn unframe<T: DeserializeOwned>(version_max: u8, bytes: &[u8]) -> Result<T> {
    decode(payload(version_max, bytes)?)
}

/// The checked payload of a frame, as [`unframe`] decodes it.
pub fn payload(version_max: u8, bytes: &[u8]) -> Result<&[u8]> {
    if bytes.len() < FRAME_OVERHEAD_BYTES {
        return Err(Error::corrupt(format!(
            "frame of {} bytes, at least {FRAME_OVERHEAD_BYTES} expected",
            bytes.len()
        )));
    }
    let (body, sum) = bytes.split_at(bytes.len() - 4);
    let sum = u32::from_le_bytes(sum.try_into().expect("split at four bytes"));
    let computed = crc32c::crc32c(body);
    if sum != computed {
        return Err(Error::corrupt(format!(
            "frame of {} bytes: checksum {sum:08x}, computed {computed:08x}",
            bytes.len()
        )));
    }
    if body[0] > version_max {
        return Err(Error::NewerFormat { what: "frame", found: u32::from(body[0]), known: u32::from(version_max) });
    }
    Ok(&body[1..])
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Sample {
        id: u128,
        name: String,
        amount: i64,
        kind: Kind,
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum Kind {
        Plain,
        Listed(Vec<u8>),
    }

    fn sample() -> Sample {
        Sample { id: 7, name: "tea".into(), amount: -300, kind: Kind::Listed(vec![1, 2]) }
    }

    #[test]
    fn golden_bytes_of_a_bare_value() {
        assert_eq!(encode(&sample()), [7, 3, b't', b'e', b'a', 0xfb, 0x57, 0x02, 1, 2, 1, 2]);
        assert_eq!(decode::<Sample>(&encode(&sample())).unwrap(), sample());
        assert_eq!(encode(&Kind::Plain), [0]);
    }

    #[test]
    fn golden_bytes_of_a_frame() {
        let bytes = frame(3, &(1u8, 300u32));
        assert_eq!(bytes[..5], [3, 1, 0xfb, 0x2c, 0x01]);
        assert_eq!(bytes[5..], crc32c::crc32c(&bytes[..5]).to_le_bytes());
        assert_eq!(unframe::<(u8, u32)>(3, &bytes).unwrap(), (1, 300));
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_refused() {
        let bytes = frame(1, &sample());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unframe::<Sample>(1, &bad), Err(Error::Corrupt(_))), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(unframe::<Sample>(1, &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&sample());
        bytes.push(0);
        let error = decode::<Sample>(&bytes).unwrap_err().to_string();
        assert!(error.contains("1 trailing bytes"), "{error}");
    }

    #[test]
    fn crafted_lengths_neither_allocate_nor_panic() {
        // 0xfd announces a u64: a list of 2^60 bytes in a value of nine.
        let crafted = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0x10];
        assert!(decode::<Vec<u8>>(&crafted).is_err());
        assert!(decode::<String>(&crafted).is_err());
        assert!(decode::<Vec<u64>>(&crafted).is_err());
        // Just above the limit, and just above the input.
        let mut above = vec![0xfc];
        above.extend_from_slice(&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
        assert!(decode::<Vec<u8>>(&above).is_err());
        assert!(decode::<Vec<u8>>(&[5, 1, 2, 3, 4]).is_err());
    }

    #[test]
    fn values_above_the_limit_are_refused() {
        let bytes = vec![0u8; FRAME_BYTES_MAX + 1];
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_newer_version_says_so() {
        let bytes = frame(9, &1u8);
        assert!(matches!(unframe::<u8>(8, &bytes), Err(Error::NewerFormat { found: 9, known: 8, .. })));
        assert_eq!(unframe::<u8>(9, &bytes).unwrap(), 1);
    }
}
