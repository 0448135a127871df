//! What a request asks of whom, and the transaction that comes of it.
//!
//! The request coordinates itself: it asks every entity it touches for a grant, all at once, and puts what was granted
//! into one transaction. A refusal is a transaction too, with no events. Whoever answers *not now* makes the request
//! give back everything, wait until that entity has changed, and ask again one entity after the other in id order; so
//! nobody ever holds and waits.

use std::collections::BTreeMap;

use agora_domain::{
    Account, AccountCommand, AccountEvent, AccountId, Change, Claim, ClaimCommand, ClaimId, Command, Money, Order,
    OrderCommand, OrderEvent, OrderId, OrderStatus, PlaceOrder, Rejection, Sku, SkuCommand, SkuEvent, SkuId, SkuTerms,
    Uid,
    account::AccountRefusal,
    claim::ClaimRefusal,
    ledger::{self, LedgerAccount, Leg},
    order::{Line, OrderRefusal, Provider},
    rejection::{InvalidCoupon, Shortage},
    sku::SkuRefusal,
    transaction::Outcome,
};
use agora_planted::{self as planted, Bug};
use agora_storage::rows::Rows;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    grant::Grant,
    host::{Hosted, Reply},
    hosts::Hosts,
    together,
};

/// Rounds of *not now* before a request gives up as overloaded; its deadline usually comes first.
const ROUNDS_MAX: usize = 10_000;
/// After so many rounds, requests go on one at a time. Two baskets that want the same last units in different order
/// could otherwise make each other give back for ever.
const ROUNDS_SIDE_BY_SIDE: usize = 3;

/// Why there is nothing to propose. A definite no in every case: nothing reached the journal.
#[derive(Debug)]
pub enum Undecided {
    /// The reign ended.
    Stale,
    /// Too many wait for the same entity.
    Overloaded,
    /// Rows could not be read.
    Failed(String),
}

/// A decision on its way to the journal, with the grants it stands on.
pub struct Decided {
    /// Index of the state a refusal was decided on; 0 where there is none.
    pub decided_at: u64,
    /// Events in the order they take effect.
    pub changes: Vec<Change>,
    /// Postings.
    pub legs: Vec<Leg>,
    /// The answer in the making.
    pub outcome: Outcome,
    /// Kept when the transaction is in the journal; given back when dropped.
    pub grants: Grants,
}

/// Grants of one request.
#[derive(Default)]
pub struct Grants {
    skus: Vec<Grant<Sku>>,
    orders: Vec<Grant<Order>>,
    accounts: Vec<Grant<Account>>,
    claims: Vec<Grant<Claim>>,
}

impl Grants {
    /// The transaction is in the journal.
    pub fn keep(self) {
        self.skus.into_iter().for_each(Grant::keep);
        self.orders.into_iter().for_each(Grant::keep);
        self.accounts.into_iter().for_each(Grant::keep);
        self.claims.into_iter().for_each(Grant::keep);
    }
}

/// What stands in the way of a decision, inside this module.
enum Halt {
    /// A definite refusal.
    Refuse(Rejection, u64),
    /// Give back and wait for this entity.
    NotNow(Waiting),
    /// This SKU refuses, and one look at the rows of all does not: give back and ask again when it has changed.
    NotTogether(SkuId),
    Undecided(Undecided),
}

#[derive(Clone, Copy)]
enum Waiting {
    Sku(u128),
    Account(u128),
}

/// How a round of asking goes.
#[derive(Clone, Copy)]
struct Round {
    /// One entity after the other, in id order.
    one_by_one: bool,
    /// What several SKUs refuse must be so of one state of the rows, see [`crate::together`].
    together: bool,
}

type Step<T> = Result<T, Halt>;

/// Makes ids that never repeat: log time, reign, sequence.
#[derive(Debug, Default)]
pub struct IdMaker {
    sequence: AtomicU64,
}

impl IdMaker {
    /// The next id of a reign. The sequence is shared by all reigns of a process, which does no harm.
    pub fn next(&self, log_time_ms: i64, reign: u64) -> Uid {
        Uid::new(log_time_ms, reign, self.sequence.fetch_add(1, Ordering::Relaxed) & 0xff_ffff_ffff)
    }
}

/// Takes one request's decisions in one reign.
pub struct Checkout<'a> {
    /// Whom to ask.
    pub hosts: &'a Hosts,
    /// In which reign.
    pub reign: u64,
    /// Log time now, by the journal.
    pub now_ms: i64,
    /// New ids.
    pub ids: &'a IdMaker,
    /// How long an unpaid order lives, in milliseconds.
    pub order_ttl_ms: u64,
    /// What is committed here.
    pub rows: Arc<dyn Rows>,
    /// Whoever has heard *not now* too often goes through here; nothing is held while waiting for it.
    pub turnstile: &'a tokio::sync::Mutex<()>,
}

impl Decided {
    /// Whether it refuses anything.
    pub fn refuses(&self) -> bool {
        match &self.outcome {
            Outcome::Refused(_) => true,
            Outcome::Orders(items) => items.iter().any(Result::is_err),
            _ => false,
        }
    }

    /// Changes nothing and is answered so.
    fn nothing(outcome: Outcome, decided_at: u64) -> Self {
        Self { decided_at, changes: Vec::new(), legs: Vec::new(), outcome, grants: Grants::default() }
    }
}

fn sku_changes(grant: &Grant<Sku>) -> impl Iterator<Item = Change> + '_ {
    let id = SkuId(Uid(grant.id));
    grant.events.iter().map(move |event| Change::Sku(id, event.clone()))
}

fn account_changes(grant: &Grant<Account>) -> impl Iterator<Item = Change> + '_ {
    let id = AccountId(Uid(grant.id));
    grant.events.iter().map(move |event| Change::Account(id, event.clone()))
}

/// What many SKUs said, sorted out.
#[derive(Default)]
struct SkuAnswers {
    granted: BTreeMap<SkuId, Grant<Sku>>,
    missing: Vec<SkuId>,
    unsellable: Vec<SkuId>,
    short: Vec<Shortage>,
    too_many: Option<Rejection>,
    decided_at: u64,
}

impl SkuAnswers {
    fn take(&mut self, id: SkuId, reply: Reply<Sku>) -> Step<()> {
        match reply {
            Reply::Granted(grant) => {
                self.granted.insert(id, grant);
                Ok(())
            }
            Reply::Refused { refusal, decided_at } => {
                self.decided_at = self.decided_at.max(decided_at);
                match refusal {
                    SkuRefusal::NotFound => self.missing.push(id),
                    SkuRefusal::NotSellable => self.unsellable.push(id),
                    SkuRefusal::Short { requested, available } => {
                        self.short.push(Shortage { sku: id, requested, available });
                    }
                    other => self.too_many = Some(sku_rejection(id, other)),
                }
                Ok(())
            }
            Reply::NotNow => Err(Halt::NotNow(Waiting::Sku(id.0.0))),
            other => Err(undecided(other)),
        }
    }

    fn first_refused(&self) -> Option<SkuId> {
        let short = self.short.iter().map(|short| &short.sku);
        self.missing.iter().chain(&self.unsellable).chain(short).next().copied()
    }

    /// The refusal they add up to, in order of precedence; every short SKU and every bad coupon is listed.
    fn refusal(&mut self, invalid_coupons: Vec<InvalidCoupon>) -> Option<Rejection> {
        if !self.missing.is_empty() {
            return Some(Rejection::SkusNotFound(std::mem::take(&mut self.missing)));
        }
        if !self.unsellable.is_empty() {
            return Some(Rejection::NotSellable(std::mem::take(&mut self.unsellable)));
        }
        if !self.short.is_empty() {
            return Some(Rejection::Shortage { shortages: std::mem::take(&mut self.short), invalid_coupons });
        }
        if !invalid_coupons.is_empty() {
            return Some(Rejection::CouponsInvalid(invalid_coupons));
        }
        self.too_many.take()
    }
}

fn undecided<E: Hosted>(reply: Reply<E>) -> Halt {
    Halt::Undecided(match reply {
        Reply::Stale => Undecided::Stale,
        Reply::Failed(message) => Undecided::Failed(message),
        // The arms before this one have dealt with the others.
        _ => Undecided::Overloaded,
    })
}

fn sku_rejection(sku: SkuId, refusal: SkuRefusal) -> Rejection {
    match refusal {
        SkuRefusal::NotFound => Rejection::SkusNotFound(vec![sku]),
        SkuRefusal::NotSellable => Rejection::NotSellable(vec![sku]),
        SkuRefusal::Short { requested, available } => {
            Rejection::Shortage { shortages: vec![Shortage { sku, requested, available }], invalid_coupons: Vec::new() }
        }
        SkuRefusal::VersionMismatch { expected, current } => Rejection::VersionMismatch { expected, current },
        SkuRefusal::CurrencyMismatch { given, current } => Rejection::CurrencyMismatch { left: given, right: current },
        SkuRefusal::TooMany { .. } => Rejection::LimitExceeded {
            what: format!("units on hand of {sku}"),
            limit: agora_domain::sku::ON_HAND_UNITS_MAX,
        },
    }
}

fn account_rejection(account: AccountId, refusal: AccountRefusal) -> Rejection {
    match refusal {
        AccountRefusal::NotFound => Rejection::AccountNotFound(account),
        AccountRefusal::Insufficient { requested, available } => {
            Rejection::InsufficientBalance { requested, available }
        }
        AccountRefusal::TooMuch { .. } => Rejection::LimitExceeded {
            what: format!("balance of {account}"),
            limit: agora_domain::money::AMOUNT_MINOR_MAX.unsigned_abs(),
        },
        AccountRefusal::TooManyCurrencies { limit } => {
            Rejection::LimitExceeded { what: format!("currencies of {account}"), limit }
        }
    }
}

/// Waits for an answer. A host that is gone belongs to a node that is stopping.
async fn answer<E: Hosted>(receiver: tokio::sync::oneshot::Receiver<Reply<E>>) -> Reply<E> {
    receiver.await.unwrap_or(Reply::Stale)
}

/// An order of a batch being decided: what earlier items of the same transaction hold already.
#[derive(Default)]
struct Held {
    skus: BTreeMap<SkuId, Vec<u64>>,
    accounts: BTreeMap<AccountId, Vec<u64>>,
    /// What they do.
    events: BTreeMap<SkuId, Vec<SkuEvent>>,
}

/// One decided order.
struct Placed {
    order: OrderId,
    changes: Vec<Change>,
    grants: Grants,
}

impl Checkout<'_> {
    /// Decides a command. Waits where entities say *not now*; the caller sets the deadline by dropping the future,
    /// which gives back everything.
    ///
    /// # Errors
    /// [`Undecided`]: nothing was decided and nothing is held.
    pub async fn decide(&self, command: &Command) -> Result<Decided, Undecided> {
        let mut one_by_one = false;
        let mut alone = None;
        let mut apart = 0;
        for round in 0..ROUNDS_MAX {
            if alone.is_none() && round - apart == ROUNDS_SIDE_BY_SIDE {
                alone = Some(self.turnstile.lock().await);
            }
            let together = apart < together::ROUNDS_MAX;
            let halt = match self.attempt(command, Round { one_by_one, together }).await {
                Ok(decided) => return Ok(decided),
                Err(halt) => halt,
            };
            match halt {
                Halt::Refuse(rejection, decided_at) => {
                    return Ok(Decided::nothing(Outcome::Refused(rejection), decided_at));
                }
                Halt::Undecided(undecided) => return Err(undecided),
                Halt::NotNow(Waiting::Sku(id)) => self.hosts.skus.settle(self.reign, id).await,
                Halt::NotTogether(id) => {
                    apart += 1;
                    self.hosts.skus.settle(self.reign, id.0.0).await;
                }
                Halt::NotNow(Waiting::Account(id)) => self.hosts.accounts.settle(self.reign, id).await,
            }
            one_by_one = true;
        }
        drop(alone);
        Err(Undecided::Overloaded)
    }

    async fn attempt(&self, command: &Command, round: Round) -> Step<Decided> {
        match command {
            Command::CreateSku { code, name, price, sellable } => self.create_sku(code, name, *price, *sellable).await,
            Command::ChangeSku { sku, expected_version, price, name, sellable } => {
                let command = SkuCommand::Change {
                    expected_version: *expected_version,
                    price: *price,
                    name: name.clone(),
                    sellable: *sellable,
                };
                self.one_sku(*sku, command, Outcome::Sku(*sku)).await
            }
            Command::AdjustStock { sku, delta, reason } => {
                let command = SkuCommand::Adjust { delta: *delta, reason: reason.clone() };
                self.one_sku(*sku, command, Outcome::Stocks(vec![*sku])).await
            }
            Command::ReceiveStock { lines, reason } => self.receive(lines, reason, round).await,
            Command::CreateAccount { name, kind } => {
                let id = AccountId(self.ids.next(self.now_ms, self.reign));
                let created = AccountEvent::Created { id, kind: *kind, name: name.clone() };
                Ok(Decided {
                    decided_at: 0,
                    changes: vec![Change::Account(id, created)],
                    legs: Vec::new(),
                    outcome: Outcome::Account(id),
                    grants: Grants::default(),
                })
            }
            Command::AdjustWallet { account, amount, reason } => self.adjust_wallet(*account, *amount, reason).await,
            Command::PlaceOrder(order) => {
                let placed = self.place(order, &Held::default(), round).await?;
                Ok(Decided {
                    decided_at: 0,
                    changes: placed.changes,
                    legs: Vec::new(),
                    outcome: Outcome::Order(placed.order),
                    grants: placed.grants,
                })
            }
            Command::PlaceOrders(orders) => self.place_many(orders, round).await,
            Command::CancelOrder { order, reason } => {
                self.move_order(*order, OrderCommand::Cancel { reason: reason.clone() }).await
            }
            Command::PayOrder { order, provider } => {
                self.move_order(*order, OrderCommand::Pay { provider: *provider }).await
            }
            Command::ShipOrder { order, note } => {
                self.move_order(*order, OrderCommand::Ship { note: note.clone() }).await
            }
            Command::ConfirmReceipt { order } => self.move_order(*order, OrderCommand::ConfirmReceipt).await,
            Command::ExpireOrder { order } => {
                self.move_order(*order, OrderCommand::Expire { now_ms: self.now_ms }).await
            }
        }
    }

    async fn create_sku(&self, code: &str, name: &str, price: Money, sellable: bool) -> Step<Decided> {
        let id = SkuId(self.ids.next(self.now_ms, self.reign));
        let claim = claim_id("sku_code", code);
        let command = ClaimCommand::Take { name: format!("sku_code:{code}"), owner: id.0 };
        let grant = match answer(self.hosts.claims.ask(self.reign, claim.0.0, command, Vec::new(), true)).await {
            Reply::Granted(grant) => grant,
            Reply::Refused { refusal: ClaimRefusal::Taken { owner }, decided_at } => {
                return Err(Halt::Refuse(
                    Rejection::CodeTaken { code: code.to_owned(), owner: SkuId(owner) },
                    decided_at,
                ));
            }
            other => return Err(undecided(other)),
        };
        let terms = SkuTerms { code: code.to_owned(), name: name.to_owned(), price, sellable };
        let mut changes: Vec<Change> = grant.events.iter().map(|event| Change::Claim(claim, event.clone())).collect();
        changes.push(Change::Sku(id, SkuEvent::Created { terms: Arc::new(terms), id }));
        Ok(Decided {
            decided_at: 0,
            changes,
            legs: Vec::new(),
            outcome: Outcome::Sku(id),
            grants: Grants { claims: vec![grant], ..Grants::default() },
        })
    }

    async fn one_sku(&self, sku: SkuId, command: SkuCommand, outcome: Outcome) -> Step<Decided> {
        match answer(self.hosts.skus.ask(self.reign, sku.0.0, command, Vec::new(), true)).await {
            Reply::Granted(grant) => Ok(Decided {
                decided_at: 0,
                changes: sku_changes(&grant).collect(),
                legs: Vec::new(),
                outcome,
                grants: Grants { skus: vec![grant], ..Grants::default() },
            }),
            Reply::Refused { refusal, decided_at } => Err(Halt::Refuse(sku_rejection(sku, refusal), decided_at)),
            other => Err(undecided(other)),
        }
    }

    /// Asks many SKUs, all at once or one after the other in id order.
    async fn ask_skus(&self, asks: &BTreeMap<SkuId, SkuCommand>, held: &Held, one_by_one: bool) -> Step<SkuAnswers> {
        let mut answers = SkuAnswers::default();
        let own = |id: &SkuId| held.skus.get(id).cloned().unwrap_or_default();
        if one_by_one {
            for (id, command) in asks {
                let reply = self.hosts.skus.ask(self.reign, id.0.0, command.clone(), own(id), false);
                answers.take(*id, answer(reply).await)?;
            }
            return Ok(answers);
        }
        let asked: Vec<_> = asks
            .iter()
            .map(|(id, command)| (*id, self.hosts.skus.ask(self.reign, id.0.0, command.clone(), own(id), false)))
            .collect();
        let mut halted = None;
        for (id, receiver) in asked {
            // Every answer is waited for, so that what was granted is given back before anything else is done.
            if let Err(halt) = answers.take(id, answer(receiver).await) {
                halted.get_or_insert(halt);
            }
        }
        match halted {
            Some(halt) => Err(halt),
            None => Ok(answers),
        }
    }

    /// What several SKUs refuse, as it was of one state of the rows: each of them answered for its own moment.
    fn told_together(
        &self,
        answers: SkuAnswers,
        asks: &BTreeMap<SkuId, SkuCommand>,
        held: &Held,
        round: Round,
    ) -> Step<SkuAnswers> {
        let Some(first) = answers.first_refused().filter(|_| asks.len() > 1 && round.together) else {
            return Ok(answers);
        };
        let together = together::decide(self.rows.as_ref(), asks, &held.events)
            .map_err(|error| Halt::Undecided(Undecided::Failed(error.to_string())))?;
        if together.refused.is_empty() {
            // What is short is so behind grants that are in the journal and not applied yet.
            return Err(Halt::NotTogether(first));
        }
        let mut told = SkuAnswers { decided_at: together.index, ..SkuAnswers::default() };
        for (id, refusal) in together.refused {
            told.take(id, Reply::Refused { refusal, decided_at: together.index })?;
        }
        Ok(told)
    }

    async fn receive(&self, lines: &[(SkuId, u32)], reason: &str, round: Round) -> Step<Decided> {
        let summed = match sum_quantities(lines) {
            Ok(summed) => summed,
            Err(rejection) => return Err(Halt::Refuse(rejection, 0)),
        };
        let ids: Vec<SkuId> = summed.keys().copied().collect();
        let command = |quantity| SkuCommand::Receive { quantity, reason: reason.to_owned() };
        let asks: BTreeMap<_, _> = summed.into_iter().map(|(id, quantity)| (id, command(quantity))).collect();
        let held = Held::default();
        let mut answers = self.ask_skus(&asks, &held, round.one_by_one).await?;
        answers = self.told_together(answers, &asks, &held, round)?;
        if let Some(rejection) = answers.refusal(Vec::new()) {
            return Err(Halt::Refuse(rejection, answers.decided_at));
        }
        let skus: Vec<Grant<Sku>> = answers.granted.into_values().collect();
        Ok(Decided {
            decided_at: 0,
            changes: skus.iter().flat_map(sku_changes).collect(),
            legs: Vec::new(),
            outcome: Outcome::Stocks(ids),
            grants: Grants { skus, ..Grants::default() },
        })
    }

    async fn adjust_wallet(&self, account: AccountId, amount: Money, reason: &str) -> Step<Decided> {
        let command = AccountCommand::Adjust { amount, reason: reason.to_owned() };
        let grant = match answer(self.hosts.accounts.ask(self.reign, account.0.0, command, Vec::new(), true)).await {
            Reply::Granted(grant) => grant,
            Reply::Refused { refusal, decided_at } => {
                return Err(Halt::Refuse(account_rejection(account, refusal), decided_at));
            }
            other => return Err(undecided(other)),
        };
        Ok(Decided {
            decided_at: 0,
            changes: account_changes(&grant).collect(),
            legs: ledger::transfer(LedgerAccount::WalletFunding, LedgerAccount::Wallet(account), amount).into(),
            outcome: Outcome::Account(account),
            grants: Grants { accounts: vec![grant], ..Grants::default() },
        })
    }

    async fn ask_account(&self, account: AccountId, command: AccountCommand, own: Vec<u64>) -> Step<Grant<Account>> {
        match answer(self.hosts.accounts.ask(self.reign, account.0.0, command, own, false)).await {
            Reply::Granted(grant) => Ok(grant),
            Reply::Refused { refusal, decided_at } => {
                Err(Halt::Refuse(account_rejection(account, refusal), decided_at))
            }
            Reply::NotNow => Err(Halt::NotNow(Waiting::Account(account.0.0))),
            other => Err(undecided(other)),
        }
    }

    /// Decides one order: all SKUs, the account and the order, or nothing.
    async fn place(&self, order: &PlaceOrder, held: &Held, round: Round) -> Step<Placed> {
        let own_account = held.accounts.get(&order.account).cloned().unwrap_or_default();
        let summed = match sum_quantities(&order.items) {
            Ok(summed) => summed,
            Err(rejection) => return Err(Halt::Refuse(rejection, 0)),
        };
        let id = OrderId(self.ids.next(self.now_ms, self.reign));
        let asks: BTreeMap<SkuId, SkuCommand> = summed
            .iter()
            .map(|(sku, quantity)| (*sku, SkuCommand::Reserve { order: id, quantity: *quantity }))
            .collect();
        let use_account =
            self.hosts.accounts.ask(self.reign, order.account.0.0, AccountCommand::Use, own_account.clone(), false);
        let answers = self.ask_skus(&asks, held, round.one_by_one).await;
        let buyer = match answer(use_account).await {
            Reply::Granted(grant) => grant,
            Reply::Refused { refusal, decided_at } => {
                return Err(Halt::Refuse(account_rejection(order.account, refusal), decided_at));
            }
            Reply::NotNow => return Err(Halt::NotNow(Waiting::Account(order.account.0.0))),
            other => return Err(undecided(other)),
        };
        let mut answers = answers?;
        if planted::is(Bug::PartialTakeLeftAfterRefusal) && answers.first_refused().is_some() {
            std::mem::take(&mut answers.granted).into_values().for_each(std::mem::forget);
        }
        answers = self.told_together(answers, &asks, held, round)?;
        // No coupon has been issued yet, so every code is unknown.
        let unknown = |code: &String| InvalidCoupon { code: code.clone(), reason: "UNKNOWN".to_owned() };
        if let Some(rejection) = answers.refusal(order.coupon_codes.iter().map(unknown).collect()) {
            return Err(Halt::Refuse(rejection, answers.decided_at));
        }
        let (lines, total) = match price_lines(&summed, &answers.granted) {
            Ok(priced) => priced,
            // Prices change alone, so what the grants say is so from here to where they are journalled.
            Err(rejection) => return Err(Halt::Refuse(rejection, answers.decided_at)),
        };
        let mut grants = Grants { accounts: vec![buyer], ..Grants::default() };
        let mut changes: Vec<Change> = Vec::with_capacity(lines.len() + 2);
        if order.hold_balance {
            let mut own = own_account;
            own.extend(grants.accounts.iter().map(Grant::number));
            let hold = AccountCommand::Hold { order: id, amount: total };
            let grant = self.ask_account(order.account, hold, own).await?;
            changes.extend(account_changes(&grant));
            grants.accounts.push(grant);
        }
        grants.skus = answers.granted.into_values().collect();
        changes.extend(grants.skus.iter().flat_map(sku_changes));
        let placed = OrderEvent::Placed {
            id,
            account: order.account,
            lines,
            total,
            held: order.hold_balance,
            ttl_ms: self.order_ttl_ms,
            note: order.note.clone(),
        };
        changes.push(Change::Order(id, placed));
        Ok(Placed { order: id, changes, grants })
    }

    /// Decides a batch: one transaction whose items are decided one by one; a refused item takes nothing.
    async fn place_many(&self, orders: &[PlaceOrder], round: Round) -> Step<Decided> {
        let mut held = Held::default();
        let mut decided = Decided::nothing(Outcome::None, 0);
        let mut items = Vec::with_capacity(orders.len());
        for order in orders {
            match self.place(order, &held, round).await {
                Ok(placed) => {
                    for grant in &placed.grants.skus {
                        let sku = SkuId(Uid(grant.id));
                        held.skus.entry(sku).or_default().push(grant.number());
                        held.events.entry(sku).or_default().extend(grant.events.iter().cloned());
                    }
                    for grant in &placed.grants.accounts {
                        held.accounts.entry(AccountId(Uid(grant.id))).or_default().push(grant.number());
                    }
                    decided.changes.extend(placed.changes);
                    decided.grants.skus.extend(placed.grants.skus);
                    decided.grants.accounts.extend(placed.grants.accounts);
                    items.push(Ok(placed.order));
                }
                Err(Halt::Refuse(rejection, decided_at)) => {
                    decided.decided_at = decided.decided_at.max(decided_at);
                    items.push(Err(rejection));
                }
                Err(halt) => return Err(halt),
            }
        }
        decided.outcome = Outcome::Orders(items);
        Ok(decided)
    }

    /// Moves an order on, with everything that goes with it.
    async fn move_order(&self, order: OrderId, command: OrderCommand) -> Step<Decided> {
        let moving = match answer(self.hosts.orders.ask(self.reign, order.0.0, command.clone(), Vec::new(), true)).await
        {
            Reply::Granted(grant) => grant,
            Reply::Refused { refusal, decided_at } => {
                let rejection = match refusal {
                    OrderRefusal::InvalidTransition { from, to } => Rejection::InvalidTransition { order, from, to },
                    // Only the timer asks for expiry; it looks at neither of these.
                    OrderRefusal::NotFound | OrderRefusal::NotDue { .. } => Rejection::OrderNotFound(order),
                };
                return Err(Halt::Refuse(rejection, decided_at));
            }
            other => return Err(undecided(other)),
        };
        let was = moving.terms.clone();
        let mut decided = Decided {
            decided_at: 0,
            changes: moving.events.iter().map(|event| Change::Order(order, event.clone())).collect(),
            legs: Vec::new(),
            outcome: Outcome::Order(order),
            grants: Grants { orders: vec![moving], ..Grants::default() },
        };
        if decided.changes.is_empty() {
            let paid = was.steps.iter().any(|step| step.status == OrderStatus::Paid);
            if paid && matches!(command, OrderCommand::Cancel { .. }) && planted::is(Bug::RefundBeyondCapture) {
                self.refund_again(&was, &mut decided).await?;
            }
            return Ok(decided);
        }
        let wallet = LedgerAccount::Wallet(was.account);
        match command {
            OrderCommand::Pay { provider: Provider::Balance } => {
                let amount = was.total;
                let pay = if was.held {
                    AccountCommand::Capture { order, amount }
                } else {
                    AccountCommand::Pay { order, amount }
                };
                let grant = self.ask_account(was.account, pay, Vec::new()).await?;
                decided.changes.extend(account_changes(&grant));
                decided.grants.accounts.push(grant);
                decided.legs = ledger::transfer(wallet, LedgerAccount::SalesRevenue, amount).into();
            }
            OrderCommand::Cancel { .. } | OrderCommand::Expire { .. } => {
                let release = |line: &Line| SkuCommand::Release { order, quantity: line.quantity };
                self.move_stock(&was, release, &mut decided).await?;
                let amount = was.total;
                let back = match was.status() {
                    OrderStatus::Paid => {
                        decided.legs = ledger::transfer(LedgerAccount::SalesRevenue, wallet, amount).into();
                        Some(AccountCommand::Refund { order, amount })
                    }
                    _ if was.held && planted::is(Bug::HoldLeftAfterCancel) => None,
                    _ if was.held => Some(AccountCommand::ReleaseHold { order, amount }),
                    _ => None,
                };
                if let Some(back) = back {
                    let grant = self.ask_account(was.account, back, Vec::new()).await?;
                    decided.changes.extend(account_changes(&grant));
                    decided.grants.accounts.push(grant);
                }
            }
            OrderCommand::Ship { .. } => {
                let ship = |line: &Line| SkuCommand::Ship { order, quantity: line.quantity };
                self.move_stock(&was, ship, &mut decided).await?;
            }
            OrderCommand::ConfirmReceipt => {}
        }
        Ok(decided)
    }

    /// What [`Bug::RefundBeyondCapture`] does.
    async fn refund_again(&self, order: &Order, decided: &mut Decided) -> Step<()> {
        let refund = AccountCommand::Refund { order: order.id, amount: order.total };
        let grant = self.ask_account(order.account, refund, Vec::new()).await?;
        decided.changes.extend(account_changes(&grant));
        decided.grants.accounts.push(grant);
        let wallet = LedgerAccount::Wallet(order.account);
        decided.legs = ledger::transfer(LedgerAccount::SalesRevenue, wallet, order.total).into();
        Ok(())
    }

    async fn move_stock(
        &self,
        order: &Order,
        command: impl Fn(&Line) -> SkuCommand,
        decided: &mut Decided,
    ) -> Step<()> {
        let asks = order.lines.iter().map(|line| (line.sku, command(line))).collect();
        // The order is held, so nobody may be waited for: not now gives back and comes again.
        let mut answers = self.ask_skus(&asks, &Held::default(), false).await?;
        if let Some(rejection) = answers.refusal(Vec::new()) {
            return Err(Halt::Refuse(rejection, answers.decided_at));
        }
        decided.grants.skus = answers.granted.into_values().collect();
        decided.changes.extend(decided.grants.skus.iter().flat_map(sku_changes));
        Ok(())
    }
}

/// The id of a name in a realm: its first 128 bits of blake3.
pub fn claim_id(realm: &str, name: &str) -> ClaimId {
    let hash = blake3::hash(format!("{realm}:{name}").as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_bytes()[..16]);
    ClaimId(Uid(u128::from_be_bytes(first)))
}

/// Sums what is named twice, so that two lines for one SKU are checked together.
fn sum_quantities(items: &[(SkuId, u32)]) -> Result<BTreeMap<SkuId, u32>, Rejection> {
    let mut summed: BTreeMap<SkuId, u32> = BTreeMap::new();
    for (sku, quantity) in items {
        let sum = summed.entry(*sku).or_default();
        *sum = sum.checked_add(*quantity).filter(|sum| *sum <= agora_domain::sku::QUANTITY_UNITS_MAX).ok_or_else(
            || {
                let limit = u64::from(agora_domain::sku::QUANTITY_UNITS_MAX);
                Rejection::LimitExceeded { what: format!("units of {sku} in one request"), limit }
            },
        )?;
    }
    Ok(summed)
}

/// Lines with the prices as granted, and their sum.
fn price_lines(
    summed: &BTreeMap<SkuId, u32>,
    granted: &BTreeMap<SkuId, Grant<Sku>>,
) -> Result<(Vec<Line>, Money), Rejection> {
    let too_much = || Rejection::LimitExceeded {
        what: "the order's total in minor units".to_owned(),
        limit: agora_domain::money::AMOUNT_MINOR_MAX.unsigned_abs(),
    };
    let mut lines = Vec::with_capacity(summed.len());
    let mut total: Option<Money> = None;
    for (sku, quantity) in summed {
        let Some(terms) = granted.get(sku).map(|grant| &grant.terms) else { continue };
        let line_total = terms.price.times(*quantity).ok_or_else(too_much)?;
        total = Some(match total {
            None => line_total,
            Some(sum) if sum.currency != line_total.currency => {
                return Err(Rejection::CurrencyMismatch { left: sum, right: line_total });
            }
            Some(sum) => sum.plus(line_total).ok_or_else(too_much)?,
        });
        lines.push(Line {
            sku: *sku,
            code: terms.code.clone(),
            name: terms.name.clone(),
            quantity: *quantity,
            unit_price: terms.price,
            total: line_total,
        });
    }
    let total = total.ok_or_else(|| Rejection::SkusNotFound(Vec::new()))?;
    Ok((lines, total))
}
