//! Double entry: every movement of money is a set of legs that sums to nothing.
//!
//! A positive leg debits its account, a negative one credits it. Nobody decides about a ledger account; it is the sum
//! of the legs that name it, kept as a row so that the trial balance is a short scan.

use serde::{Deserialize, Serialize};

use crate::{
    entity::Impossible,
    id::AccountId,
    money::{Currency, Money},
};

/// Legs one transaction may carry.
pub const LEGS_MAX: usize = 1_024;

/// Where money can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LedgerAccount {
    /// What we owe the holder of an account.
    Wallet(AccountId),
    /// What orders earned.
    SalesRevenue,
    /// The other side of money put into or taken out of wallets by hand.
    WalletFunding,
}

/// One side of a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Where.
    pub account: LedgerAccount,
    /// Debit if positive, credit if negative.
    pub amount: Money,
}

/// The sums of a ledger account in one currency, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Which account.
    pub account: LedgerAccount,
    /// Which currency.
    pub currency: Currency,
    /// Sum of all debits.
    pub debit_minor: i128,
    /// Sum of all credits, as a positive number.
    pub credit_minor: i128,
    /// Index of the entry that changed it last.
    pub index: u64,
}

impl LedgerAccount {
    /// A 128-bit row id: a tag, then the currency, or for a wallet the account's id folded with the currency.
    pub fn row_id(self, currency: Currency) -> u128 {
        let letters = currency.as_str().bytes().fold(0u128, |sum, byte| sum << 8 | u128::from(byte));
        match self {
            Self::Wallet(account) => account.0.0 ^ letters << 104,
            Self::SalesRevenue => 1 << 32 | letters,
            Self::WalletFunding => 2 << 32 | letters,
        }
    }
}

impl LedgerRow {
    /// A row nobody has posted to.
    pub fn empty(account: LedgerAccount, currency: Currency) -> Self {
        Self { account, currency, debit_minor: 0, credit_minor: 0, index: 0 }
    }

    /// Adds one leg.
    pub fn post(&mut self, leg: &Leg, index: u64) {
        let minor = i128::from(leg.amount.minor);
        if minor >= 0 {
            self.debit_minor += minor;
        } else {
            self.credit_minor -= minor;
        }
        self.index = index;
    }
}

/// Moves `amount` from one account to another: a debit here, a credit there.
pub fn transfer(debit: LedgerAccount, credit: LedgerAccount, amount: Money) -> [Leg; 2] {
    [Leg { account: debit, amount }, Leg { account: credit, amount: Money::new(-amount.minor, amount.currency) }]
}

/// Checks that the legs sum to nothing in every currency.
///
/// # Errors
/// [`Impossible`] with the first currency that does not balance.
pub fn balanced(legs: &[Leg]) -> Result<(), Impossible> {
    for (at, leg) in legs.iter().enumerate() {
        let currency = leg.amount.currency;
        if legs[..at].iter().any(|earlier| earlier.amount.currency == currency) {
            continue;
        }
        let of_currency = legs.iter().filter(|leg| leg.amount.currency == currency);
        let sum: i128 = of_currency.map(|leg| i128::from(leg.amount.minor)).sum();
        if sum != 0 {
            return Err(Impossible::because(format!("postings in {currency} are off balance by {sum}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Uid;

    #[test]
    fn a_transfer_balances_and_half_of_it_does_not() {
        let wallet = LedgerAccount::Wallet(AccountId(Uid(7)));
        let legs = transfer(wallet, LedgerAccount::SalesRevenue, Money::new(500, Currency::CNY));
        assert_eq!(balanced(&legs), Ok(()));
        assert!(balanced(&legs[..1]).is_err());
    }

    #[test]
    fn currencies_balance_each_for_itself() {
        let usd = "USD".parse().unwrap();
        let legs = [
            Leg { account: LedgerAccount::SalesRevenue, amount: Money::new(5, Currency::CNY) },
            Leg { account: LedgerAccount::SalesRevenue, amount: Money::new(-5, usd) },
        ];
        assert!(balanced(&legs).is_err());
    }
}
