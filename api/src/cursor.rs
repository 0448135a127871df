//! Page cursors: opaque, bound to their list and filter, and impossible to make up.
//!
//! As bytes: version (1), list and filter hash (8), sort key (16), log index of the page (8), time it was made in
//! seconds (8), then the first 16 bytes of a keyed hash over all that. As text: base 64 for URLs, without padding. All
//! numbers are big-endian. The key is derived from the shop's key, so a cursor from one node is good on every node.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::problem::{Code, FieldError, Outcome, Problem};

/// Seconds a cursor is good for.
pub const CURSOR_TTL_S: u64 = 24 * 3_600;
const VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 8 + 16 + 8 + 8;
const MAC_BYTES: usize = 16;

/// Makes and reads cursors.
pub struct CursorKey([u8; 32]);

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Sort key of its last item.
    pub after: u128,
    /// Log index of the rows it was read from. The next page is read from rows not older.
    pub index: u64,
}

impl CursorKey {
    /// The key that goes with the shop's key.
    pub fn new(shop_key: &str) -> Self {
        Self(blake3::derive_key("agora-api 2026 page cursors", shop_key.as_bytes()))
    }

    /// A cursor's text. `list` names the list and its filter.
    pub fn seal(&self, list: &str, cursor: Cursor, now_s: u64) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&list_hash(list));
        bytes.extend_from_slice(&cursor.after.to_be_bytes());
        bytes.extend_from_slice(&cursor.index.to_be_bytes());
        bytes.extend_from_slice(&now_s.to_be_bytes());
        let mac = blake3::keyed_hash(&self.0, &bytes);
        bytes.extend_from_slice(&mac.as_bytes()[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor's text.
    ///
    /// # Errors
    /// 400 for a text that was not made here for this list, 410 for one that is too old.
    pub fn open(&self, list: &str, text: &str, now_s: u64) -> Outcome<Cursor> {
        let bad = || {
            let message = "cursor must be a next_cursor of the same list with the same filters";
            Problem::invalid(FieldError::parameter("cursor", "INVALID", message))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let (body, mac) = bytes.split_at_checked(BODY_BYTES).ok_or_else(bad)?;
        let expected = blake3::keyed_hash(&self.0, body);
        let mut padded = *expected.as_bytes();
        if mac.len() != MAC_BYTES || body[0] != VERSION {
            return Err(bad());
        }
        padded[..MAC_BYTES].copy_from_slice(mac);
        // Equality of whole hashes is constant time; the second half is the expected one's own.
        if blake3::Hash::from_bytes(padded) != expected || body[1..9] != list_hash(list) {
            return Err(bad());
        }
        let number = |from: usize| body[from..from + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let made_s = number(33);
        if now_s.saturating_sub(made_s) > CURSOR_TTL_S {
            return Err(Problem::new(
                Code::CursorExpired,
                "the cursor is older than 24 hours: start again without one",
            ));
        }
        Ok(Cursor { after: u128::from(number(9)) << 64 | u128::from(number(17)), index: number(25) })
    }
}

fn list_hash(list: &str) -> [u8; 8] {
    let hash = blake3::hash(list.as_bytes());
    let mut short = [0u8; 8];
    short.copy_from_slice(&hash.as_bytes()[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_600_000;

    #[test]
    fn a_cursor_reads_back() {
        let key = CursorKey::new("shop");
        for after in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            let cursor = Cursor { after, index: 120_331 };
            let text = key.seal("orders", cursor, NOW);
            assert_eq!(key.open("orders", &text, NOW + CURSOR_TTL_S).map_err(|problem| problem.code), Ok(cursor));
        }
    }

    #[test]
    fn a_changed_cursor_is_refused_whichever_bit_was_changed() {
        let key = CursorKey::new("shop");
        let text = key.seal("orders", Cursor { after: 7, index: 9 }, NOW);
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let problem = key.open("orders", &URL_SAFE_NO_PAD.encode(changed), NOW).unwrap_err();
            assert_eq!(problem.code, Code::ValidationFailed, "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(key.open("orders", &URL_SAFE_NO_PAD.encode(&bytes[..cut]), NOW).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_cursor_of_another_list_another_shop_or_another_day_is_refused() {
        let key = CursorKey::new("shop");
        let text = key.seal("orders", Cursor { after: 7, index: 9 }, NOW);
        let code = |list, key: &CursorKey, text: &str, now| key.open(list, text, now).unwrap_err().code;
        assert_eq!(code("skus", &key, &text, NOW), Code::ValidationFailed);
        assert_eq!(code("orders", &CursorKey::new("other"), &text, NOW), Code::ValidationFailed);
        assert_eq!(code("orders", &key, &text, NOW + CURSOR_TTL_S + 1), Code::CursorExpired);
        for text in ["", "=", "%%%", "元"] {
            assert_eq!(code("orders", &key, text, NOW), Code::ValidationFailed, "{text}");
        }
    }
}
