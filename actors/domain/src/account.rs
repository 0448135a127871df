//! An account: a customer's, or the house's, with a wallet per currency.
//!
//! The promise: what is held or spent never exceeds what is there, so a granted payment can always be booked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    entity::{At, Entity, Impossible, Kind},
    id::{AccountId, OrderId},
    money::{AMOUNT_MINOR_MAX, Currency, Money},
};

/// Currencies one account may hold money in.
pub const CURRENCIES_MAX: usize = 16;

/// Whose account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountKind {
    /// A buyer's.
    Customer,
    /// The shop's own.
    House,
}

/// Money of one currency, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    /// All of it.
    pub balance_minor: i64,
    /// The part promised to orders.
    pub held_minor: i64,
    /// What flights took from the pessimistic copy. Zero in every stored row.
    #[serde(skip)]
    taken_minor: i64,
}

impl Wallet {
    /// What may be spent.
    pub fn available_minor(&self) -> i64 {
        (self.balance_minor - self.held_minor - self.taken_minor).max(0)
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Whose.
    pub kind: AccountKind,
    /// What it is called.
    pub name: String,
    /// Money, by currency.
    pub wallets: BTreeMap<Currency, Wallet>,
    /// Number of changes.
    pub version: u64,
    /// Index of the entry that changed it last.
    pub index: u64,
    /// Log time of its creation.
    pub created_ms: i64,
}

impl Account {
    /// The wallet of a currency; an empty one where there is none.
    pub fn wallet(&self, currency: Currency) -> Wallet {
        self.wallets.get(&currency).copied().unwrap_or_default()
    }
}

/// What may be asked of an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AccountCommand {
    /// Be there: an order is placed in its name.
    Use,
    /// Put money in (positive) or take it out (negative).
    Adjust {
        /// Not zero.
        amount: Money,
        /// Free text.
        reason: String,
    },
    /// Promise money to an order.
    Hold {
        /// Which.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// Take the promise back.
    ReleaseHold {
        /// Which.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// Spend what was promised.
    Capture {
        /// Which.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// Spend without a promise.
    Pay {
        /// Which.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// Get back what was spent.
    Refund {
        /// Which.
        order: OrderId,
        /// How much.
        amount: Money,
    },
}

/// What happened to an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AccountEvent {
    /// It exists.
    Created {
        /// Under this id.
        id: AccountId,
        /// Whose.
        kind: AccountKind,
        /// Called.
        name: String,
    },
    /// Money came in or went out.
    Adjusted {
        /// Either sign.
        amount: Money,
        /// Free text.
        reason: String,
    },
    /// Money was promised.
    Held {
        /// To this order.
        order: OrderId,
        /// So much.
        amount: Money,
    },
    /// The promise was taken back.
    HoldReleased {
        /// From this order.
        order: OrderId,
        /// So much.
        amount: Money,
    },
    /// Promised money was spent.
    Captured {
        /// For this order.
        order: OrderId,
        /// So much.
        amount: Money,
    },
    /// Money was spent.
    Paid {
        /// For this order.
        order: OrderId,
        /// So much.
        amount: Money,
    },
    /// Spent money came back.
    Refunded {
        /// For this order.
        order: OrderId,
        /// So much.
        amount: Money,
    },
}

/// Why an account says no, in order of precedence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AccountRefusal {
    /// There is no such account.
    NotFound,
    /// Not enough available money.
    Insufficient {
        /// Asked for.
        requested: Money,
        /// There.
        available: Money,
    },
    /// More than a wallet may hold.
    TooMuch {
        /// What was to be added.
        amount: Money,
    },
    /// A wallet in one currency more than an account may have.
    TooManyCurrencies {
        /// The limit.
        limit: u64,
    },
}

fn spendable(account: &Account, amount: Money) -> Result<(), AccountRefusal> {
    let available = Money::new(account.wallet(amount.currency).available_minor(), amount.currency);
    if amount.minor > available.minor {
        return Err(AccountRefusal::Insufficient { requested: amount, available });
    }
    Ok(())
}

impl Entity for Account {
    const KIND: Kind = Kind::Account;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Terms = ();
    type Refusal = AccountRefusal;

    fn commutes(_command: &AccountCommand) -> bool {
        true
    }

    fn decide(state: Option<&Self>, command: &AccountCommand) -> Result<Vec<AccountEvent>, AccountRefusal> {
        let account = state.ok_or(AccountRefusal::NotFound)?;
        let event = match command {
            AccountCommand::Use => return Ok(Vec::new()),
            AccountCommand::Adjust { amount, reason } => {
                if amount.minor < 0 {
                    spendable(account, Money::new(amount.minor.saturating_neg(), amount.currency))?;
                } else if account.wallet(amount.currency).balance_minor.saturating_add(amount.minor) > AMOUNT_MINOR_MAX
                {
                    return Err(AccountRefusal::TooMuch { amount: *amount });
                }
                if !account.wallets.contains_key(&amount.currency) && account.wallets.len() >= CURRENCIES_MAX {
                    return Err(AccountRefusal::TooManyCurrencies { limit: CURRENCIES_MAX as u64 });
                }
                AccountEvent::Adjusted { amount: *amount, reason: reason.clone() }
            }
            AccountCommand::Hold { order, amount } => {
                spendable(account, *amount)?;
                AccountEvent::Held { order: *order, amount: *amount }
            }
            AccountCommand::ReleaseHold { order, amount } => {
                AccountEvent::HoldReleased { order: *order, amount: *amount }
            }
            AccountCommand::Capture { order, amount } => AccountEvent::Captured { order: *order, amount: *amount },
            AccountCommand::Pay { order, amount } => {
                spendable(account, *amount)?;
                AccountEvent::Paid { order: *order, amount: *amount }
            }
            AccountCommand::Refund { order, amount } => AccountEvent::Refunded { order: *order, amount: *amount },
        };
        Ok(vec![event])
    }

    fn evolve(state: &mut Option<Self>, event: &AccountEvent, at: At) -> Result<(), Impossible> {
        if let AccountEvent::Created { id, kind, name } = event {
            if state.is_some() {
                return Err(Impossible::because(format!("{id} created twice")));
            }
            *state = Some(Self {
                id: *id,
                kind: *kind,
                name: name.clone(),
                wallets: BTreeMap::new(),
                version: 1,
                index: at.index,
                created_ms: at.time_ms,
            });
            return Ok(());
        }
        let account =
            state.as_mut().ok_or_else(|| Impossible::because("an event for an account that was never created"))?;
        let (currency, balance, held) = match event {
            AccountEvent::Created { .. } => return Err(Impossible::because("created twice")),
            AccountEvent::Adjusted { amount, .. } | AccountEvent::Refunded { amount, .. } => {
                (amount.currency, amount.minor, 0)
            }
            AccountEvent::Held { amount, .. } => (amount.currency, 0, amount.minor),
            AccountEvent::HoldReleased { amount, .. } => (amount.currency, 0, -amount.minor),
            AccountEvent::Captured { amount, .. } => (amount.currency, -amount.minor, -amount.minor),
            AccountEvent::Paid { amount, .. } => (amount.currency, -amount.minor, 0),
        };
        let mut wallet = account.wallet(currency);
        wallet.balance_minor = wallet.balance_minor.saturating_add(balance);
        wallet.held_minor = wallet.held_minor.saturating_add(held);
        if wallet.held_minor < 0 || wallet.held_minor > wallet.balance_minor {
            return Err(Impossible::because(format!(
                "{event:?} leaves balance {} and held {}",
                wallet.balance_minor, wallet.held_minor
            )));
        }
        account.wallets.insert(currency, wallet);
        account.version += 1;
        account.index = at.index;
        Ok(())
    }

    fn take(&mut self, event: &AccountEvent) {
        let (currency, minor) = match event {
            AccountEvent::Adjusted { amount, .. } if amount.minor < 0 => (amount.currency, -amount.minor),
            AccountEvent::Held { amount, .. } | AccountEvent::Paid { amount, .. } => (amount.currency, amount.minor),
            _ => return,
        };
        self.wallets.entry(currency).or_default().taken_minor += minor;
    }

    fn give(&mut self, event: &AccountEvent) {
        let (currency, minor) = match event {
            AccountEvent::Adjusted { amount, .. } if amount.minor > 0 => (amount.currency, amount.minor),
            AccountEvent::HoldReleased { amount, .. } | AccountEvent::Refunded { amount, .. } => {
                (amount.currency, amount.minor)
            }
            _ => return,
        };
        self.wallets.entry(currency).or_default().taken_minor -= minor;
    }

    fn terms(&self) -> () {}

    fn index(&self) -> u64 {
        self.index
    }
}
