//! Money: whole minor units and a currency, never a float.

use std::{fmt, str::FromStr};

use agora_planted::{self as planted, Bug};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// The largest amount one figure may hold, in minor units. Sums of two never overflow an `i64`.
pub const AMOUNT_MINOR_MAX: i64 = 1_000_000_000_000_000;

/// An ISO 4217 currency code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Currency([u8; 3]);

/// Text that is no currency code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a currency: expected three capital letters such as CNY or USD")]
pub struct BadCurrency;

impl Currency {
    /// Renminbi, the currency of the demo shop.
    pub const CNY: Self = Self(*b"CNY");

    /// Decimal places of the minor unit (ISO 4217, list one).
    pub fn exponent(self) -> u32 {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            b"CLF" | b"UYW" => 4,
            _ => 2,
        }
    }

    /// The three letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl FromStr for Currency {
    type Err = BadCurrency;

    fn from_str(text: &str) -> Result<Self, BadCurrency> {
        let bytes: [u8; 3] = text.as_bytes().try_into().map_err(|_| BadCurrency)?;
        if bytes.iter().all(u8::is_ascii_uppercase) { Ok(Self(bytes)) } else { Err(BadCurrency) }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An amount in minor units of a currency, such as fen or cents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Money {
    /// Minor units; negative where money goes the other way.
    pub minor: i64,
    /// Of which currency.
    pub currency: Currency,
}

impl Money {
    /// An amount.
    pub fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// `self × quantity`, or `None` beyond [`AMOUNT_MINOR_MAX`].
    pub fn times(self, quantity: u32) -> Option<Self> {
        let mut minor = i128::from(self.minor) * i128::from(quantity);
        if planted::is(Bug::MoneyAsFloat) {
            minor = planted::times_as_float(self.minor, quantity);
        }
        in_range(minor).map(|minor| Self { minor, ..self })
    }

    /// `self + other`, or `None` when the currencies differ or the sum is beyond [`AMOUNT_MINOR_MAX`].
    pub fn plus(self, other: Self) -> Option<Self> {
        if self.currency != other.currency {
            return None;
        }
        in_range(i128::from(self.minor) + i128::from(other.minor)).map(|minor| Self { minor, ..self })
    }

    /// The amount in major units, for display: 12345 CNY is 123.45.
    pub fn major(self) -> Decimal {
        Decimal::new(self.minor, self.currency.exponent())
    }
}

fn in_range(minor: i128) -> Option<i64> {
    i64::try_from(minor).ok().filter(|minor| minor.unsigned_abs() <= AMOUNT_MINOR_MAX.unsigned_abs())
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.major(), self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_follows_the_currency() {
        assert_eq!(Money::new(12_345, Currency::CNY).to_string(), "123.45 CNY");
        assert_eq!(Money::new(500, "JPY".parse().unwrap()).to_string(), "500 JPY");
        assert_eq!(Money::new(1_005, "KWD".parse().unwrap()).to_string(), "1.005 KWD");
    }

    #[test]
    fn sums_stay_in_range_and_in_currency() {
        let most = Money::new(AMOUNT_MINOR_MAX, Currency::CNY);
        assert_eq!(most.plus(Money::new(1, Currency::CNY)), None);
        assert_eq!(most.times(2), None);
        assert_eq!(Money::new(i64::MIN, Currency::CNY).times(1), None);
        assert_eq!(most.plus(Money::new(1, "USD".parse().unwrap())), None);
        assert_eq!(Money::new(3, Currency::CNY).times(4), Some(Money::new(12, Currency::CNY)));
    }

    #[test]
    fn only_three_capitals_are_a_currency() {
        for bad in ["", "cny", "CN", "CNYY", "C1Y", "元"] {
            assert!(bad.parse::<Currency>().is_err(), "{bad}");
        }
    }
}
