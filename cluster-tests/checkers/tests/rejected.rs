//! Histories that are known to be wrong, made by hand, and the checker that must say so. Beside each stands the same
//! history without the fault, which must pass, so that nothing is rejected for another reason.

use std::collections::BTreeMap;

use agora_checkers::{
    Checked, all,
    c10_recovery::Pace,
    c11_coverage::{coverage, judge, merge},
};
use agora_history::{
    Account, Answer, Basket, Call, Fault, FeedEvent, FeedPage, Level, Micros, NodeFinals, Op, Order, OrderLine,
    Refusal, Reply, Role, RunData, Shortage, Sku, Stock, StockMove, Target,
};
use serde_json::{Value, json};

/// Milliseconds.
const MS: Micros = 1_000;

fn ask(name: &str, data: &RunData) -> Checked {
    all().into_iter().map(|check| check(data)).find(|checked| checked.checker == name).expect("a known checker")
}

#[track_caller]
fn rejected(name: &str, data: &RunData, because: &str) {
    let findings = ask(name, data).findings;
    assert!(findings.iter().any(|finding| finding.what.contains(because)), "{because:?} is not in {findings:#?}");
}

#[track_caller]
fn passes(name: &str, data: &RunData) {
    let checked = ask(name, data);
    assert_eq!((checked.findings, checked.undecided), (vec![], 0));
}

/// A history being written down.
#[derive(Default)]
struct Pen {
    data: RunData,
}

impl Pen {
    /// One call: from and until in milliseconds.
    fn call(&mut self, client: u32, from: u64, until: u64, request: Op, reply: Reply) -> &mut Call {
        let op = self.data.calls.len() as u64 + 1;
        let write = request.is_write();
        self.data.calls.push(Call {
            op,
            attempt: 0,
            client,
            node: 1,
            invoked: from * MS,
            returned: until * MS,
            key: write.then(|| format!("key-{op}")),
            trace: format!("{op:032x}"),
            level: (!write).then_some(Level::Linearizable),
            min_index: None,
            request,
            reply,
            index: None,
            staleness_ms: None,
            replayed: false,
            body_hash: None,
        });
        self.data.calls.last_mut().expect("just written")
    }

    fn yes(&mut self, client: u32, from: u64, until: u64, request: Op, answer: Answer) -> &mut Call {
        self.call(client, from, until, request, Reply::Yes { status: 200, answer })
    }

    fn unknown(&mut self, client: u32, from: u64, until: u64, request: Op) -> &mut Call {
        self.call(client, from, until, request, Reply::Unknown { status: None, why: "no answer".into() })
    }

    fn refused(&mut self, client: u32, from: u64, until: u64, request: Op, refusal: Refusal) -> &mut Call {
        self.call(client, from, until, request, Reply::Refused { status: 409, refusal })
    }

    fn stock_at_the_end(&mut self, stock: Stock) {
        let node = self.data.finals.nodes.entry(1).or_default();
        node.stocks.insert(stock.sku.clone(), stock);
    }

    /// One event, told by every node; `op` is the call that caused it.
    fn event(
        &mut self,
        op: u64,
        (index, sub): (u64, u32),
        kind: &str,
        (what, id, version): (&str, &str, u64),
        data: Value,
    ) {
        let event = FeedEvent {
            index,
            sub,
            kind: kind.into(),
            aggregate: what.into(),
            aggregate_id: id.into(),
            aggregate_version: version,
            time: "2026-01-01T00:00:00.000Z".into(),
            data,
            stock: None,
            trace_id: format!("{op:032x}"),
            prev_hash: String::new(),
        };
        self.data.feeds.entry(1).or_default().push(event);
    }

    /// Stock of a new SKU, version by version: on hand and reserved, the first at index 11.
    fn stock_events(&mut self, sku: &str, levels: &[(u64, u64)]) {
        let terms = json!({"sku_code": "A", "name": "A", "price": money(100), "sellable": true});
        self.event(0, (10, 1), "catalog.sku.created", ("sku", sku, 1), terms);
        let mut before = (0, 0);
        for (at, level) in levels.iter().enumerate() {
            let place = (11 + at as u64, 1);
            let version = at as u64 + 2;
            let delta = json!({"delta": level.0 as i64 - before.0 as i64, "reason": ""});
            self.event(0, place, "inventory.stock.adjusted", ("sku", sku, version), delta);
            let event = self.data.feeds.get_mut(&1).and_then(|feed| feed.last_mut()).expect("just told");
            event.stock = Some(StockMove {
                on_hand_pre: before.0,
                on_hand_post: level.0,
                reserved_pre: before.1,
                reserved_post: level.1,
            });
            before = *level;
        }
    }
}

fn money(amount: i64) -> Value {
    json!({"amount": amount, "currency": "CNY"})
}

fn stock(sku: &str, on_hand: u64, reserved: u64, version: u64) -> Stock {
    Stock { sku: sku.into(), on_hand, reserved, available: on_hand - reserved, version }
}

fn stocks(levels: &[Stock]) -> Answer {
    Answer::Stocks(levels.to_vec())
}

fn receive(lines: &[(&str, u32)]) -> Op {
    Op::Receive { lines: lines.iter().map(|(sku, quantity)| ((*sku).into(), *quantity)).collect() }
}

fn basket(sku: &str, quantity: u32) -> Basket {
    Basket { account: "acc".into(), items: vec![(sku.into(), quantity)], hold: false }
}

fn order(id: &str, sku: &str, quantity: u32, steps: &[&str]) -> Order {
    Order {
        id: id.into(),
        account: "acc".into(),
        status: (*steps.last().expect("an order has steps")).into(),
        total: 100 * i64::from(quantity),
        lines: vec![OrderLine { sku: sku.into(), quantity, unit_price: 100 }],
        version: steps.len() as u64,
        no_change: false,
        steps: steps.iter().map(|step| ((*step).to_owned(), 0)).collect(),
    }
}

fn read_stock(sku: &str) -> Op {
    Op::ReadStock { sku: sku.into() }
}

fn read_order(id: &str) -> Op {
    Op::ReadOrder { order: id.into() }
}

fn place(pen: &mut Pen, client: u32, from: u64, id: &str, quantity: u32) {
    pen.yes(
        client,
        from,
        from + 10,
        Op::Place(basket("a", quantity)),
        Answer::Order(order(id, "a", quantity, &["CREATED"])),
    );
}

/// Ten units of `a` at 10 ms.
fn ten() -> Pen {
    let mut pen = Pen::default();
    pen.yes(1, 0, 10, receive(&[("a", 10)]), stocks(&[stock("a", 10, 0, 1)]));
    pen
}

#[test]
fn a_stale_read() {
    let with = |shown: Stock, until| {
        let mut pen = ten();
        pen.yes(2, 20, 30, receive(&[("a", 5)]), stocks(&[stock("a", 15, 0, 2)]));
        pen.yes(3, 25, until, read_stock("a"), stocks(&[stock("a", 15, 0, 2)]));
        pen.yes(4, 40, 50, read_stock("a"), stocks(&[shown]));
        pen.data
    };
    rejected("C2", &with(stock("a", 10, 0, 1), 35), "a state of the past");
    passes("C2", &with(stock("a", 15, 0, 2), 35));
    passes("C2", &with(stock("a", 15, 0, 2), 45));
}

#[test]
fn a_stale_read_that_only_its_place_between_others_gives_away() {
    // No answer names a version: the write was an order.
    let with = |reserved, version| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 3);
        pen.yes(3, 40, 50, read_stock("a"), stocks(&[stock("a", 10, reserved, version)]));
        pen.data
    };
    rejected("C2", &with(0, 1), "no order of operations explains operation 3");
    rejected("C2", &with(3, 3), "no order of operations explains operation 3");
    passes("C2", &with(3, 2));
}

#[test]
fn a_lost_write_that_no_later_read_sees() {
    let with = |end: Stock| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 3);
        place(&mut pen, 2, 40, "o2", 4);
        pen.stock_at_the_end(end);
        pen.data
    };
    rejected("C2", &with(stock("a", 10, 3, 2)), "no order of operations explains the last read");
    passes("C2", &with(stock("a", 10, 7, 3)));
}

#[test]
fn an_oversell_that_only_clients_see() {
    let with = |second| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 6);
        place(&mut pen, 3, 22, "o2", second);
        pen.data.run.settings.insert("order_ttl_ms".into(), "900000".into());
        pen.data
    };
    rejected("C2", &with(5), "stock of a: no order");
    passes("C2", &with(4));
}

#[test]
fn a_double_effect() {
    let with = |reserved, version| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 3);
        pen.yes(3, 40, 50, read_stock("a"), stocks(&[stock("a", 10, reserved, version)]));
        pen.data
    };
    rejected("C2", &with(6, 3), "no order of operations explains operation 3");
    passes("C2", &with(3, 2));
}

#[test]
fn an_unknown_that_took_effect_twice() {
    let with = |first: Stock, second: Stock| {
        let mut pen = ten();
        pen.unknown(2, 20, 30, receive(&[("a", 5)]));
        pen.yes(3, 40, 50, read_stock("a"), stocks(&[first]));
        pen.yes(3, 60, 70, read_stock("a"), stocks(&[second]));
        pen.data
    };
    let once = stock("a", 15, 0, 2);
    rejected("C2", &with(once.clone(), stock("a", 20, 0, 3)), "no order of operations explains operation 4");
    passes("C2", &with(once.clone(), once.clone()));
    passes("C2", &with(stock("a", 10, 0, 1), once));
    passes("C2", &with(stock("a", 10, 0, 1), stock("a", 10, 0, 1)));
}

#[test]
fn an_unknown_that_took_effect_before_it_was_asked() {
    let with = |from| {
        let mut pen = ten();
        pen.yes(3, 40, 50, read_stock("a"), stocks(&[stock("a", 15, 0, 2)]));
        pen.unknown(2, from, from + 10, receive(&[("a", 5)]));
        pen.data
    };
    rejected("C2", &with(55), "no order of operations explains operation 2");
    passes("C2", &with(45));
}

#[test]
fn a_false_refusal() {
    let with = |available| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 4);
        let shortages = vec![Shortage { sku: "a".into(), requested: 7, available }];
        let refusal = Refusal { code: "INVENTORY_SHORTAGE".into(), shortages, ..Refusal::default() };
        pen.refused(3, 25, 40, Op::Place(basket("a", 7)), refusal);
        pen.data
    };
    rejected("C2", &with(0), "Available(0)");
    passes("C2", &with(6));
    // Beside the other order it may have been decided first.
    passes("C2", &with(10));
}

#[test]
fn an_order_that_is_paid_and_cancelled() {
    let with = |version: &[&str]| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 4);
        let cancelled = order("o1", "a", 4, version);
        pen.yes(2, 40, 60, Op::Pay { order: "o1".into() }, Answer::Order(order("o1", "a", 4, &["CREATED", "PAID"])));
        pen.yes(3, 40, 60, Op::Cancel { order: "o1".into() }, Answer::Order(cancelled));
        pen.yes(1, 0, 5, Op::AdjustWallet { account: "acc".into(), amount: 400 }, account(400, 2));
        pen.data
    };
    rejected("C2", &with(&["CREATED", "CANCELLED"]), "o1: no order");
    passes("C2", &with(&["CREATED", "PAID", "CANCELLED"]));
}

fn account(balance: i64, version: u64) -> Answer {
    Answer::Account(Account { id: "acc".into(), balance, held: 0, version })
}

#[test]
fn an_order_that_goes_back() {
    let with = |second: &[&str]| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 4);
        pen.yes(
            3,
            40,
            50,
            Op::Cancel { order: "o1".into() },
            Answer::Order(order("o1", "a", 4, &["CREATED", "CANCELLED"])),
        );
        pen.yes(4, 60, 70, read_order("o1"), Answer::Order(order("o1", "a", 4, second)));
        pen.data
    };
    rejected("C2", &with(&["CREATED"]), "o1: no order");
    passes("C2", &with(&["CREATED", "CANCELLED"]));
}

#[test]
fn an_acknowledged_order_that_is_not_there() {
    let with = |from| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 4);
        pen.call(3, from, 70, read_order("o1"), Reply::NotDone { status: 404, code: "NOT_FOUND".into() });
        pen.data
    };
    rejected("C2", &with(60), "o1: no order");
    passes("C2", &with(25));
}

#[test]
fn money_spent_twice() {
    let with = |amount| {
        let mut pen = Pen::default();
        pen.yes(1, 0, 10, Op::AdjustWallet { account: "acc".into(), amount: 500 }, account(500, 2));
        pen.yes(1, 20, 30, receive(&[("a", 10)]), stocks(&[stock("a", 10, 0, 1)]));
        place(&mut pen, 2, 40, "o1", amount);
        place(&mut pen, 3, 40, "o2", 3);
        for (client, id, quantity) in [(2, "o1", amount), (3, "o2", 3)] {
            let paid = order(id, "a", quantity, &["CREATED", "PAID"]);
            pen.yes(client, 60, 80, Op::Pay { order: id.into() }, Answer::Order(paid));
        }
        pen.data
    };
    rejected("C2", &with(3), "wallet of acc: no order");
    passes("C2", &with(2));
}

fn terms(price: i64, version: u64) -> Answer {
    Answer::Sku(Sku { id: "a".into(), code: "A".into(), price, sellable: true, version })
}

fn change(expected_version: u64, price: i64) -> Op {
    Op::ChangeSku { sku: "a".into(), expected_version, price: Some(price), sellable: None }
}

fn priced() -> Pen {
    let mut pen = Pen::default();
    pen.yes(1, 0, 10, Op::CreateSku { code: "A".into(), price: 100, sellable: true }, terms(100, 1));
    pen
}

#[test]
fn two_changes_of_one_version() {
    let with = |expected, version| {
        let mut pen = priced();
        pen.yes(2, 20, 40, change(1, 120), terms(120, 2));
        pen.yes(3, 20, 40, change(expected, 130), terms(130, version));
        pen.data
    };
    rejected("C2", &with(1, 2), "terms of a: no order");
    passes("C2", &with(2, 3));
}

#[test]
fn a_sale_at_a_price_of_the_past() {
    let with = |from| {
        let mut pen = priced();
        pen.yes(1, 12, 18, receive(&[("a", 10)]), stocks(&[stock("a", 10, 0, 1)]));
        pen.yes(2, 20, 40, change(1, 120), terms(120, 2));
        place(&mut pen, 3, from, "o1", 2);
        pen.data
    };
    rejected("C2", &with(50), "terms of a: no order");
    passes("C2", &with(30));
}

/// The feed of an order of four units whose time ran out.
fn tell_expiry(pen: &mut Pen, ttl_ms: u64) {
    let line = json!({"sku_id": "a", "sku_code": "A", "quantity": 4, "unit_price": money(100), "total": money(400)});
    let placed = json!({"order_id": "o1", "order_no": "1", "user_id": "acc", "lines": [line], "grand_total": money(400),
        "held": false, "ttl_ms": ttl_ms, "note": ""});
    pen.event(2, (12, 1), "order.order.created", ("order", "o1", 1), placed);
    let expired = json!({"status": "CANCELLED", "cause": "EXPIRED", "note": ""});
    pen.event(0, (20, 1), "order.order.cancelled", ("order", "o1", 2), expired);
}

#[test]
fn an_order_that_expires_behind_the_last_call() {
    let with = |ttl_ms, end: Stock| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 4);
        tell_expiry(&mut pen, ttl_ms);
        pen.stock_at_the_end(end);
        pen.data
    };
    passes("C2", &with(4_000, stock("a", 10, 0, 3)));
    // It may have been read before the order expired.
    passes("C2", &with(4_000, stock("a", 10, 4, 2)));
    rejected("C2", &with(4_000, stock("a", 10, 0, 2)), "the last read");
    rejected("C2", &with(4_000, stock("a", 10, 4, 3)), "the last read");
}

#[test]
fn an_order_that_expired_before_its_time() {
    let with = |at: u64| {
        let mut pen = ten();
        place(&mut pen, 2, 20, "o1", 4);
        pen.yes(3, at, at + 10, read_order("o1"), Answer::Order(order("o1", "a", 4, &["CREATED", "CANCELLED"])));
        tell_expiry(&mut pen, 900_000);
        pen.data
    };
    rejected("C2", &with(60_000), "o1: no order");
    passes("C2", &with(901_000));
}

#[test]
fn a_circle_of_two_receipts() {
    let with = |second_of_b: u64| {
        let mut pen = Pen::default();
        let both = receive(&[("a", 1), ("b", 1)]);
        let first_of_b = 3 - second_of_b;
        let shown = |a, b| stocks(&[stock("a", a, 0, a), stock("b", b, 0, b)]);
        pen.yes(1, 0, 50, both.clone(), shown(1, first_of_b));
        pen.yes(2, 0, 50, both, shown(2, second_of_b));
        pen.data
    };
    rejected("C3", &with(1), "a circle: operation");
    passes("C3", &with(2));
    // One object at a time there is nothing to see.
    passes("C2", &with(1));
}

#[test]
fn a_circle_of_reads_and_orders() {
    // One buyer sees the first SKU as it was before both orders and the second as it was behind them, in two reads, one
    // after the other in this order: fine. The other way round there is no order for them.
    let with = |first: &str, then: &str| {
        let mut pen = Pen::default();
        pen.yes(1, 0, 10, receive(&[("a", 5), ("b", 5)]), stocks(&[stock("a", 5, 0, 1), stock("b", 5, 0, 1)]));
        pen.yes(2, 20, 90, receive(&[("a", 5), ("b", 5)]), stocks(&[stock("a", 10, 0, 2), stock("b", 10, 0, 2)]));
        let shown = |sku: &str| if sku == "a" { stock("a", 5, 0, 1) } else { stock("b", 10, 0, 2) };
        pen.yes(3, 30, 40, read_stock(first), stocks(&[shown(first)]));
        pen.yes(3, 50, 60, read_stock(then), stocks(&[shown(then)]));
        pen.data
    };
    rejected("C3", &with("b", "a"), "answered before the call of");
    passes("C3", &with("a", "b"));
    // One object at a time there is nothing to see.
    passes("C2", &with("b", "a"));
}

#[test]
fn a_version_written_twice() {
    let with = |version| {
        let mut pen = ten();
        pen.yes(2, 20, 40, receive(&[("a", 5)]), stocks(&[stock("a", 15, 0, 2)]));
        pen.yes(3, 20, 40, receive(&[("a", 5)]), stocks(&[stock("a", 15 + 5 * (version - 2), 0, version)]));
        pen.data
    };
    for name in ["C2", "C3"] {
        rejected(name, &with(2), "version 2");
        passes(name, &with(3));
    }
}

/// A SKU with versions 0 to 2 at indexes 10 to 12.
fn told() -> Pen {
    let mut pen = Pen::default();
    pen.stock_events("a", &[(10, 0), (12, 0)]);
    pen
}

fn read_at(pen: &mut Pen, from: u64, level: Level, shown: Stock, index: u64) -> &mut Call {
    let call = pen.yes(3, from, from + 10, read_stock("a"), stocks(&[shown]));
    (call.level, call.index) = (Some(level), Some(index));
    call
}

#[test]
fn a_version_nobody_wrote() {
    let with = |version| {
        let mut pen = told();
        read_at(&mut pen, 20, Level::Linearizable, stock("a", 12, 0, version), 12);
        pen.data
    };
    rejected("C3", &with(3), "which nobody wrote");
    rejected("C8", &with(3), "which never was");
    passes("C3", &with(2));
    passes("C8", &with(2));
}

#[test]
fn a_state_that_never_was() {
    let with = |on_hand| {
        let mut pen = told();
        read_at(&mut pen, 20, Level::Local, stock("a", on_hand, 0, 2), 12);
        pen.data
    };
    rejected("C8", &with(11), "was Stock(12, 0) and is shown as Stock(11, 0)");
    passes("C8", &with(12));
}

#[test]
fn a_state_of_another_index() {
    let with = |index| {
        let mut pen = told();
        read_at(&mut pen, 20, Level::Local, stock("a", 10, 0, 1), index);
        pen.data
    };
    rejected("C8", &with(12), "as of index 12, which had version 2");
    rejected("C8", &with(10), "as of index 10, which had version 0");
    passes("C8", &with(11));
}

#[test]
fn a_session_that_goes_back() {
    let with = |level, second: Stock, index| {
        let mut pen = told();
        read_at(&mut pen, 20, Level::Local, stock("a", 12, 0, 2), 12);
        read_at(&mut pen, 40, level, second, index);
        pen.data
    };
    let old = stock("a", 10, 0, 1);
    rejected("C8", &with(Level::Linearizable, old.clone(), 11), "version 1 of stock of a after version 2");
    rejected("C8", &with(Level::Leader, old.clone(), 11), "version 1 of stock of a after version 2");
    // Nothing else was promised of these.
    passes("C8", &with(Level::Local, old.clone(), 11));
    passes("C8", &with(Level::Linearizable, stock("a", 12, 0, 2), 12));
    let mut faulty = with(Level::Leader, old, 11);
    faulty.faults.push(fault("N4", 0, Some(1), Role::Leader, 1));
    faulty.finals.first_write_after_heal = Some(1);
    passes("C8", &faulty);
}

#[test]
fn a_client_that_does_not_read_its_own_write() {
    let with = |level, second: Stock, index| {
        let mut pen = told();
        pen.yes(3, 20, 30, Op::AdjustStock { sku: "a".into(), delta: 2 }, stocks(&[stock("a", 12, 0, 2)]));
        read_at(&mut pen, 40, level, second, index);
        pen.data
    };
    rejected("C8", &with(Level::Linearizable, stock("a", 10, 0, 1), 11), "version 1 of stock of a after version 2");
    passes("C8", &with(Level::Linearizable, stock("a", 12, 0, 2), 12));
}

#[test]
fn a_read_before_its_least_index() {
    let with = |least| {
        let mut pen = told();
        read_at(&mut pen, 20, Level::Local, stock("a", 10, 0, 1), 11).min_index = Some(least);
        pen.data
    };
    rejected("C8", &with(12), "asked for index 12 at least");
    passes("C8", &with(11));
}

#[test]
fn a_bounded_read_that_is_too_old() {
    let with = |from| {
        let mut pen = told();
        pen.yes(2, 20, 30, Op::AdjustStock { sku: "a".into(), delta: 2 }, stocks(&[stock("a", 12, 0, 2)]));
        read_at(&mut pen, from, Level::Bounded, stock("a", 10, 0, 1), 11);
        pen.data
    };
    rejected("C8", &with(3_000), "a bounded read shows version 1");
    passes("C8", &with(1_500));
}

#[test]
fn something_is_said_not_to_exist() {
    let with = |index| {
        let mut pen = told();
        let call = pen.call(3, 20, 30, read_stock("a"), Reply::NotDone { status: 404, code: "NOT_FOUND".into() });
        (call.level, call.index) = (Some(Level::Local), Some(index));
        pen.data
    };
    rejected("C8", &with(11), "and at 11 there is none");
    passes("C8", &with(9));
}

#[test]
fn pages_of_the_feed_that_are_not_what_the_feed_is() {
    let with = |after, places: &[(u64, u32)], next_after| {
        let mut pen = told();
        let page = FeedPage { places: places.to_vec(), head_index: 12, next_after };
        pen.yes(3, 20, 30, Op::ReadFeed { after, limit: 100 }, Answer::Feed(page));
        pen.data
    };
    let whole = [(10, 1), (11, 1), (12, 1)];
    passes("C8", &with(0, &whole, 12));
    passes("C8", &with(10, &whole[1..], 12));
    passes("C8", &with(0, &whole[..1], 10));
    rejected("C8", &with(0, &[(10, 1), (12, 1)], 12), "has 2 events");
    rejected("C8", &with(10, &whole[2..], 12), "has 1 events");
    rejected("C8", &with(10, &whole, 12), "has 3 events");
    rejected("C8", &with(0, &whole[..2], 12), "has 2 events");
    rejected("C8", &with(0, &[(10, 1), (11, 1), (12, 1), (13, 1)], 13), "says to go on behind 13");
    rejected("C8", &with(0, &whole, 11), "says to go on behind 11");
}

fn fault(nemesis: &str, from: u64, until: Option<u64>, role: Role, in_flight: u64) -> Fault {
    Fault {
        nemesis: nemesis.into(),
        kind: "kill".into(),
        from: from * MS,
        until: until.map(|until| until * MS),
        targets: vec![Target { node: 1, role }],
        in_flight,
        detail: String::new(),
    }
}

/// The leader is killed at one second; a write that was asked for then is answered after so long.
fn killed(took: u64) -> RunData {
    let mut pen = ten();
    pen.yes(1, 990, 1_010, receive(&[("a", 5)]), stocks(&[stock("a", 15, 0, 2)]));
    pen.unknown(1, 1_005, 1_200, receive(&[("a", 5)]));
    pen.yes(2, 1_005, 1_000 + took, receive(&[("a", 5)]), stocks(&[stock("a", 20, 0, 3)]));
    pen.data.run.nodes = vec![1, 2, 3];
    pen.data.faults.push(fault("N5", 1_000, Some(1_400), Role::Leader, 4));
    pen.data.finals.first_write_after_heal = Some(took * MS);
    pen.data
}

#[test]
fn a_silence_that_never_ends_is_one() {
    let mut dead = killed(1_200);
    // Whatever was answered after the kill is now asked in vain.
    let kill = dead.faults[0].from;
    for call in dead.calls.iter_mut().filter(|call| call.returned > kill) {
        call.reply = Reply::Unknown { status: None, why: "no answer".to_owned() };
        call.returned = kill + 9_000_000;
    }
    rejected("C10", &dead, "to be always within 5000 ms");
}

#[test]
fn a_slow_recovery() {
    rejected(
        "C10",
        &killed(5_100),
        "N5 kill at 1.000 s: no write was decided for 5090 ms, to be always within 5000 ms",
    );
    passes("C10", &killed(4_900));
    let figures = ask("C10", &killed(1_800)).figures;
    assert_eq!(figures["silence N5 kill p99_ms"], 1_790.0);
    assert_eq!(figures["no write answered max_ms"], 1_790.0);
    // What comes of the next fault is not laid to this one.
    let mut next = killed(5_100);
    next.faults.push(fault("N1", 2_000, Some(6_000), Role::Leader, 4));
    passes("C10", &next);
    assert_eq!(ask("C10", &next).figures["silence N5 kill p99_ms"], 990.0);
    // A follower may die when it likes, and so may all of them.
    let mut other = killed(5_100);
    other.faults[0].targets[0].role = Role::Follower;
    passes("C10", &other);
    let mut all = killed(5_100);
    all.faults[0].targets.push(Target { node: 2, role: Role::Follower });
    passes("C10", &all);
}

/// So many kills, of which so many were followed by a long silence.
fn kills(count: usize, slow: usize) -> Pace {
    let mut pace = Pace::default();
    for number in 0..count {
        pace.merge(Pace::of(&killed(if number < slow { 1_600 } else { 900 })));
    }
    pace
}

#[test]
fn leaders_whose_death_is_felt_too_long() {
    let slow = |count, slow| kills(count, slow).too_slow();
    assert_eq!(slow(30, 0), Vec::<String>::new());
    assert_eq!(slow(30, 1), Vec::<String>::new(), "one of few says nothing of 99 in 100");
    assert!(slow(30, 2)[0].contains("no write was decided for 1590 ms (p99 of 30), to be within 1500 ms"));
    assert_eq!(slow(100, 1), Vec::<String>::new());
    assert_eq!(slow(100, 2).len(), 1);
    // A few say nothing.
    assert_eq!(slow(19, 6), Vec::<String>::new());
}

/// Writes at the second node, one every millisecond: two seconds of calm, then two in which the third node is slow.
fn beside(fault_of: (&str, &str, Role), calm_ms: u64, slow_ms: u64, node: u64) -> RunData {
    let mut pen = ten();
    for at in 0..4_000 {
        let took = if at < 2_000 { calm_ms } else { slow_ms };
        let call = pen.unknown(1, at, at + took, receive(&[("a", 5)]));
        call.node = node;
    }
    let (nemesis, kind, role) = fault_of;
    let mut fault = fault(nemesis, 2_000, Some(4_000), role, 3);
    (fault.kind, fault.targets) = (kind.to_owned(), vec![Target { node: 3, role }]);
    pen.data.run.nodes = vec![1, 2, 3];
    pen.data.faults.push(fault);
    pen.data
}

#[test]
fn a_slow_follower_that_is_felt() {
    let slow = |fault, calm, slow, node| Pace::of(&beside(fault, calm, slow, node)).too_slow();
    let hung = ("N8", "disk hung", Role::Follower);
    let paused = ("N4", "a follower paused for 1.0 election timeouts", Role::Follower);
    let told = slow(hung, 80, 200, 2);
    assert!(told.len() == 1 && told[0].contains("took 192 ms (p99), to be within 160 ms; 80 ms when"), "{told:?}");
    assert_eq!(slow(paused, 10, 110, 2).len(), 1);
    // Twice of it, and what is not felt.
    assert_eq!(slow(hung, 80, 160, 2), Vec::<String>::new());
    assert_eq!(slow(hung, 2, 90, 2), Vec::<String>::new());
    // Who asks the node itself waits for it; a leader that stands still must be replaced first; a full disk is not slow.
    assert_eq!(slow(hung, 10, 500, 3), Vec::<String>::new());
    assert_eq!(slow(("N4", "the leader paused", Role::Leader), 10, 500, 2), Vec::<String>::new());
    assert_eq!(slow(("N8", "disk full", Role::Follower), 10, 500, 2), Vec::<String>::new());
}

#[test]
fn a_cluster_that_is_dead_after_healing() {
    let mut data = killed(300);
    data.finals.first_write_after_heal = None;
    rejected("C10", &data, "nothing could be written any more");
}

fn covered(settings: &[(&str, &str)], faults: &[(&str, Role, u64)]) -> RunData {
    let mut data = RunData::default();
    data.run.settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    data.faults = faults.iter().map(|(name, role, busy)| fault(name, 0, Some(1), *role, *busy)).collect();
    data.finals.nodes.insert(1, NodeFinals::default());
    data
}

#[test]
fn a_run_that_shows_nothing() {
    let declared = &[("nemeses", "N1, N5")][..];
    let one = &[("N1", Role::Leader, 3), ("N1", Role::Follower, 2)][..];
    let both = [one, &[("N5", Role::Leader, 3), ("N5", Role::Follower, 2)]].concat();
    passes("C11", &covered(declared, &both));
    rejected("C11", &covered(declared, one), "vacuous: N5 never came");
    for (second, because) in [
        (&[("N5", Role::Leader, 3)][..], "N5 never hit who followed"),
        (&[("N5", Role::Follower, 3), ("N5", Role::Neither, 3)], "N5 never hit who led"),
        (&[("N5", Role::Leader, 0), ("N5", Role::Follower, 3)], "N5 hit who led only while nobody asked"),
        (&[("N5", Role::Leader, 1), ("N5", Role::Follower, 0)], "N5 hit who followed only while nobody asked"),
    ] {
        let faults = [one, second].concat();
        rejected("C11", &covered(declared, &faults), because);
        passes("C11", &covered(&[declared[0], ("coverage", "off")], &faults));
    }
}

#[test]
fn many_runs_are_judged_together() {
    let declared = &[("nemeses", "N5"), ("coverage", "off")][..];
    let led = coverage(&covered(declared, &[("N5", Role::Leader, 3)]));
    let followed = coverage(&covered(declared, &[("N5", Role::Follower, 3)]));
    assert_eq!(judge(&merge([&led, &followed]), true).findings, vec![]);
    assert_eq!(judge(&merge([&led, &led]), true).findings.len(), 1);
    let kinds: BTreeMap<_, _> = merge([&led, &followed]).kinds;
    assert_eq!(kinds["N5 kill"].rounds, 2);
}
