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
    /// All of it. Adding money by hand stops at [`AMOUNT_MINOR_MAX`]; a refund is never refused and may go beyond.
    pub balance_minor: i64,
    /// The part promised to orders.
    pub held_minor: i64,
    /// What flights take from the available money. Zero in every stored row.
    #[serde(skip)]
    taken_minor: i64,
    /// What flights take from the room below [`AMOUNT_MINOR_MAX`]. Zero in every stored row.
    #[serde(skip)]
    coming_minor: i64,
}

impl Wallet {
    /// What may be spent.
    pub fn available_minor(&self) -> i64 {
        self.balance_minor.saturating_sub(self.held_minor).saturating_sub(self.taken_minor).max(0)
    }

    /// What it would hold with `more`, counting what is on its way.
    fn would_hold_minor(&self, more: i64) -> i64 {
        self.balance_minor.saturating_add(self.coming_minor).saturating_add(more)
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
    /// Number of changes, its creation included.
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

    /// Moves a wallet of the pessimistic copy by `amount`: so many times what is taken, so many times what is coming.
    fn fly(&mut self, amount: &Money, taken: i64, coming: i64) {
        // As in `evolve`, nothing opens no wallet.
        if amount.minor != 0 {
            let wallet = self.wallets.entry(amount.currency).or_default();
            wallet.taken_minor += taken * amount.minor;
            wallet.coming_minor += coming * amount.minor;
        }
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
                } else if account.wallet(amount.currency).would_hold_minor(amount.minor) > AMOUNT_MINOR_MAX {
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
        // Which money, and how often it counts towards balance and held.
        let (amount, balance, held) = match event {
            AccountEvent::Created { .. } => return Err(Impossible::because("created twice")),
            AccountEvent::Adjusted { amount, .. } | AccountEvent::Refunded { amount, .. } => (amount, 1, 0),
            AccountEvent::Held { amount, .. } => (amount, 0, 1),
            AccountEvent::HoldReleased { amount, .. } => (amount, 0, -1),
            AccountEvent::Captured { amount, .. } => (amount, -1, -1),
            AccountEvent::Paid { amount, .. } => (amount, -1, 0),
        };
        let mut wallet = account.wallet(amount.currency);
        let balance = i128::from(wallet.balance_minor) + balance * i128::from(amount.minor);
        let held = i128::from(wallet.held_minor) + held * i128::from(amount.minor);
        let (Ok(balance_minor), Ok(held_minor)) = (i64::try_from(balance), i64::try_from(held)) else {
            return Err(Impossible::because(format!("{event:?} leaves balance {balance} and held {held}")));
        };
        if held_minor < 0 || held_minor > balance_minor {
            return Err(Impossible::because(format!("{event:?} leaves balance {balance} and held {held}")));
        }
        (wallet.balance_minor, wallet.held_minor) = (balance_minor, held_minor);
        // Nothing, held for a free order, opens no wallet: wallets are counted when they are opened by hand.
        if amount.minor != 0 {
            account.wallets.insert(amount.currency, wallet);
        }
        account.version += 1;
        account.index = at.index;
        Ok(())
    }

    fn take(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Adjusted { amount, .. } if amount.minor < 0 => self.fly(amount, -1, 0),
            AccountEvent::Held { amount, .. } | AccountEvent::Paid { amount, .. } => self.fly(amount, 1, 0),
            // Takes room, and where it is the first of its currency, one of the account's wallets.
            AccountEvent::Adjusted { amount, .. } | AccountEvent::Refunded { amount, .. } => self.fly(amount, 0, 1),
            AccountEvent::Created { .. } | AccountEvent::HoldReleased { .. } | AccountEvent::Captured { .. } => {}
        }
    }

    fn give(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Adjusted { amount, .. } if amount.minor < 0 => self.fly(amount, 0, 1),
            AccountEvent::Captured { amount, .. } | AccountEvent::Paid { amount, .. } => self.fly(amount, 0, -1),
            AccountEvent::Adjusted { amount, .. }
            | AccountEvent::HoldReleased { amount, .. }
            | AccountEvent::Refunded { amount, .. } => self.fly(amount, -1, 0),
            AccountEvent::Created { .. } | AccountEvent::Held { .. } => {}
        }
    }

    fn terms(state: Option<&Self>) -> Option<()> {
        state.map(|_| ())
    }

    fn index(&self) -> u64 {
        self.index
    }
}
