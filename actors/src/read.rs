//! Queries over one consistent view of a node's rows.
//!
//! A view is taken after the consistency that was asked for is reached, and everything read through it is one state at
//! one index. Scans are bounded by their page.

use std::{ops::Bound, time::Duration};

use agora_apply::{
    answer,
    schema::{self, Moves},
};
use agora_domain::{
    Account, AccountId, Answer, Change, Claim, Kind, Order, OrderId, OrderStatus, Sku, SkuId, Uid,
    fact::{EntryFact, Fact},
    ledger::LedgerRow,
    transaction::OutcomeRow,
};
use agora_planted::{self as planted, Bug};
use agora_storage::{
    Error, Keyspace, LogPosition, Result, StateHeader, codec, key, meta,
    rows::{RowView, Rows},
};
use serde::de::DeserializeOwned;

use crate::checkout;

/// Rows one page may hold.
pub const PAGE_MAX: usize = 200;
/// Index rows looked at for one page when most of them are filtered out.
const SCAN_MAX: usize = 20_000;

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// At most as many as asked for.
    pub items: Vec<T>,
    /// True when there are more behind the last item (or, in a filtered list, may be).
    pub more: bool,
}

/// Which orders to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderFilter {
    /// Of this account.
    pub account: Option<AccountId>,
    /// In this status.
    pub status: Option<OrderStatus>,
}

/// A fact that moved stock.
#[derive(Clone, Debug, PartialEq)]
pub struct Movement {
    /// Log index.
    pub index: u64,
    /// Position in the entry, from 1.
    pub sub: u32,
    /// Log time.
    pub time_ms: i64,
    /// What happened, with stock before and after.
    pub fact: Fact,
}

/// One event of the feed.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedItem {
    /// Log index.
    pub index: u64,
    /// Position in the entry, from 1.
    pub sub: u32,
    /// Log time.
    pub time_ms: i64,
    /// Audit chain before the entry.
    pub prev_head: [u8; 32],
    /// What happened.
    pub fact: Fact,
}

/// One consistent view of this node's rows.
pub struct ReadView {
    view: Box<dyn RowView>,
    state: StateHeader,
    position: LogPosition,
    node: u64,
    leader: Option<u64>,
    staleness: Option<Duration>,
}

fn decode_meta<T: DeserializeOwned + Default>(view: &dyn RowView, name: &[u8]) -> Result<T> {
    view.get(Keyspace::Meta, name)?.map_or_else(|| Ok(T::default()), |bytes| codec::decode(&bytes))
}

impl ReadView {
    pub(crate) fn open(rows: &dyn Rows, node: u64, leader: Option<u64>, staleness: Option<Duration>) -> Result<Self> {
        let view = rows.view()?;
        let state = decode_meta(view.as_ref(), meta::STATE)?;
        let position = decode_meta(view.as_ref(), meta::APPLIED)?;
        Ok(Self { view, state, position, node, leader, staleness })
    }

    /// Log index this view stands at.
    pub fn index(&self) -> u64 {
        self.position.index
    }

    /// Digest, chain head, log time, reign.
    pub fn state(&self) -> &StateHeader {
        &self.state
    }

    /// How old it may be; `None` where that is not known.
    pub fn staleness(&self) -> Option<Duration> {
        self.staleness
    }

    /// Who led when it was taken.
    pub fn leader(&self) -> Option<u64> {
        self.leader
    }

    /// Whose rows.
    pub fn node(&self) -> u64 {
        self.node
    }

    fn entity<T: DeserializeOwned>(&self, kind: Kind, id: u128) -> Result<Option<T>> {
        Ok(self.row(kind, id)?.map(|(state, _)| state))
    }

    fn row<T: DeserializeOwned>(&self, kind: Kind, id: u128) -> Result<Option<(T, Moves)>> {
        let row = self.view.get(Keyspace::Entity, &schema::entity(kind, id))?;
        row.map(|bytes| schema::decode_entity(&bytes)).transpose()
    }

    fn entities<T: DeserializeOwned>(&self, kind: Kind, after: Option<u128>, limit: usize) -> Result<Page<T>> {
        let limit = limit.clamp(1, PAGE_MAX);
        let last = key::prefix_end(&[kind as u8]).unwrap_or_default();
        let first = after.map_or_else(|| vec![kind as u8], |id| schema::entity(kind, id).to_vec());
        let from = if after.is_some() { Bound::Excluded(first.as_slice()) } else { Bound::Included(first.as_slice()) };
        let mut items = Vec::new();
        for row in self.view.scan(Keyspace::Entity, from, Bound::Excluded(&last), false) {
            if items.len() == limit {
                return Ok(Page { items, more: true });
            }
            items.push(schema::decode_entity(&row?.1)?.0);
        }
        Ok(Page { items, more: false })
    }

    /// One SKU.
    ///
    /// # Errors
    /// Storage errors, here and in all that follow.
    pub fn sku(&self, id: SkuId) -> Result<Option<Sku>> {
        self.entity(Kind::Sku, id.0.0)
    }

    /// The SKU that has a code.
    ///
    /// # Errors
    /// Storage errors.
    pub fn sku_by_code(&self, code: &str) -> Result<Option<Sku>> {
        let claim: Option<Claim> = self.entity(Kind::Claim, checkout::claim_id("sku_code", code).0.0)?;
        claim.map_or(Ok(None), |claim| self.sku(SkuId(claim.owner)))
    }

    /// SKUs, oldest first.
    ///
    /// # Errors
    /// Storage errors.
    pub fn skus(&self, after: Option<SkuId>, limit: usize) -> Result<Page<Sku>> {
        self.entities(Kind::Sku, after.map(|id| id.0.0), limit)
    }

    /// One account.
    ///
    /// # Errors
    /// Storage errors.
    pub fn account(&self, id: AccountId) -> Result<Option<Account>> {
        self.entity(Kind::Account, id.0.0)
    }

    /// Accounts, oldest first.
    ///
    /// # Errors
    /// Storage errors.
    pub fn accounts(&self, after: Option<AccountId>, limit: usize) -> Result<Page<Account>> {
        self.entities(Kind::Account, after.map(|id| id.0.0), limit)
    }

    /// One order.
    ///
    /// # Errors
    /// Storage errors.
    pub fn order(&self, id: OrderId) -> Result<Option<Order>> {
        self.entity(Kind::Order, id.0.0)
    }

    /// Orders that match, by the time they were placed. A list filtered by account *and* status may come back with
    /// fewer items than asked for and `more` set; the returned cursor is the last order looked at.
    ///
    /// # Errors
    /// Storage errors.
    pub fn orders(
        &self,
        filter: OrderFilter,
        after: Option<OrderId>,
        newest_first: bool,
        limit: usize,
    ) -> Result<(Page<Order>, Option<OrderId>)> {
        let limit = limit.clamp(1, PAGE_MAX);
        let (keyspace, prefix) = match filter {
            OrderFilter { account: Some(account), .. } => {
                (Keyspace::Index, key::index_entry(schema::ORDERS_BY_ACCOUNT, &account.0.0.to_be_bytes(), &[]))
            }
            OrderFilter { status: Some(OrderStatus::Created), .. } => (Keyspace::Index, vec![schema::TIMERS]),
            OrderFilter { status: Some(status), .. } => {
                (Keyspace::Index, key::index_entry(schema::ORDERS_BY_STATUS, &[status as u8], &[]))
            }
            OrderFilter { account: None, status: None } => (Keyspace::Entity, vec![Kind::Order as u8]),
        };
        let end = key::prefix_end(&prefix).unwrap_or_default();
        let mut edge = prefix.clone();
        if let Some(after) = after {
            if prefix == [schema::TIMERS] {
                // Sorted by the time they expire, which an order keeps when it moves on.
                let due_ms = self.order(after)?.map_or(0, |order| order.expire_ms);
                edge = schema::timer(due_ms, after).to_vec();
            } else {
                edge.extend_from_slice(&after.0.0.to_be_bytes());
            }
        }
        let (from, to) = match (after.is_some(), newest_first) {
            (false, _) => (Bound::Included(prefix.as_slice()), Bound::Excluded(end.as_slice())),
            (true, false) => (Bound::Excluded(edge.as_slice()), Bound::Excluded(end.as_slice())),
            (true, true) => (Bound::Included(prefix.as_slice()), Bound::Excluded(edge.as_slice())),
        };
        let mut items = Vec::new();
        let mut last = None;
        for (seen, row) in self.view.scan(keyspace, from, to, newest_first).enumerate() {
            if items.len() == limit || seen == SCAN_MAX {
                return Ok((Page { items, more: true }, last));
            }
            let (row_key, value) = row?;
            let id = schema::tail_id(&row_key).map(|id| OrderId(Uid(id)));
            let id = id.ok_or_else(|| Error::corrupt("an order index row without an order"))?;
            last = Some(id);
            let order: Order = match keyspace {
                Keyspace::Entity => schema::decode(&value)?,
                _ => self.order(id)?.ok_or_else(|| Error::corrupt(format!("an index names {id}, which has no row")))?,
            };
            if filter.status.is_none_or(|status| order.status() == status) {
                items.push(order);
            }
        }
        Ok((Page { items, more: false }, last))
    }

    fn entry_fact(&self, index: u64) -> Result<EntryFact> {
        let row = self.view.get(Keyspace::Feed, &key::feed(index, 0))?;
        let row = row.ok_or_else(|| Error::corrupt(format!("the feed has no row for entry {index}")))?;
        schema::decode(&row)
    }

    /// One event: in the last row at or before its sub.
    fn fact(&self, index: u64, sub: u32) -> Result<Fact> {
        let missing = || Error::corrupt(format!("the feed has no event {index}.{sub}"));
        let (from, to) = (key::feed(index, 0), key::feed(index, sub));
        let mut rows = self.view.scan(Keyspace::Feed, Bound::Excluded(&from), Bound::Included(&to), true);
        let (row_key, value) = rows.next().ok_or_else(missing)??;
        let mut facts = schema::decode_facts(&value, place(&row_key)?.1)?.into_iter();
        facts.find(|(at, _)| *at == sub).map(|(_, fact)| fact).ok_or_else(missing)
    }

    /// What moved stock, oldest first: of one SKU, or of all. The second value is the last place looked at, from
    /// which a page with `more` goes on; a list of all may come back with fewer items than asked for.
    ///
    /// # Errors
    /// Storage errors.
    #[allow(clippy::type_complexity)]
    pub fn movements(
        &self,
        sku: Option<SkuId>,
        after: Option<(u64, u32)>,
        limit: usize,
    ) -> Result<(Page<Movement>, Option<(u64, u32)>)> {
        let limit = limit.clamp(1, PAGE_MAX);
        let Some(sku) = sku else { return self.all_movements(after, limit) };
        let prefix = key::index_entry(schema::MOVEMENTS, &sku.0.0.to_be_bytes(), &[]);
        let end = key::prefix_end(&prefix).unwrap_or_default();
        // A row holds many, under the place of its first: the one to go on behind lies in the last row at or before it.
        let first = match after {
            None => prefix.clone(),
            Some((index, sub)) => {
                let edge = schema::movement(sku, index, sub);
                let (from, to) = (Bound::Included(prefix.as_slice()), Bound::Included(&*edge));
                let row = self.view.scan(Keyspace::Index, from, to, true).next().transpose()?;
                row.map_or_else(|| prefix.clone(), |(row_key, _)| row_key)
            }
        };
        let rows = self.view.scan(Keyspace::Index, Bound::Included(&first), Bound::Excluded(&end), false);
        let latest = self.row::<Sku>(Kind::Sku, sku.0.0)?.map(|(_, moves)| Ok(moves));
        let (mut items, mut last) = (Vec::new(), None);
        for moves in rows.map(|row| schema::decode::<Moves>(&row?.1)).chain(latest) {
            for (index, sub) in moves?.places() {
                if after.is_some_and(|after| (index, sub) <= after) {
                    continue;
                }
                if items.len() == limit {
                    return Ok((Page { items, more: true }, last));
                }
                last = Some((index, sub));
                let time_ms = self.entry_fact(index)?.time_ms;
                items.push(Movement { index, sub, time_ms, fact: self.fact(index, sub)? });
            }
        }
        Ok((Page { items, more: false }, last))
    }

    #[allow(clippy::type_complexity)]
    fn all_movements(&self, after: Option<(u64, u32)>, limit: usize) -> Result<(Page<Movement>, Option<(u64, u32)>)> {
        let mut items = Vec::new();
        let mut last = None;
        let after = after.unwrap_or((0, 0));
        // A place that was never in the feed may come from a client: whatever follows it begins with an entry.
        let began = self.view.get(Keyspace::Feed, &key::feed(after.0, 0))?;
        let began: Option<EntryFact> = began.map(|row| schema::decode(&row)).transpose()?;
        let mut time_ms = began.map_or(0, |entry| entry.time_ms);
        // The place may lie inside a row, so the rows of its entry are looked through again.
        let edge = key::feed(after.0, 0);
        let scan = self.view.scan(Keyspace::Feed, Bound::Excluded(&edge), Bound::Unbounded, false);
        let mut seen = 0;
        for row in scan {
            let (row_key, value) = row?;
            let (index, sub) = place(&row_key)?;
            if sub == 0 {
                time_ms = schema::decode::<EntryFact>(&value)?.time_ms;
                continue;
            }
            for (sub, fact) in schema::decode_facts(&value, sub)? {
                if (index, sub) <= after {
                    continue;
                }
                seen += 1;
                if items.len() == limit || seen > SCAN_MAX {
                    return Ok((Page { items, more: true }, last));
                }
                last = Some((index, sub));
                if matches!(fact.change, Change::Sku(..)) && fact.stock.is_some() {
                    items.push(Movement { index, sub, time_ms, fact });
                }
            }
        }
        Ok((Page { items, more: false }, last))
    }

    /// Events behind an index (exclusive), whole entries only, at least one entry if there is one.
    ///
    /// # Errors
    /// Storage errors.
    pub fn feed(&self, after: u64, limit: usize) -> Result<Vec<FeedItem>> {
        let limit = limit.max(1);
        let after = if planted::is(Bug::FeedResumesOneTooFar) { after.saturating_add(1) } else { after };
        let from = key::feed(after, u32::MAX);
        let mut items: Vec<FeedItem> = Vec::new();
        let mut entry: Option<EntryFact> = None;
        for row in self.view.scan(Keyspace::Feed, Bound::Excluded(&from), Bound::Unbounded, false) {
            let (row_key, value) = row?;
            let (index, sub) = place(&row_key)?;
            if sub == 0 {
                if items.len() >= limit {
                    break;
                }
                entry = Some(schema::decode(&value)?);
                continue;
            }
            let of = entry.as_ref().ok_or_else(|| Error::corrupt(format!("the feed begins inside entry {index}")))?;
            let (time_ms, prev_head) = (of.time_ms, of.prev_head);
            let facts = schema::decode_facts(&value, sub)?.into_iter();
            items.extend(facts.map(|(sub, fact)| FeedItem { index, sub, time_ms, prev_head, fact }));
        }
        Ok(items)
    }

    /// Index of the oldest entry in the feed; 0 while it is empty.
    ///
    /// # Errors
    /// Storage errors.
    pub fn feed_oldest(&self) -> Result<u64> {
        match self.view.scan(Keyspace::Feed, Bound::Unbounded, Bound::Unbounded, false).next() {
            Some(row) => Ok(place(&row?.0)?.0),
            None => Ok(0),
        }
    }

    /// What was answered under a key.
    ///
    /// # Errors
    /// Storage errors.
    pub fn outcome(&self, key_hash: u128) -> Result<Option<(OutcomeRow, Answer)>> {
        let newest_first = self.state.outcome_buckets.iter().rev().map(|(bucket, _)| *bucket);
        let found = answer::find_outcome(newest_first, key_hash, |keyspace, key| self.view.get(keyspace, key))?;
        let Some(row) = found else { return Ok(None) };
        let answer = answer::restore(row.answer.clone(), |id| self.order(id))?;
        Ok(Some((row, answer)))
    }

    /// The sums of all ledger accounts.
    ///
    /// # Errors
    /// Storage errors.
    pub fn ledger(&self) -> Result<Vec<LedgerRow>> {
        let (first, last) = ([Kind::Ledger as u8], [Kind::Ledger as u8 + 1]);
        let rows = self.view.scan(Keyspace::Entity, Bound::Included(&first), Bound::Excluded(&last), false);
        rows.map(|row| schema::decode(&row?.1)).collect()
    }
}

fn place(feed_key: &[u8]) -> Result<(u64, u32)> {
    key::parse_feed(feed_key).ok_or_else(|| Error::corrupt("a feed row without a place"))
}
