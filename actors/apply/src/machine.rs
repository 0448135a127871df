//! One entry in, one batch out: the only code that writes rows.
//!
//! For every transaction of the entry: look for its key, evolve copies of what it touches, check, and keep all of it
//! or nothing. What must never happen (stock below zero, postings off balance, an illegal transition, an entry of
//! another reign) is refused here on every node alike, without any effect, and reported; a bug in a decision costs one
//! request, never an oversold unit and never a cluster that falls over one entry again and again.
//!
//! The audit chain runs over what is kept: `head' = blake3(head ‖ index ‖ time ‖ reign ‖ outcomes hash ‖ facts)`, where
//! the outcomes hash is blake3 over the entry's outcome rows in the order of their keys, as they lie in their bucket. It
//! is stored beside the facts, so that the chain can still be checked when the outcomes are gone.

use std::collections::BTreeMap;

use agora_domain::{
    Account, AccountEvent, AccountId, Answer, At, Change, Claim, Currency, Impossible, Kind, Order, OrderEvent,
    OrderStatus, Sku, SkuEvent, StockLevel, Transaction,
    fact::{EntryFact, StockMove},
    ledger::{self, LedgerAccount, LedgerRow},
    transaction::{Outcome, OutcomeRow},
};
use agora_planted::{self as planted, Bug};
use agora_storage::{
    Batch, Keyspace, LogPosition, StateHeader, StoredMembership,
    batch::VALUE_BYTES_MAX,
    codec,
    entry::{EntryKind, EntryReader},
    key, meta,
    rows::Rows,
};
use serde::Serialize;

use crate::{
    answer,
    schema::{self, OUTCOME_BUCKETS_MAX},
    table::Table,
};

/// The feature level this release applies by. An entry of a higher level stops the node: it must be upgraded first.
pub const FEATURE_LEVEL: u32 = 1;

/// Lines of orders that share one row of the feed, about; a batch of orders is spread over several rows.
const FACT_ROW_WEIGHT_MAX: usize = 64;

/// Why this node, and this node alone, must stop.
#[derive(Debug, thiserror::Error)]
pub enum ApplyFailure {
    /// The store failed, or holds what it should not.
    #[error("rows: {0}")]
    Storage(#[from] agora_storage::Error),
    /// The entry was written by a newer release.
    #[error("entry {index} has feature level {level}, this release knows {FEATURE_LEVEL}: upgrade this node")]
    NewerLevel {
        /// Of the entry.
        index: u64,
        /// Of the entry.
        level: u32,
    },
}

/// What became of one transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum TransactionResult {
    /// It took effect.
    Applied(Answer),
    /// Its key was used before, for the same request: no effect, the first answer.
    Replayed {
        /// The first answer.
        answer: Answer,
        /// Where it was given.
        index: u64,
        /// Trace id of the first request.
        trace: u128,
    },
    /// Its key was used before, for another request: no effect.
    KeyReused,
    /// It was decided in another reign: no effect.
    Fenced,
    /// No honest decision can have produced it: no effect, and somebody should look.
    Impossible(String),
}

/// What became of one entry.
#[derive(Debug)]
pub struct EntryResult {
    /// One per transaction.
    pub results: Vec<TransactionResult>,
    /// Events that took effect, in order.
    pub changes: Vec<Change>,
    /// Where they took effect.
    pub at: At,
    /// Reign of the entry, 0 for one that has none.
    pub entry_reign: u64,
    /// State after it.
    pub state: StateHeader,
}

/// As [`agora_domain::fact::FactEvent`], borrowed.
#[derive(Serialize)]
struct EventRef<'a> {
    version: u64,
    change: &'a Change,
    stock: Option<StockMove>,
}

/// As [`agora_domain::fact::FactRow`], borrowed.
#[derive(Serialize)]
struct FactRowRef<'a> {
    trace: u128,
    events: Vec<EventRef<'a>>,
}

/// What a transaction adds besides entities, if it takes effect.
#[derive(Default)]
struct Traces {
    /// Index rows to put (true) and to remove (false).
    index: Vec<(Vec<u8>, bool)>,
    /// Its rows of the feed, each under the sub of its first event.
    facts: Vec<(u32, Vec<u8>)>,
    /// Number of its events.
    events: u32,
}

/// No row may be longer than the store takes. What may be asked for is bounded so that none is; should a bound be
/// wrong, it costs one request and not one node after the other.
fn fits(row: &[u8]) -> Result<(), Impossible> {
    if row.len() > VALUE_BYTES_MAX {
        return Err(Impossible::because(format!("a row of {} bytes, at most {VALUE_BYTES_MAX}", row.len())));
    }
    Ok(())
}

/// What is kept under the transaction's key.
fn outcome_row(transaction: &Transaction, answer: &Answer, at: At) -> Result<Option<(u128, Vec<u8>)>, Impossible> {
    let (Some(keyed), Some(kept)) = (transaction.key, answer::store(answer)) else { return Ok(None) };
    let row = schema::encode(&OutcomeRow {
        fingerprint: keyed.fingerprint,
        trace: transaction.trace,
        index: at.index,
        decided_at: transaction.decided_at,
        answer: kept,
    });
    fits(&row)?;
    Ok(Some((keyed.hash, row)))
}

/// Roughly how much room an event takes in a row of the feed, in lines of an order.
fn weight(change: &Change) -> usize {
    match change {
        Change::Order(_, OrderEvent::Placed { lines, .. }) => 1 + lines.len(),
        _ => 1,
    }
}

/// A change of an index row: was it there before the entry, is it there after?
#[derive(Clone, Copy)]
struct Presence {
    before: bool,
    after: bool,
}

/// Rows of an entry in the making, besides entities.
#[derive(Default)]
struct Staged {
    index: BTreeMap<Vec<u8>, Presence>,
    /// Feed rows, each under the sub of its first event.
    facts: Vec<(u32, Vec<u8>)>,
    /// Events so far.
    events: u32,
    outcomes: BTreeMap<u128, Vec<u8>>,
    /// Ledger rows: as they are in the store, and as the entry leaves them.
    ledger: BTreeMap<u128, (Option<Vec<u8>>, LedgerRow)>,
}

/// The deterministic state machine over one generation of rows.
#[derive(Default)]
pub struct Machine {
    state: StateHeader,
    skus: Table<Sku>,
    orders: Table<Order>,
    accounts: Table<Account>,
    claims: Table<Claim>,
}

impl Machine {
    /// Opens the machine over rows as they are.
    ///
    /// # Errors
    /// Storage errors.
    pub fn open(rows: &dyn Rows) -> Result<Self, ApplyFailure> {
        let state = match rows.get(Keyspace::Meta, meta::STATE)? {
            Some(bytes) => codec::decode(&bytes)?,
            None => StateHeader::default(),
        };
        Ok(Self { state, ..Self::default() })
    }

    /// The state after the last applied entry.
    pub fn state(&self) -> &StateHeader {
        &self.state
    }

    /// Applies an entry that carries nothing of ours.
    ///
    /// # Errors
    /// Storage errors.
    pub fn apply_blank(&mut self, rows: &dyn Rows, position: LogPosition) -> Result<EntryResult, ApplyFailure> {
        self.commit(rows, position, Batch::new(position.index))?;
        Ok(self.nothing_happened(position))
    }

    /// Keeps a membership.
    ///
    /// # Errors
    /// Storage errors.
    pub fn apply_membership(
        &mut self,
        rows: &dyn Rows,
        position: LogPosition,
        bytes: &[u8],
    ) -> Result<EntryResult, ApplyFailure> {
        let mut batch = Batch::new(position.index);
        let kept = StoredMembership { at: Some(position), bytes: bytes.to_vec() };
        batch.put_meta(meta::MEMBERSHIP, codec::encode(&kept));
        self.commit(rows, position, batch)?;
        Ok(self.nothing_happened(position))
    }

    /// Applies one of our own entries.
    ///
    /// # Errors
    /// Storage errors, an entry that cannot be read, an entry of a newer release.
    pub fn apply_entry(
        &mut self,
        rows: &dyn Rows,
        position: LogPosition,
        bytes: &[u8],
    ) -> Result<EntryResult, ApplyFailure> {
        let entry = EntryReader::parse(bytes)?;
        let header = entry.header();
        if header.feature_level > FEATURE_LEVEL {
            return Err(ApplyFailure::NewerLevel { index: position.index, level: header.feature_level });
        }
        self.state.feature_level = header.feature_level;
        // The proposer stamps entries later than the last; the maximum only guards against a broken one.
        self.state.log_time_ms = self.state.log_time_ms.max(header.log_time_ms);
        let at = At { index: position.index, time_ms: self.state.log_time_ms };
        match header.kind {
            EntryKind::Fence => {
                self.state.reign += 1;
                self.apply_blank(rows, position)
            }
            EntryKind::Checkpoint => self.apply_blank(rows, position),
            EntryKind::Transactions => {
                let reign = header.reign;
                let mut batch = Batch::new(position.index);
                let mut staged = Staged::default();
                let mut result = EntryResult { at, entry_reign: reign, ..self.nothing_happened(position) };
                for bytes in entry.transactions() {
                    if reign != self.state.reign && !planted::is(Bug::LeadershipFenceRemoved) {
                        result.results.push(TransactionResult::Fenced);
                        continue;
                    }
                    let transaction: Transaction = codec::decode(bytes)?;
                    let became = self.transaction(rows, &mut staged, transaction, at, &mut result.changes)?;
                    result.results.push(became);
                }
                self.write(staged, &mut batch, at);
                self.commit(rows, position, batch)?;
                result.state = self.state.clone();
                Ok(result)
            }
        }
    }

    fn nothing_happened(&self, position: LogPosition) -> EntryResult {
        EntryResult {
            results: Vec::new(),
            changes: Vec::new(),
            at: At { index: position.index, time_ms: self.state.log_time_ms },
            entry_reign: 0,
            state: self.state.clone(),
        }
    }

    fn commit(&mut self, rows: &dyn Rows, position: LogPosition, mut batch: Batch) -> Result<(), ApplyFailure> {
        self.skus.write(&mut batch);
        self.orders.write(&mut batch);
        self.accounts.write(&mut batch);
        self.claims.write(&mut batch);
        self.drop_old_outcomes(&mut batch);
        self.state.digest = self.state.digest.wrapping_add(batch.digest_delta());
        for (bucket, digest) in &mut self.state.outcome_buckets {
            *digest = digest.wrapping_add(batch.bucket_digest_delta(*bucket));
        }
        batch.put_meta(meta::APPLIED, codec::encode(&position));
        batch.put_meta(meta::STATE, codec::encode(&self.state));
        rows.commit(batch)?;
        Ok(())
    }

    fn oldest_bucket(&self) -> u32 {
        schema::outcome_bucket(self.state.log_time_ms).saturating_sub(OUTCOME_BUCKETS_MAX as u32 - 1)
    }

    /// Buckets whose youngest key is older than 24 hours go, whole.
    fn drop_old_outcomes(&mut self, batch: &mut Batch) {
        let oldest = self.oldest_bucket();
        self.state.outcome_buckets.retain(|(bucket, digest)| {
            if *bucket < oldest {
                batch.drop_bucket(*bucket, *digest);
            }
            *bucket >= oldest
        });
    }

    /// Writes the entry's indexes, facts, outcomes and postings, and moves the audit chain.
    fn write(&mut self, staged: Staged, batch: &mut Batch, at: At) {
        for (index_key, presence) in staged.index {
            match (presence.before, presence.after) {
                (false, true) => batch.insert(Keyspace::Index, index_key, Vec::new()),
                (true, false) => batch.remove(Keyspace::Index, index_key, &[]),
                _ => {}
            }
        }
        for (id, (old, row)) in staged.ledger {
            let ledger_key = schema::entity(Kind::Ledger, id);
            match old {
                None => batch.insert(Keyspace::Entity, ledger_key, schema::encode(&row)),
                Some(old) => batch.replace(Keyspace::Entity, ledger_key, &old, schema::encode(&row)),
            }
        }
        if staged.facts.is_empty() && staged.outcomes.is_empty() {
            return;
        }
        let outcomes = staged.outcomes.iter().map(|(hash, row)| (*hash, row.as_slice()));
        let outcomes_hash = if planted::is(Bug::UnorderedIterationInApply) {
            hash_outcomes(planted::without_order(outcomes).into_iter())
        } else {
            hash_outcomes(outcomes)
        };
        let entry =
            EntryFact { time_ms: at.time_ms, reign: self.state.reign, prev_head: self.state.chain_head, outcomes_hash };
        self.state.chain_head = chain(&entry, at.index, staged.facts.iter().map(|(_, row)| row.as_slice()));
        batch.insert(Keyspace::Feed, key::feed(at.index, 0), schema::encode(&entry));
        for (first_sub, row) in staged.facts {
            batch.insert(Keyspace::Feed, key::feed(at.index, first_sub), row);
        }
        let bucket = schema::outcome_bucket(at.time_ms);
        if !staged.outcomes.is_empty() && !self.state.outcome_buckets.iter().any(|(known, _)| *known == bucket) {
            self.state.outcome_buckets.push((bucket, 0));
            self.state.outcome_buckets.sort_unstable();
        }
        for (hash, row) in staged.outcomes {
            batch.insert(Keyspace::Outcomes(bucket), key::outcome(hash), row);
        }
    }

    fn transaction(
        &mut self,
        rows: &dyn Rows,
        staged: &mut Staged,
        transaction: Transaction,
        at: At,
        changes: &mut Vec<Change>,
    ) -> Result<TransactionResult, ApplyFailure> {
        if let Some(keyed) = transaction.key
            && let Some(first) = self.find_key(rows, staged, keyed.hash)?
        {
            if first.fingerprint != keyed.fingerprint && !planted::is(Bug::AlteredBodyAnswered) {
                return Ok(TransactionResult::KeyReused);
            }
            let orders = &mut self.orders;
            let answer = answer::restore(first.answer, |id| orders.get(rows, id.0.0).map(|order| order.cloned()))?;
            return Ok(TransactionResult::Replayed { answer, index: first.index, trace: first.trace });
        }
        let first_sub = staged.events + 1;
        let evolved = match self.evolve(rows, first_sub, &transaction, at)? {
            // An answer about nothing is a wrong decision like any other; it must not stop the nodes one after the other.
            Ok(traces) => self.answer(rows, &transaction)?.and_then(|answer| {
                let outcome = outcome_row(&transaction, &answer, at)?;
                Ok((traces, answer, outcome))
            }),
            Err(impossible) => Err(impossible),
        };
        match evolved {
            Ok((traces, answer, outcome)) => {
                self.keep();
                staged.events += traces.events;
                staged.facts.extend(traces.facts);
                for (index_key, after) in traces.index {
                    staged.index.entry(index_key).or_insert(Presence { before: !after, after }).after = after;
                }
                self.post(rows, staged, &transaction, at)?;
                staged.outcomes.extend(outcome);
                changes.extend(transaction.changes);
                Ok(TransactionResult::Applied(answer))
            }
            Err(Impossible(reason)) => {
                self.skus.roll_back();
                self.orders.roll_back();
                self.accounts.roll_back();
                self.claims.roll_back();
                Ok(TransactionResult::Impossible(reason))
            }
        }
    }

    fn keep(&mut self) {
        self.skus.keep();
        self.orders.keep();
        self.accounts.keep();
        self.claims.keep();
    }

    fn find_key(&self, rows: &dyn Rows, staged: &Staged, hash: u128) -> Result<Option<OutcomeRow>, ApplyFailure> {
        if let Some(row) = staged.outcomes.get(&hash) {
            return Ok(Some(schema::decode(row)?));
        }
        // A bucket that this entry's time outdates is dropped with it, and is no longer looked at.
        let oldest = self.oldest_bucket();
        let kept = self.state.outcome_buckets.iter().map(|(bucket, _)| *bucket).filter(|bucket| *bucket >= oldest);
        let newest_first = kept.rev();
        Ok(answer::find_outcome(newest_first, hash, |keyspace, key| rows.get(keyspace, key))?)
    }

    /// Evolves everything the transaction touches. Its first event has the sub `first_sub`.
    fn evolve(
        &mut self,
        rows: &dyn Rows,
        first_sub: u32,
        transaction: &Transaction,
        at: At,
    ) -> Result<Result<Traces, Impossible>, ApplyFailure> {
        if let Err(impossible) = ledger::balanced(&transaction.legs).and_then(|()| money_is_posted(transaction)) {
            return Ok(Err(impossible));
        }
        let mut index = Vec::new();
        let mut events = Vec::with_capacity(transaction.changes.len());
        for (at_sub, change) in (first_sub..).zip(&transaction.changes) {
            let mut stock = None;
            let version = match change {
                Change::Sku(id, event) => {
                    let before =
                        self.skus.get(rows, id.0.0)?.map_or((0, 0), |sku| (sku.on_hand_units, sku.reserved_units));
                    match self.skus.evolve(rows, id.0.0, event, at)? {
                        Err(impossible) => return Ok(Err(impossible)),
                        Ok(sku) if !sku.conserved() => {
                            return Ok(Err(Impossible::because(format!("{id} does not add up after {event:?}"))));
                        }
                        Ok(sku) => {
                            if !matches!(event, SkuEvent::Created { .. } | SkuEvent::Changed { .. }) {
                                stock = Some(StockMove {
                                    on_hand_pre: before.0,
                                    on_hand_post: sku.on_hand_units,
                                    reserved_pre: before.1,
                                    reserved_post: sku.reserved_units,
                                });
                                index.push((schema::movement(*id, at.index, at_sub), true));
                            }
                            sku.version + sku.stock_version
                        }
                    }
                }
                Change::Order(id, event) => {
                    let was = self.orders.get(rows, id.0.0)?.map(Order::status);
                    match self.orders.evolve(rows, id.0.0, event, at)? {
                        Err(impossible) => return Ok(Err(impossible)),
                        Ok(order) => {
                            let status_key = |status| match status {
                                // Its timer tells already that it is unpaid.
                                OrderStatus::Created => schema::timer(order.expire_ms, *id),
                                status => schema::order_by_status(status, *id),
                            };
                            index.extend(was.map(|was| (status_key(was), false)));
                            index.push((status_key(order.status()), true));
                            if matches!(event, OrderEvent::Placed { .. }) {
                                index.push((schema::order_by_account(order.account, *id), true));
                            }
                            order.version()
                        }
                    }
                }
                Change::Account(id, event) => match self.accounts.evolve(rows, id.0.0, event, at)? {
                    Err(impossible) => return Ok(Err(impossible)),
                    Ok(account) => account.version,
                },
                Change::Claim(id, event) => match self.claims.evolve(rows, id.0.0, event, at)? {
                    Err(impossible) => return Ok(Err(impossible)),
                    Ok(_) => 1,
                },
            };
            events.push(EventRef { version, change, stock });
        }
        let count = u32::try_from(events.len()).expect("a transaction holds fewer than 2^32 events");
        let mut traces = Traces { index, facts: Vec::with_capacity(1), events: count };
        let (mut row_sub, mut row_weight) = (first_sub, 0);
        let mut row = FactRowRef { trace: transaction.trace, events: Vec::with_capacity(events.len()) };
        for (at_sub, event) in (first_sub..).zip(events) {
            let more = weight(event.change);
            if row_weight > 0 && row_weight + more > FACT_ROW_WEIGHT_MAX {
                traces.facts.push((row_sub, schema::encode(&row)));
                row.events.clear();
                (row_sub, row_weight) = (at_sub, 0);
            }
            row_weight += more;
            row.events.push(event);
        }
        if !row.events.is_empty() {
            traces.facts.push((row_sub, schema::encode(&row)));
        }
        let fitting = traces.facts.iter().try_for_each(|(_, row)| fits(row));
        Ok(fitting.map(|()| traces))
    }

    /// Books the transaction's legs.
    fn post(
        &mut self,
        rows: &dyn Rows,
        staged: &mut Staged,
        transaction: &Transaction,
        at: At,
    ) -> Result<(), ApplyFailure> {
        for leg in &transaction.legs {
            let id = leg.account.row_id(leg.amount.currency);
            let (_, row) = match staged.ledger.entry(id) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(empty) => {
                    let old = rows.get(Keyspace::Entity, &schema::entity(Kind::Ledger, id))?;
                    let row = old.as_deref().map(schema::decode).transpose()?;
                    empty.insert((old, row.unwrap_or_else(|| LedgerRow::empty(leg.account, leg.amount.currency))))
                }
            };
            row.post(leg, at.index);
        }
        Ok(())
    }

    /// Makes the answer of what the transaction has left behind.
    fn answer(
        &mut self,
        rows: &dyn Rows,
        transaction: &Transaction,
    ) -> Result<Result<Answer, Impossible>, ApplyFailure> {
        let missing =
            |what: String| Ok(Err(Impossible::because(format!("an outcome names {what}, which does not exist"))));
        Ok(Ok(match &transaction.outcome {
            Outcome::Sku(id) => {
                let Some(sku) = self.skus.get(rows, id.0.0)? else { return missing(id.to_string()) };
                Answer::Sku(Box::new(sku.clone()))
            }
            Outcome::Stocks(ids) => {
                let mut levels = Vec::with_capacity(ids.len());
                for id in ids {
                    let Some(sku) = self.skus.get(rows, id.0.0)? else { return missing(id.to_string()) };
                    levels.push(StockLevel::from(sku));
                }
                Answer::Stocks(levels)
            }
            Outcome::Account(id) => {
                let Some(account) = self.accounts.get(rows, id.0.0)? else { return missing(id.to_string()) };
                Answer::Account(Box::new(account.clone()))
            }
            Outcome::Order(id) => {
                let Some(order) = self.orders.get(rows, id.0.0)? else { return missing(id.to_string()) };
                Answer::Order { order: Box::new(order.clone()), no_change: transaction.changes.is_empty() }
            }
            Outcome::Orders(items) => {
                let mut answers = Vec::with_capacity(items.len());
                for item in items {
                    answers.push(match item {
                        Ok(id) => match self.orders.get(rows, id.0.0)? {
                            Some(order) => Ok(order.clone()),
                            None => return missing(id.to_string()),
                        },
                        Err(rejection) => Err(rejection.clone()),
                    });
                }
                Answer::Orders(answers)
            }
            Outcome::Refused(rejection) => Answer::Refused(rejection.clone()),
            Outcome::None => Answer::None,
        }))
    }
}

/// The outcomes hash of an entry: over key and row of each of its outcomes, in the order of their keys.
pub fn hash_outcomes<'a>(outcomes: impl Iterator<Item = (u128, &'a [u8])>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (key_hash, row) in outcomes {
        hasher.update(&key_hash.to_be_bytes()).update(&(row.len() as u64).to_be_bytes()).update(row);
    }
    *hasher.finalize().as_bytes()
}

/// The audit chain after an entry, from what is kept of it. `facts` are the feed rows from sub 1, as stored.
pub fn chain<'a>(entry: &EntryFact, index: u64, facts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&entry.prev_head).update(&index.to_be_bytes());
    hasher.update(&entry.time_ms.to_be_bytes()).update(&entry.reign.to_be_bytes()).update(&entry.outcomes_hash);
    for fact in facts {
        hasher.update(&(fact.len() as u64).to_be_bytes()).update(fact);
    }
    *hasher.finalize().as_bytes()
}

/// What the transaction's events do to the balance of a wallet and what its legs post there are the same, to the unit,
/// for every wallet and currency: neither money without its posting, nor a posting without its money, nor one for two.
fn money_is_posted(transaction: &Transaction) -> Result<(), Impossible> {
    let mut open: BTreeMap<(AccountId, Currency), i128> = BTreeMap::new();
    for change in &transaction.changes {
        let Change::Account(id, event) = change else { continue };
        let (amount, sign) = match event {
            AccountEvent::Created { .. } | AccountEvent::Held { .. } | AccountEvent::HoldReleased { .. } => continue,
            AccountEvent::Adjusted { amount, .. } | AccountEvent::Refunded { amount, .. } => (amount, 1),
            AccountEvent::Captured { amount, .. } | AccountEvent::Paid { amount, .. } => (amount, -1),
        };
        *open.entry((*id, amount.currency)).or_default() += sign * i128::from(amount.minor);
    }
    for leg in &transaction.legs {
        // A wallet is what we owe its holder: money in is a credit, a negative leg.
        if let LedgerAccount::Wallet(id) = leg.account {
            *open.entry((id, leg.amount.currency)).or_default() += i128::from(leg.amount.minor);
        }
    }
    match open.into_iter().find(|(_, minor)| *minor != 0) {
        None => Ok(()),
        Some(((id, currency), minor)) => {
            Err(Impossible::because(format!("{id} moves {minor} minor units of {currency} more than is posted")))
        }
    }
}
