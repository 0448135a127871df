//! What an entry does to the rows: whole transactions or nothing, each key once, only the reign in force, and sums
//! that an independent walk over the rows confirms.

use std::sync::Arc;

use agora_apply::{
    Machine, TransactionResult,
    machine::{chain, hash_outcomes},
    schema,
};
use agora_domain::{
    Account, AccountEvent, AccountId, AccountKind, Answer, Change, Currency, KeyRef, Kind, Money, OrderEvent, OrderId,
    OrderStatus, Rejection, Sku, SkuEvent, SkuId, SkuTerms, Transaction, Uid,
    fact::EntryFact,
    ledger::{self, LedgerAccount},
    order::{Cause, Line},
    transaction::{Outcome, OutcomeRow},
};
use agora_storage::{
    BrokenRow, Disk, Keyspace, LogPosition, MemDisk, MemRows, codec,
    entry::{EntryBuilder, EntryHeader, EntryKind},
    key, row_hash,
    rows::Rows,
};
use std::ops::Bound;

const HOUR_MS: i64 = 3_600_000;

struct Node {
    rows: MemRows,
    machine: Machine,
    index: u64,
    reign: u64,
    time_ms: i64,
}

impl Node {
    fn new() -> Self {
        let rows = MemRows::new();
        let machine = Machine::open(&rows).unwrap();
        let mut node = Self { rows, machine, index: 0, reign: 0, time_ms: HOUR_MS };
        node.fence();
        node
    }

    fn entry(&mut self, kind: EntryKind, reign: u64, transactions: &[Transaction]) -> agora_apply::EntryResult {
        self.index += 1;
        self.time_ms += 1;
        let bytes = self.encoded(kind, reign, transactions);
        self.machine.apply_entry(&self.rows, LogPosition { index: self.index, term: 1 }, &bytes).unwrap()
    }

    fn encoded(&self, kind: EntryKind, reign: u64, transactions: &[Transaction]) -> bytes::Bytes {
        let mut builder = EntryBuilder::new();
        for transaction in transactions {
            builder.push(&codec::encode(transaction));
        }
        builder.finish(EntryHeader {
            kind,
            reign,
            term: 1,
            node: 1,
            sequence: self.index,
            log_time_ms: self.time_ms,
            feature_level: 1,
            count: transactions.len() as u32,
        })
    }

    fn fence(&mut self) {
        let state = self.entry(EntryKind::Fence, 0, &[]).state;
        assert_eq!(state.reign, self.reign + 1);
        self.reign = state.reign;
    }

    fn apply(&mut self, transactions: &[Transaction]) -> Vec<TransactionResult> {
        let results = self.entry(EntryKind::Transactions, self.reign, transactions).results;
        self.check();
        results
    }

    /// Walks all rows: the digest is their sum, stock adds up, the ledger balances, the chain holds.
    fn check(&self) {
        let view = self.rows.view().unwrap();
        let mut digest = 0u128;
        for keyspace in view.keyspaces().into_iter().filter(|keyspace| *keyspace != Keyspace::Meta) {
            for row in view.scan(keyspace, Bound::Unbounded, Bound::Unbounded, false) {
                let (key, value) = row.unwrap();
                digest = digest.wrapping_add(row_hash(keyspace, &key, &value));
            }
        }
        assert_eq!(digest, self.machine.state().digest, "the digest is the sum over the rows");
        let mut facts: Vec<Vec<u8>> = Vec::new();
        let mut entry: Option<(u64, EntryFact)> = None;
        let mut head = [0; 32];
        for row in view.scan(Keyspace::Feed, Bound::Unbounded, Bound::Unbounded, false) {
            let (row_key, value) = row.unwrap();
            let (index, sub) = key::parse_feed(&row_key).unwrap();
            if sub == 0 {
                if let Some((index, entry)) = entry.take() {
                    assert_eq!(entry.prev_head, head);
                    head = chain(&entry, index, facts.iter().map(Vec::as_slice));
                }
                facts.clear();
                entry = Some((index, schema::decode(&value).unwrap()));
            } else {
                facts.push(value);
            }
        }
        if let Some((index, entry)) = entry {
            head = chain(&entry, index, facts.iter().map(Vec::as_slice));
        }
        assert_eq!(head, self.machine.state().chain_head, "the chain can be walked from the feed");
    }

    fn sku(&self) -> Sku {
        schema::load(&self.rows, SKU.0.0).unwrap().unwrap()
    }
}

const SKU: SkuId = SkuId(Uid(10));
const ACCOUNT: AccountId = AccountId(Uid(20));

fn money(minor: i64) -> Money {
    Money::new(minor, Currency::CNY)
}

fn order(number: u128) -> OrderId {
    OrderId(Uid(1_000 + number))
}

fn transaction(key: u128, changes: Vec<Change>, outcome: Outcome) -> Transaction {
    let key = Some(KeyRef { hash: key, fingerprint: 1 });
    Transaction { key, trace: 5, decided_at: 0, changes, legs: Vec::new(), outcome }
}

fn shop() -> Node {
    let mut node = Node::new();
    let terms = SkuTerms { code: "T".into(), name: "Tea".into(), price: money(100), sellable: true };
    let created = SkuEvent::Created { terms: Arc::new(terms), id: SKU };
    let received = SkuEvent::Received { quantity: 5, reason: "first".into() };
    let account = AccountEvent::Created { id: ACCOUNT, kind: AccountKind::Customer, name: "A".into() };
    let results = node.apply(&[
        transaction(1, vec![Change::Sku(SKU, created), Change::Sku(SKU, received)], Outcome::Sku(SKU)),
        transaction(2, vec![Change::Account(ACCOUNT, account)], Outcome::Account(ACCOUNT)),
    ]);
    assert!(results.iter().all(|result| matches!(result, TransactionResult::Applied(_))), "{results:?}");
    node
}

fn place(key: u128, number: u128, quantity: u32) -> Transaction {
    let id = order(number);
    let line = Line {
        sku: SKU,
        code: "T".into(),
        name: "Tea".into(),
        quantity,
        unit_price: money(100),
        total: money(100 * i64::from(quantity)),
    };
    let placed = OrderEvent::Placed {
        id,
        account: ACCOUNT,
        total: line.total,
        lines: vec![line],
        held: false,
        ttl_ms: 1_000,
        note: String::new(),
    };
    let reserved = SkuEvent::Reserved { order: id, quantity };
    transaction(key, vec![Change::Sku(SKU, reserved), Change::Order(id, placed)], Outcome::Order(id))
}

fn all_rows(node: &Node) -> Vec<(Keyspace, Vec<u8>, Vec<u8>)> {
    let view = node.rows.view().unwrap();
    let of = |keyspace| {
        let rows = view.scan(keyspace, Bound::Unbounded, Bound::Unbounded, false).map(Result::unwrap);
        rows.map(move |(key, value)| (keyspace, key, value)).collect::<Vec<_>>()
    };
    view.keyspaces().into_iter().flat_map(of).collect()
}

fn index_rows(node: &Node, kind: u8) -> usize {
    let view = node.rows.view().unwrap();
    view.scan(Keyspace::Index, Bound::Included(&[kind]), Bound::Excluded(&[kind + 1]), false).count()
}

/// Where the SKU's stock was moved: as its rows of movements tell, and then its own row.
fn movements(node: &Node) -> Vec<(u64, u32)> {
    let view = node.rows.view().unwrap();
    let (from, to) = ([schema::MOVEMENTS], [schema::MOVEMENTS + 1]);
    let rows = view.scan(Keyspace::Index, Bound::Included(&from), Bound::Excluded(&to), false);
    let mut all = Vec::new();
    for row in rows {
        let (row_key, value) = row.unwrap();
        let moves: Vec<_> = schema::decode::<schema::Moves>(&value).unwrap().places().collect();
        assert_eq!(moves.len(), schema::MOVES_MAX);
        assert_eq!(*schema::movement(SKU, moves[0].0, moves[0].1), *row_key, "a row stands under its first");
        all.extend(moves);
    }
    let row = view.get(Keyspace::Entity, &schema::entity(agora_domain::Kind::Sku, SKU.0.0)).unwrap().unwrap();
    all.extend(schema::decode_entity::<Sku>(&row).unwrap().1.places());
    all
}

#[test]
fn every_movement_is_told_once_and_in_order_whatever_became_of_its_neighbours() {
    let mut node = shop();
    let received = |key, quantity| {
        let event = SkuEvent::Received { quantity, reason: String::new() };
        transaction(key, vec![Change::Sku(SKU, event)], Outcome::Stocks(vec![SKU]))
    };
    let mut expected = vec![(node.index, 2)];
    for round in 0..10u128 {
        let key = 100 + 10 * round;
        // The second takes more than there is and has no effect.
        let results = node.apply(&[received(key, 1), place(key + 1, 500, 1_000_000), received(key + 2, 1)]);
        assert!(matches!(results[1], TransactionResult::Impossible(_)));
        expected.extend([(node.index, 1), (node.index, 2)]);
        if round == 5 {
            node.machine = Machine::open(&node.rows).unwrap();
        }
    }
    assert_eq!(movements(&node), expected);
}

#[test]
fn an_order_takes_effect_whole() {
    let mut node = shop();
    let results = node.apply(&[place(3, 1, 2)]);
    let [TransactionResult::Applied(Answer::Order { order: placed, no_change: false })] = results.as_slice() else {
        panic!("{results:?}")
    };
    assert_eq!((placed.status(), placed.expire_ms), (OrderStatus::Created, node.time_ms + 1_000));
    assert_eq!((node.sku().on_hand_units, node.sku().reserved_units), (5, 2));
    for kind in [schema::ORDERS_BY_ACCOUNT, schema::TIMERS] {
        assert_eq!(index_rows(&node, kind), 1);
    }
    assert_eq!(index_rows(&node, schema::ORDERS_BY_STATUS), 0, "its timer tells that it is CREATED");
    assert_eq!(movements(&node), [(node.index - 1, 2), (node.index, 1)]);
}

#[test]
fn an_oversell_is_refused_without_any_effect_and_its_neighbours_are_not() {
    let mut node = shop();
    let results = node.apply(&[place(3, 1, 4), place(4, 2, 4), place(5, 3, 1)]);
    assert!(matches!(results[0], TransactionResult::Applied(_)));
    assert!(matches!(results[1], TransactionResult::Impossible(_)), "{results:?}");
    assert!(matches!(results[2], TransactionResult::Applied(_)));
    assert_eq!(node.sku().reserved_units, 5);
    assert_eq!(schema::load::<agora_domain::Order>(&node.rows, order(2).0.0).unwrap(), None);
    assert_eq!(index_rows(&node, schema::ORDERS_BY_ACCOUNT), 2);
    // A refused key is free: the client may try again under it.
    let again = node.apply(&[place(4, 4, 1)]);
    assert!(matches!(again[0], TransactionResult::Impossible(_)));
}

#[test]
fn a_key_has_one_effect_in_one_entry_and_over_entries() {
    let mut node = shop();
    let results = node.apply(&[place(3, 1, 1), place(3, 2, 1)]);
    let TransactionResult::Applied(first) = &results[0] else { panic!("{results:?}") };
    assert_eq!(results[1], TransactionResult::Replayed { answer: first.clone(), index: node.index, trace: 5 });
    let first_index = node.index;
    let pay_less = Change::Order(
        order(1),
        OrderEvent::Moved { to: OrderStatus::Cancelled, cause: Cause::Request, note: String::new() },
    );
    let release = Change::Sku(SKU, SkuEvent::Released { order: order(1), quantity: 1 });
    node.apply(&[transaction(9, vec![pay_less, release], Outcome::Order(order(1)))]);
    // The order has moved on; the replay shows it as it was answered.
    let later = node.apply(&[place(3, 5, 1)]);
    assert_eq!(later, [TransactionResult::Replayed { answer: first.clone(), index: first_index, trace: 5 }]);
    let mut other = place(3, 6, 1);
    other.key = Some(KeyRef { hash: 3, fingerprint: 2 });
    assert_eq!(node.apply(&[other]), [TransactionResult::KeyReused]);
    assert_eq!(node.sku().reserved_units, 0);
    assert_eq!(index_rows(&node, schema::TIMERS), 0);
}

#[test]
fn a_refusal_is_kept_like_any_outcome() {
    let mut node = shop();
    let rejection = Rejection::AccountNotFound(AccountId(Uid(99)));
    let refused = transaction(3, Vec::new(), Outcome::Refused(rejection.clone()));
    let first = node.apply(std::slice::from_ref(&refused));
    assert_eq!(first, [TransactionResult::Applied(Answer::Refused(rejection.clone()))]);
    let index = node.index;
    assert_eq!(
        node.apply(&[place(3, 1, 1)]),
        [TransactionResult::Replayed { answer: Answer::Refused(rejection), index, trace: 5 }]
    );
}

#[test]
fn what_an_older_reign_decided_has_no_effect() {
    let mut node = shop();
    let old = node.reign;
    node.fence();
    let results = node.entry(EntryKind::Transactions, old, &[place(3, 1, 1)]).results;
    assert_eq!(results, [TransactionResult::Fenced]);
    node.check();
    assert_eq!(node.sku().reserved_units, 0);
}

#[test]
fn money_without_its_posting_is_refused() {
    let mut node = shop();
    let adjusted = Change::Account(ACCOUNT, AccountEvent::Adjusted { amount: money(500), reason: String::new() });
    let mut deposit = transaction(3, vec![adjusted], Outcome::Account(ACCOUNT));
    assert!(matches!(node.apply(std::slice::from_ref(&deposit))[0], TransactionResult::Impossible(_)));
    deposit.legs = ledger::transfer(LedgerAccount::WalletFunding, LedgerAccount::Wallet(ACCOUNT), money(500)).to_vec();
    let mut lopsided = deposit.clone();
    lopsided.legs.pop();
    assert!(matches!(node.apply(&[lopsided])[0], TransactionResult::Impossible(_)));
    assert!(matches!(node.apply(&[deposit])[0], TransactionResult::Applied(_)));
    let account: Account = schema::load(&node.rows, ACCOUNT.0.0).unwrap().unwrap();
    assert_eq!(account.wallet(Currency::CNY).balance_minor, 500);
}

#[test]
fn one_posting_does_not_stand_for_two_movements_of_money_nor_for_none() {
    let mut node = shop();
    let adjusted = Change::Account(ACCOUNT, AccountEvent::Adjusted { amount: money(500), reason: String::new() });
    let legs = ledger::transfer(LedgerAccount::WalletFunding, LedgerAccount::Wallet(ACCOUNT), money(500)).to_vec();
    let mut twice = transaction(3, vec![adjusted.clone(), adjusted], Outcome::Account(ACCOUNT));
    twice.legs.clone_from(&legs);
    let mut never = transaction(4, Vec::new(), Outcome::Account(ACCOUNT));
    never.legs = legs;
    for result in node.apply(&[twice, never]) {
        assert!(matches!(result, TransactionResult::Impossible(_)), "{result:?}");
    }
    let account: Account = schema::load(&node.rows, ACCOUNT.0.0).unwrap().unwrap();
    assert_eq!(account.wallet(Currency::CNY).balance_minor, 0);
}

#[test]
fn an_answer_about_nothing_is_refused_and_stops_nobody() {
    let mut node = shop();
    let mut lost = place(3, 1, 2);
    lost.outcome = Outcome::Order(order(2));
    assert!(matches!(node.apply(&[lost])[0], TransactionResult::Impossible(_)));
    assert_eq!(node.sku().reserved_units, 0, "it has no effect");
    assert!(matches!(node.apply(&[place(3, 1, 2)])[0], TransactionResult::Applied(_)), "its key is free");
}

#[test]
fn the_outcomes_hash_can_be_made_again_from_the_rows() {
    let mut node = shop();
    // Proposed in another order than their keys sort.
    node.apply(&[place(9, 1, 1), place(3, 2, 1), place(7, 3, 1)]);
    let view = node.rows.view().unwrap();
    let bucket = Keyspace::Outcomes(schema::outcome_bucket(node.time_ms));
    let rows = view.scan(bucket, Bound::Unbounded, Bound::Unbounded, false).map(Result::unwrap);
    let of_entry: Vec<(u128, Vec<u8>)> = rows
        .filter(|(_, row)| schema::decode::<OutcomeRow>(row).unwrap().index == node.index)
        .map(|(key, row)| (schema::tail_id(&key).unwrap(), row))
        .collect();
    assert_eq!(of_entry.len(), 3);
    let entry = view.get(Keyspace::Feed, &key::feed(node.index, 0)).unwrap().unwrap();
    let entry: EntryFact = schema::decode(&entry).unwrap();
    assert_eq!(entry.outcomes_hash, hash_outcomes(of_entry.iter().map(|(hash, row)| (*hash, row.as_slice()))));
}

#[test]
fn outcomes_are_dropped_whole_after_a_day() {
    let mut node = shop();
    node.apply(&[place(3, 1, 1)]);
    node.time_ms += 24 * HOUR_MS;
    assert!(matches!(node.apply(&[place(3, 2, 1)])[0], TransactionResult::Replayed { .. }), "24 hours are kept");
    node.time_ms += 7 * HOUR_MS;
    assert!(matches!(node.apply(&[place(3, 3, 1)])[0], TransactionResult::Applied(_)));
    assert_eq!(node.machine.state().outcome_buckets.len(), 1);
}

#[test]
fn equal_entries_give_equal_states_and_an_opened_machine_goes_on_where_it_was() {
    let (mut left, mut right) = (shop(), shop());
    for number in 0..3 {
        left.apply(&[place(10 + number, number, 1)]);
        right.machine = Machine::open(&right.rows).unwrap();
        right.apply(&[place(10 + number, number, 1)]);
        assert_eq!(left.machine.state(), right.machine.state());
    }
}

#[test]
fn a_machine_opens_where_the_newest_row_cannot_be_read_and_goes_on_as_the_others_do() {
    for how in [BrokenRow::Rotten, BrokenRow::Unreadable] {
        let disk = MemDisk::new();
        let rows = disk.create_rows(1).unwrap();
        let (mut whole, mut node) = (shop(), shop());
        whole.apply(&[place(10, 0, 1)]);
        node.apply(&[place(10, 0, 1)]);
        rows.ingest(all_rows(&node)).unwrap();
        rows.ingest_finish(node.index).unwrap();
        let newest = schema::entity(Kind::Order, order(0).0.0);
        assert!(disk.break_row(1, Keyspace::Entity, &newest, how));
        let mut damaged = Machine::open(&*rows).unwrap();
        assert!(rows.damage().is_some());
        assert_eq!(damaged.state(), whole.machine.state());
        // An order behind the broken one.
        whole.apply(&[place(11, 1, 1)]);
        node.index += 1;
        node.time_ms += 1;
        let bytes = node.encoded(EntryKind::Transactions, node.reign, &[place(11, 1, 1)]);
        damaged.apply_entry(&*rows, LogPosition { index: node.index, term: 1 }, &bytes).unwrap();
        assert_eq!(damaged.state(), whole.machine.state());
    }
}

#[test]
fn where_nobody_waits_orders_are_left_out_of_answers_and_nothing_else_differs() {
    let (mut left, mut right) = (shop(), shop());
    let mut builder = EntryBuilder::new();
    builder.push(&codec::encode(&place(3, 1, 1)));
    builder.push(&codec::encode(&place(4, 2, 1)));
    let position = LogPosition { index: left.index + 1, term: 1 };
    let bytes = builder.finish(EntryHeader {
        kind: EntryKind::Transactions,
        reign: left.reign,
        term: 1,
        node: 1,
        sequence: position.index,
        log_time_ms: left.time_ms + 1,
        feature_level: 1,
        count: 2,
    });
    let told = left.machine.apply_for(&left.rows, position, &bytes, |_| true).unwrap();
    let silent = right.machine.apply_for(&right.rows, position, &bytes, |_| false).unwrap();
    assert!(matches!(told.results[1], TransactionResult::Applied(Answer::Order { .. })));
    assert!(matches!(silent.results[1], TransactionResult::Applied(Answer::None)));
    assert_eq!((told.state, told.changes), (silent.state, silent.changes));
    right.index = position.index;
    right.time_ms += 1;
    let results = right.apply(&[place(4, 2, 1)]);
    assert!(matches!(results[0], TransactionResult::Replayed { answer: Answer::Order { .. }, .. }), "{results:?}");
}

#[test]
fn the_events_of_a_large_batch_are_spread_over_rows_and_one_too_large_is_refused() {
    let mut node = shop();
    let long = |quantity, name: &str| {
        let mut one = place(3, 1, quantity);
        for change in &mut one.changes {
            if let Change::Order(_, OrderEvent::Placed { lines, .. }) = change {
                lines[0].name = name.to_owned();
            }
        }
        one
    };
    // No honest order has such a name; it is refused on every node instead of stopping one after the other.
    let huge = long(1, &"x".repeat(5_000_000));
    assert!(matches!(node.apply(&[huge])[0], TransactionResult::Impossible(_)));
    let received = |_| Change::Sku(SKU, SkuEvent::Received { quantity: 1, reason: String::new() });
    let many = transaction(4, (0..200).map(received).collect(), Outcome::Stocks(vec![SKU]));
    assert!(matches!(node.apply(&[many, place(5, 2, 1)])[0], TransactionResult::Applied(_)));
    let view = node.rows.view().unwrap();
    let (from, to) = (key::feed(node.index, 0), key::feed(node.index, u32::MAX));
    let mut subs = Vec::new();
    let mut rows = 0;
    for row in view.scan(Keyspace::Feed, Bound::Excluded(&from), Bound::Included(&to), false) {
        let (row_key, value) = row.unwrap();
        assert!(value.len() < 2_048, "a row of {} bytes is stored in parts", value.len());
        let facts = schema::decode_facts(&value, key::parse_feed(&row_key).unwrap().1).unwrap();
        subs.extend(facts.into_iter().map(|(sub, _)| sub));
        rows += 1;
    }
    assert_eq!(subs, (1..=202).collect::<Vec<u32>>(), "no sub is missing and none is there twice");
    assert_eq!(rows, 2);
}
