//! Identifiers: 128 bits, made by the leader, sorted by time, unique for ever.
//!
//! An id is log time in milliseconds (48 bits), the reign's number (40 bits) and a sequence within the reign (40
//! bits). Reigns never repeat within a lineage and a restored cluster's reigns start above the old one's, so no id is
//! made twice, without a random number. As text it is a prefix and 26 characters of Crockford's base 32, lower case,
//! whose order is the order of the bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_CHARS: usize = 26;
const REIGN_BITS: u32 = 40;
const SEQUENCE_BITS: u32 = 40;

/// A 128-bit identifier without a kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Uid(pub u128);

impl Uid {
    /// Puts an id together. `time_ms` is log time; `reign` and `sequence` must fit 40 bits.
    pub fn new(time_ms: i64, reign: u64, sequence: u64) -> Self {
        assert!(reign < 1 << REIGN_BITS, "reign {reign} does not fit an id");
        assert!(sequence < 1 << SEQUENCE_BITS, "sequence {sequence} does not fit an id");
        let time = u128::from(time_ms.max(0).unsigned_abs() & 0xffff_ffff_ffff);
        Self(time << (REIGN_BITS + SEQUENCE_BITS) | u128::from(reign) << SEQUENCE_BITS | u128::from(sequence))
    }

    /// Log time part, milliseconds since the Unix epoch.
    pub fn time_ms(self) -> i64 {
        (self.0 >> (REIGN_BITS + SEQUENCE_BITS)) as i64
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_CHARS];
        let mut rest = self.0;
        for at in (0..TEXT_CHARS).rev() {
            text[at] = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} id: expected {prefix} and 26 characters of 0-9 a-z without i, l, o, u")]
pub struct BadId {
    /// `sku`, `order`, …
    pub kind: &'static str,
    /// `sku_`, `ord_`, …
    pub prefix: &'static str,
}

impl FromStr for Uid {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = BadId { kind: "bare", prefix: "nothing before it" };
        let bytes = text.as_bytes();
        // The first character carries the top 3 bits only.
        if bytes.len() != TEXT_CHARS || bytes[0] > b'7' {
            return Err(bad);
        }
        let mut value = 0u128;
        for byte in bytes {
            let digit = ALPHABET.iter().position(|known| known == byte).ok_or_else(|| bad.clone())?;
            value = value << 5 | digit as u128;
        }
        Ok(Self(value))
    }
}

/// An id with a kind: its own type, its own prefix.
pub trait PrefixedId: Copy + From<Uid> {
    /// `sku_` and so on.
    const PREFIX: &'static str;
    /// For messages.
    const KIND: &'static str;
    /// The bare id.
    fn uid(self) -> Uid;

    /// Reads `prefix` + 26 characters.
    fn parse_prefixed(text: &str) -> Result<Self, BadId> {
        let bad = BadId { kind: Self::KIND, prefix: Self::PREFIX };
        let bare = text.strip_prefix(Self::PREFIX).ok_or_else(|| bad.clone())?;
        bare.parse::<Uid>().map(Self::from).map_err(|_| bad)
    }
}

/// Id of a [`crate::Sku`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SkuId(pub Uid);

/// Id of an [`crate::Order`]. The order number is the same without its prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId(pub Uid);

/// Id of an [`crate::Account`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub Uid);

/// Id of a [`crate::Claim`]: a hash of the claimed name and its realm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimId(pub Uid);

impl OrderId {
    /// Reads an order id, or an order number (the id without its prefix).
    pub fn parse_number_or_id(text: &str) -> Result<Self, BadId> {
        text.parse::<Uid>().map(Self).or_else(|_| Self::parse_prefixed(text))
    }

    /// The number customers are told.
    pub fn number(self) -> String {
        self.0.to_string()
    }
}

impl PrefixedId for SkuId {
    const PREFIX: &'static str = "sku_";
    const KIND: &'static str = "SKU";
    fn uid(self) -> Uid {
        self.0
    }
}

impl PrefixedId for OrderId {
    const PREFIX: &'static str = "ord_";
    const KIND: &'static str = "order";
    fn uid(self) -> Uid {
        self.0
    }
}

impl PrefixedId for AccountId {
    const PREFIX: &'static str = "acc_";
    const KIND: &'static str = "account";
    fn uid(self) -> Uid {
        self.0
    }
}

impl PrefixedId for ClaimId {
    const PREFIX: &'static str = "clm_";
    const KIND: &'static str = "claim";
    fn uid(self) -> Uid {
        self.0
    }
}

impl From<Uid> for SkuId {
    fn from(uid: Uid) -> Self {
        Self(uid)
    }
}

impl From<Uid> for OrderId {
    fn from(uid: Uid) -> Self {
        Self(uid)
    }
}

impl From<Uid> for AccountId {
    fn from(uid: Uid) -> Self {
        Self(uid)
    }
}

impl From<Uid> for ClaimId {
    fn from(uid: Uid) -> Self {
        Self(uid)
    }
}

fn write_prefixed<I: PrefixedId>(id: I, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}{}", I::PREFIX, id.uid())
}

impl fmt::Display for SkuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Debug for SkuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_prefixed(*self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_sort_alike() {
        let ids = [Uid::new(1, 1, 1), Uid::new(1, 1, 2), Uid::new(1, 2, 0), Uid::new(2, 0, 0), Uid(u128::MAX)];
        for pair in ids.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].to_string() < pair[1].to_string());
        }
    }

    #[test]
    fn text_reads_back_and_other_kinds_are_refused() {
        let sku = SkuId(Uid::new(1_763_600_000_000, 7, 42));
        assert_eq!(SkuId::parse_prefixed(&sku.to_string()), Ok(sku));
        assert!(OrderId::parse_prefixed(&sku.to_string()).is_err());
        for bad in ["", "sku_", "sku_0", "sku_8zzzzzzzzzzzzzzzzzzzzzzzzz", "sku_0000000000000000000000000u"] {
            assert!(SkuId::parse_prefixed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_order_is_found_by_number_and_by_id() {
        let order = OrderId(Uid::new(5, 6, 7));
        assert_eq!(OrderId::parse_number_or_id(&order.number()), Ok(order));
        assert_eq!(OrderId::parse_number_or_id(&order.to_string()), Ok(order));
    }
}
