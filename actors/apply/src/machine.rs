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

use std::{collections::BTreeMap, ops::Range};

use agora_domain::{
    Account, AccountEvent, AccountId, Answer, At, Change, Claim, Currency, Impossible, Kind, Order, OrderEvent,
    OrderStatus, Sku, SkuEvent, SkuId, StockLevel, Transaction,
    fact::{EntryFact, StockMove},
    ledger::{self, LedgerAccount, LedgerRow},
    transaction::{Outcome, OutcomeRow, StoredAnswer},
};
use agora_planted::{self as planted, Bug};
use agora_storage::{
    Batch, Keyspace, LogPosition, StateHeader, StoredMembership,
    batch::VALUE_BYTES_MAX,
    codec,
    entry::{EntryHeader, EntryKind, EntryReader},
    key, meta,
    rows::Rows,
};
use serde::Serialize;

use crate::{
    answer,
    schema::{self, FACTS_BYTES_MAX, IndexKey, OUTCOME_BUCKETS_MAX},
    table::Table,
};

/// The feature level this release applies by. An entry of a higher level stops the node: it must be upgraded first.
pub const FEATURE_LEVEL: u32 = 1;

/// Lines of orders that share one fact of the feed, about; a batch of orders is spread over several.
const FACT_WEIGHT_MAX: usize = 64;

/// Bytes a row has around what is staged of it, at most.
const FRAME_BYTES_MAX: usize = 64;

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

/// As [`agora_domain::fact::FactRow`], borrowed: the facts of one transaction, or of a part of a large one.
#[derive(Serialize)]
struct FactRowRef<'a> {
    trace: u128,
    events: Vec<EventRef<'a>>,
}

/// No row may be longer than the store takes. What may be asked for is bounded so that none is; should a bound be
/// wrong, it costs one request and not one node after the other.
fn fits(row: &[u8]) -> Result<(), Impossible> {
    if row.len() > VALUE_BYTES_MAX - FRAME_BYTES_MAX {
        return Err(Impossible::because(format!(
            "a row of {} bytes, at most {}",
            row.len(),
            VALUE_BYTES_MAX - FRAME_BYTES_MAX
        )));
    }
    Ok(())
}

/// Roughly how much room an event takes in a row of the feed, in lines of an order.
fn weight(change: &Change) -> usize {
    match change {
        Change::Order(_, OrderEvent::Placed { lines, .. }) => 1 + lines.len(),
        _ => 1,
    }
}

/// Rows of an entry in the making, besides entities. Its buffers are used again by the next entry.
#[derive(Default)]
struct Staged {
    /// Index rows put (true) and removed (false), in the order of events.
    index: Vec<(IndexKey, bool)>,
    /// Movements of SKUs: whose, and the sub of the event.
    moves: Vec<(SkuId, u32)>,
    /// Facts of the feed, encoded: the sub of the first event of each, and where it ends in `fact_bytes`.
    facts: Vec<(u32, usize)>,
    fact_bytes: Vec<u8>,
    /// Rows of the feed, made of them when all are there, as `facts`.
    feed: Vec<(u32, usize)>,
    feed_bytes: Vec<u8>,
    /// Events so far.
    events: u32,
    /// Outcome rows: where they lie in `outcome_bytes`.
    outcomes: BTreeMap<u128, Range<usize>>,
    outcome_bytes: Vec<u8>,
    /// Ledger rows: as they are in the store, and as the entry leaves them.
    ledger: BTreeMap<u128, (Option<Vec<u8>>, LedgerRow)>,
}

impl Staged {
    /// What to go back to if a transaction is refused; its outcome and postings come only after it was kept.
    fn mark(&self) -> Mark {
        Mark {
            index: self.index.len(),
            moves: self.moves.len(),
            facts: self.facts.len(),
            fact_bytes: self.fact_bytes.len(),
            events: self.events,
            outcome_bytes: self.outcome_bytes.len(),
        }
    }

    fn back_to(&mut self, mark: Mark) {
        self.index.truncate(mark.index);
        self.moves.truncate(mark.moves);
        self.facts.truncate(mark.facts);
        self.fact_bytes.truncate(mark.fact_bytes);
        self.events = mark.events;
        self.outcome_bytes.truncate(mark.outcome_bytes);
    }

    fn clear(&mut self) {
        self.back_to(Mark::default());
        self.feed.clear();
        self.feed_bytes.clear();
        self.outcomes.clear();
        self.ledger.clear();
    }

    /// Adds a fact of the feed.
    fn fact(&mut self, first_sub: u32, row: &FactRowRef<'_>) -> Result<(), Impossible> {
        let from = self.fact_bytes.len();
        codec::encode_into(row, &mut self.fact_bytes);
        self.facts.push((first_sub, self.fact_bytes.len()));
        fits(&self.fact_bytes[from..])
    }

    /// Makes rows of the facts: as many of the entry's in each as fit without being stored in parts.
    fn make_feed(&mut self) {
        let (mut first, mut from) = (0, 0);
        while first < self.facts.len() {
            let rest = &self.facts[first..];
            let fitting = rest.iter().take_while(|(_, to)| to - from <= FACTS_BYTES_MAX).count().max(1);
            let to = rest[fitting - 1].1;
            schema::encode_facts(fitting, &self.fact_bytes[from..to], &mut self.feed_bytes);
            self.feed.push((rest[0].0, self.feed_bytes.len()));
            (first, from) = (first + fitting, to);
        }
    }

    /// The feed rows, each under the sub of its first event.
    fn feed_rows(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut from = 0;
        self.feed.iter().map(move |(sub, to)| (*sub, &self.feed_bytes[std::mem::replace(&mut from, *to)..*to]))
    }

    /// The outcome rows, in the order of their keys.
    fn outcome_rows(&self) -> impl Iterator<Item = (u128, &[u8])> {
        self.outcomes.iter().map(|(hash, at)| (*hash, &self.outcome_bytes[at.clone()]))
    }
}

/// How much was staged before a transaction.
#[derive(Default)]
struct Mark {
    index: usize,
    moves: usize,
    facts: usize,
    fact_bytes: usize,
    events: u32,
    outcome_bytes: usize,
}

/// The deterministic state machine over one generation of rows.
#[derive(Default)]
pub struct Machine {
    state: StateHeader,
    staged: Staged,
    /// Rows and bytes of the last batch: the next one is made with room for as many.
    last_batch: (usize, usize),
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
        Ok(Self {
            state,
            staged: Staged::default(),
            last_batch: (0, 0),
            skus: Table::open(rows)?,
            orders: Table::open(rows)?,
            accounts: Table::open(rows)?,
            claims: Table::open(rows)?,
        })
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
        self.apply_for(rows, position, bytes, |_| true)
    }

    /// The same. `awaited` tells by an entry's header whether somebody here may wait for its answers; if not, orders are
    /// left out of them.
    ///
    /// # Errors
    /// Those of [`Machine::apply_entry`].
    pub fn apply_for(
        &mut self,
        rows: &dyn Rows,
        position: LogPosition,
        bytes: &[u8],
        awaited: impl FnOnce(&EntryHeader) -> bool,
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
                let answers = awaited(header);
                let (rows_last, bytes_last) = self.last_batch;
                let mut batch = Batch::with_capacity(position.index, rows_last, bytes_last);
                let mut staged = std::mem::take(&mut self.staged);
                staged.clear();
                let mut result = EntryResult { at, entry_reign: reign, ..self.nothing_happened(position) };
                result.results.reserve_exact(header.count as usize);
                for bytes in entry.transactions() {
                    if reign != self.state.reign && !planted::is(Bug::LeadershipFenceRemoved) {
                        result.results.push(TransactionResult::Fenced);
                        continue;
                    }
                    let transaction: Transaction = codec::decode(bytes)?;
                    let became = self.transaction(rows, &mut staged, transaction, at, answers, &mut result.changes)?;
                    result.results.push(became);
                }
                self.write(&mut staged, &mut batch, at);
                self.staged = staged;
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
        self.last_batch = (batch.len(), batch.bytes());
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
    fn write(&mut self, staged: &mut Staged, batch: &mut Batch, at: At) {
        // Stable: the changes of one row stay in the order of events. The first tells whether it was there before the
        // entry, the last whether it is there after.
        staged.index.sort_by_key(|change| change.0);
        for changes in staged.index.chunk_by(|a, b| a.0 == b.0) {
            let [(index_key, first), ..] = changes else { continue };
            let last = changes.last().is_some_and(|(_, last)| *last);
            match (!first, last) {
                (false, true) => batch.insert(Keyspace::Index, &**index_key, []),
                (true, false) => batch.remove(Keyspace::Index, &**index_key, &[]),
                _ => {}
            }
        }
        for (id, sub) in &staged.moves {
            if let Some(moves) = self.skus.moved(id.0.0, at.index, *sub)
                && let Some((index, sub)) = moves.places().next()
            {
                let row_key = schema::movement(*id, index, sub);
                batch.put(Keyspace::Index, &row_key, None, |out| codec::frame_into(schema::ROW_VERSION, &moves, out));
            }
        }
        for (id, (old, row)) in &staged.ledger {
            let ledger_key = schema::entity(Kind::Ledger, *id);
            match old {
                None => batch.insert(Keyspace::Entity, ledger_key, schema::encode(row)),
                Some(old) => batch.replace(Keyspace::Entity, ledger_key, old, schema::encode(row)),
            }
        }
        if staged.facts.is_empty() && staged.outcomes.is_empty() {
            return;
        }
        let outcomes_hash = if planted::is(Bug::UnorderedIterationInApply) {
            hash_outcomes(planted::without_order(staged.outcome_rows()).into_iter())
        } else {
            hash_outcomes(staged.outcome_rows())
        };
        let entry =
            EntryFact { time_ms: at.time_ms, reign: self.state.reign, prev_head: self.state.chain_head, outcomes_hash };
        staged.make_feed();
        self.state.chain_head = chain(&entry, at.index, staged.feed_rows().map(|(_, row)| row));
        batch.insert(Keyspace::Feed, key::feed(at.index, 0), schema::encode(&entry));
        for (first_sub, row) in staged.feed_rows() {
            batch.insert(Keyspace::Feed, key::feed(at.index, first_sub), row);
        }
        let bucket = schema::outcome_bucket(at.time_ms);
        if !staged.outcomes.is_empty() && !self.state.outcome_buckets.iter().any(|(known, _)| *known == bucket) {
            self.state.outcome_buckets.push((bucket, 0));
            self.state.outcome_buckets.sort_unstable();
        }
        for (hash, row) in staged.outcome_rows() {
            batch.insert(Keyspace::Outcomes(bucket), key::outcome(hash), row);
        }
    }

    fn transaction(
        &mut self,
        rows: &dyn Rows,
        staged: &mut Staged,
        transaction: Transaction,
        at: At,
        answers: bool,
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
        let mark = staged.mark();
        let evolved = match self.evolve(rows, staged, &transaction, at)? {
            // An answer about nothing is a wrong decision like any other; it must not stop the nodes one after the other.
            Ok(()) => self.answer(rows, &transaction, answers)?.and_then(|(answer, kept)| {
                let kept = transaction.key.zip(kept);
                let outcome = kept.map(|(keyed, kept)| {
                    let row = OutcomeRow {
                        fingerprint: keyed.fingerprint,
                        trace: transaction.trace,
                        index: at.index,
                        decided_at: transaction.decided_at,
                        answer: kept,
                    };
                    let from = staged.outcome_bytes.len();
                    codec::frame_into(schema::ROW_VERSION, &row, &mut staged.outcome_bytes);
                    fits(&staged.outcome_bytes[from..])?;
                    Ok((keyed.hash, from..staged.outcome_bytes.len()))
                });
                Ok((answer, outcome.transpose()?))
            }),
            Err(impossible) => Err(impossible),
        };
        match evolved {
            Ok((answer, outcome)) => {
                self.keep();
                self.post(rows, staged, &transaction, at)?;
                staged.outcomes.extend(outcome);
                changes.extend(transaction.changes);
                Ok(TransactionResult::Applied(answer))
            }
            Err(Impossible(reason)) => {
                staged.back_to(mark);
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
        if let Some(at) = staged.outcomes.get(&hash) {
            return Ok(Some(schema::decode(&staged.outcome_bytes[at.clone()])?));
        }
        // A bucket that this entry's time outdates is dropped with it, and is no longer looked at.
        let oldest = self.oldest_bucket();
        let kept = self.state.outcome_buckets.iter().map(|(bucket, _)| *bucket).filter(|bucket| *bucket >= oldest);
        let newest_first = kept.rev();
        Ok(answer::find_outcome(newest_first, hash, |keyspace, key| rows.get(keyspace, key))?)
    }

    /// Evolves everything the transaction touches.
    fn evolve(
        &mut self,
        rows: &dyn Rows,
        staged: &mut Staged,
        transaction: &Transaction,
        at: At,
    ) -> Result<Result<(), Impossible>, ApplyFailure> {
        if let Err(impossible) = ledger::balanced(&transaction.legs).and_then(|()| money_is_posted(transaction)) {
            return Ok(Err(impossible));
        }
        let first_sub = staged.events + 1;
        let mut events = Vec::with_capacity(transaction.changes.len());
        for (at_sub, change) in (first_sub..).zip(&transaction.changes) {
            let mut stock = None;
            let version = match change {
                Change::Sku(id, event) => {
                    let look = |sku: Option<&Sku>| sku.map_or((0, 0), |sku| (sku.on_hand_units, sku.reserved_units));
                    match self.skus.evolve(rows, id.0.0, event, at, look)? {
                        Err(impossible) => return Ok(Err(impossible)),
                        Ok((_, sku)) if !sku.conserved() => {
                            return Ok(Err(Impossible::because(format!("{id} does not add up after {event:?}"))));
                        }
                        Ok((before, sku)) => {
                            if !matches!(event, SkuEvent::Created { .. } | SkuEvent::Changed { .. }) {
                                stock = Some(StockMove {
                                    on_hand_pre: before.0,
                                    on_hand_post: sku.on_hand_units,
                                    reserved_pre: before.1,
                                    reserved_post: sku.reserved_units,
                                });
                                staged.moves.push((*id, at_sub));
                            }
                            sku.version + sku.stock_version
                        }
                    }
                }
                Change::Order(id, event) => {
                    let look = |order: Option<&Order>| order.map(Order::status);
                    match self.orders.evolve(rows, id.0.0, event, at, look)? {
                        Err(impossible) => return Ok(Err(impossible)),
                        Ok((was, order)) => {
                            let status_key = |status| match status {
                                // Its timer tells already that it is unpaid.
                                OrderStatus::Created => schema::timer(order.expire_ms, *id),
                                status => schema::order_by_status(status, *id),
                            };
                            staged.index.extend(was.map(|was| (status_key(was), false)));
                            staged.index.push((status_key(order.status()), true));
                            if matches!(event, OrderEvent::Placed { .. }) {
                                staged.index.push((schema::order_by_account(order.account, *id), true));
                            }
                            order.version()
                        }
                    }
                }
                Change::Account(id, event) => match self.accounts.evolve(rows, id.0.0, event, at, |_| ())? {
                    Err(impossible) => return Ok(Err(impossible)),
                    Ok((_, account)) => account.version,
                },
                Change::Claim(id, event) => match self.claims.evolve(rows, id.0.0, event, at, |_| ())? {
                    Err(impossible) => return Ok(Err(impossible)),
                    Ok(_) => 1,
                },
            };
            events.push(EventRef { version, change, stock });
        }
        staged.events += u32::try_from(events.len()).expect("a transaction holds fewer than 2^32 events");
        Ok(stage_facts(staged, first_sub, transaction.trace, events))
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

    /// Makes the answer of what the transaction has left behind, and what is kept of it under the key.
    fn answer(
        &mut self,
        rows: &dyn Rows,
        transaction: &Transaction,
        answers: bool,
    ) -> Result<Result<(Answer, Option<StoredAnswer>), Impossible>, ApplyFailure> {
        let missing =
            |what: String| Ok(Err(Impossible::because(format!("an outcome names {what}, which does not exist"))));
        let answer = match &transaction.outcome {
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
                let no_change = transaction.changes.is_empty();
                let kept = StoredAnswer::Order { order: *id, version: order.version(), no_change };
                let answer = match answers {
                    true => Answer::Order { order: Box::new(order.clone()), no_change },
                    false => Answer::None,
                };
                return Ok(Ok((answer, Some(kept))));
            }
            Outcome::Orders(items) => {
                let mut shown = Vec::with_capacity(items.len());
                for item in items {
                    match item {
                        Ok(id) => match self.orders.get(rows, id.0.0)? {
                            Some(order) if answers => shown.push(Ok(order.clone())),
                            Some(_) => {}
                            None => return missing(id.to_string()),
                        },
                        Err(rejection) => shown.push(Err(rejection.clone())),
                    }
                }
                return Ok(Ok((Answer::Orders(shown), Some(StoredAnswer::Orders(items.clone())))));
            }
            Outcome::Refused(rejection) => Answer::Refused(rejection.clone()),
            Outcome::None => Answer::None,
        };
        let kept = answer::store(&answer);
        Ok(Ok((answer, kept)))
    }
}

/// Adds the events of a transaction to the feed, as one fact or, if they are many, as several.
fn stage_facts(staged: &mut Staged, first_sub: u32, trace: u128, events: Vec<EventRef<'_>>) -> Result<(), Impossible> {
    let (mut row_sub, mut row_weight) = (first_sub, 0);
    if events.iter().map(|event| weight(event.change)).sum::<usize>() <= FACT_WEIGHT_MAX {
        return if events.is_empty() { Ok(()) } else { staged.fact(first_sub, &FactRowRef { trace, events }) };
    }
    let mut row = FactRowRef { trace, events: Vec::new() };
    for (at_sub, event) in (first_sub..).zip(events) {
        let more = weight(event.change);
        if row_weight > 0 && row_weight + more > FACT_WEIGHT_MAX {
            staged.fact(row_sub, &row)?;
            row.events.clear();
            (row_sub, row_weight) = (at_sub, 0);
        }
        row_weight += more;
        row.events.push(event);
    }
    staged.fact(row_sub, &row)
}

/// The outcomes hash of an entry: over key and row of each of its outcomes, in the order of their keys.
pub fn hash_outcomes<'a>(outcomes: impl Iterator<Item = (u128, &'a [u8])>) -> [u8; 32] {
    let mut hasher = Hasher::new();
    for (key_hash, row) in outcomes {
        hasher.add(&key_hash.to_be_bytes());
        hasher.add(&(row.len() as u64).to_be_bytes());
        hasher.add(row);
    }
    hasher.finish()
}

/// The audit chain after an entry, from what is kept of it. `facts` are the feed rows from sub 1, as stored.
pub fn chain<'a>(entry: &EntryFact, index: u64, facts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.add(&entry.prev_head);
    hasher.add(&index.to_be_bytes());
    hasher.add(&entry.time_ms.to_be_bytes());
    hasher.add(&entry.reign.to_be_bytes());
    hasher.add(&entry.outcomes_hash);
    for fact in facts {
        hasher.add(&(fact.len() as u64).to_be_bytes());
        hasher.add(fact);
    }
    hasher.finish()
}

/// blake3 over many short pieces: it hashes up to sixteen blocks at once, if it is given them at once.
struct Hasher {
    inner: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Hasher {
    const AT_ONCE_BYTES: usize = 32 * 1024;

    fn new() -> Self {
        Self { inner: blake3::Hasher::new(), waiting: Vec::with_capacity(1024) }
    }

    fn add(&mut self, piece: &[u8]) {
        self.waiting.extend_from_slice(piece);
        if self.waiting.len() >= Self::AT_ONCE_BYTES {
            self.inner.update(&self.waiting);
            self.waiting.clear();
        }
    }

    fn finish(mut self) -> [u8; 32] {
        *self.inner.update(&self.waiting).finalize().as_bytes()
    }
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
