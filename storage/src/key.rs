//! How keys are laid out. Numbers are big-endian, so that keys sort like the values they are made of.
//!
//! Ids are `u128` made k-sortable by the caller (time first), so that rows written together lie together and flushed
//! runs do not overlap.

/// Longest key of a row, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Key in the Entity keyspace: `kind ‖ id`.
pub fn entity(kind: u8, id: u128) -> [u8; 17] {
    let mut key = [0; 17];
    key[0] = kind;
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// Key in the Feed keyspace: `log index ‖ position within the entry`.
pub fn feed(index: u64, sub: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// The reverse of [`feed`]; `None` if the key has another length.
pub fn parse_feed(key: &[u8]) -> Option<(u64, u32)> {
    let (index, sub) = key.split_at_checked(8)?;
    Some((u64::from_be_bytes(index.try_into().ok()?), u32::from_be_bytes(sub.try_into().ok()?)))
}

/// Key in the Index keyspace: `kind ‖ prefix ‖ suffix`. All prefixes of one kind must have the same length, so that no
/// prefix is the beginning of another one.
pub fn index_entry(kind: u8, prefix: &[u8], suffix: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + prefix.len() + suffix.len());
    key.push(kind);
    key.extend_from_slice(prefix);
    key.extend_from_slice(suffix);
    key
}

/// Key in an Outcomes keyspace: the hash of the idempotency key in its scope.
pub fn outcome(hash: u128) -> [u8; 16] {
    hash.to_be_bytes()
}

/// The first key after all keys that begin with `prefix`; `None` if there is none (empty, or all bytes 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes_of_keys() {
        assert_eq!(entity(3, 0x0102), [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(feed(0x0102, 3), [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        assert_eq!(index_entry(9, b"ab", b"c"), b"\x09abc");
        assert_eq!(outcome(1)[15], 1);
    }

    #[test]
    fn prefix_end_follows_all_keys_with_the_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    proptest! {
        #[test]
        fn keys_sort_like_values(a: (u8, u128), b: (u8, u128), f: (u64, u32), g: (u64, u32)) {
            prop_assert_eq!(entity(a.0, a.1).cmp(&entity(b.0, b.1)), a.cmp(&b));
            prop_assert_eq!(feed(f.0, f.1).cmp(&feed(g.0, g.1)), f.cmp(&g));
            prop_assert_eq!(outcome(a.1).cmp(&outcome(b.1)), a.1.cmp(&b.1));
            prop_assert_eq!(parse_feed(&feed(f.0, f.1)), Some(f));
        }

        #[test]
        fn prefix_end_is_a_tight_bound(prefix: Vec<u8>, key: Vec<u8>) {
            if let Some(end) = prefix_end(&prefix) {
                let inside = key >= prefix && key < end;
                prop_assert_eq!(inside, key.starts_with(&prefix));
            }
        }
    }
}
