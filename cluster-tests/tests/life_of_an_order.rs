//! Promise: an order lives as the state machine says, whichever node is asked for each step; stock and money follow it to
//! the unit; every movement is told with the figures before and after it; the feed tells all of it once, gap-free, the
//! same on every node; an unpaid order expires exactly once, across a leader's death; a change of price is made by who
//! has seen the present one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agora_cluster_tests::{
    check::{Folded, equal_feeds, feed, wait_equal_digests},
    client::{Answer, Call, Client},
    cluster::{Cluster, Lease, Shared},
    config::Overrides,
    money::Books,
    settings::scaled,
    shop::{
        act, create_account, create_sku, fund, list, money, number, order_body, place, read, receive, stock,
        stocked_sku, text,
    },
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
static CLUSTER: Shared = Shared::new();

async fn cluster() -> Lease {
    CLUSTER.lease(BINARY, 3, Overrides::none()).await
}

async fn settled(client: &Client, first: usize, call: &Call) -> Answer {
    client.settle(first, call, Duration::from_secs(60)).await.answer().clone()
}

/// (balance, held, available) of a wallet in the tests' currency.
async fn wallet(client: &Client, node: u64, account: &str) -> (i64, i64, i64) {
    let account = read(client, node, &Call::get(&format!("/accounts/{account}"))).await;
    let wallets = account["wallets"].as_array().unwrap_or_else(|| panic!("no wallets in {account}"));
    let wallet = wallets.iter().find(|wallet| wallet["currency"] == "CNY");
    let figure = |field: &str| wallet.map_or(0, |wallet| wallet[field]["amount"].as_i64().expect("an amount"));
    (figure("balance"), figure("held"), figure("available"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_shelf_to_the_door() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = create_sku(&client, "TOUR-1", 4_500).await.id;
    let received = receive(&client, &sku, 5).await;
    assert_eq!((number(&received, "on_hand"), number(&received, "available")), (5, 5));
    let account = create_account(&client, "ada").await;
    fund(&client, &account, 10_000).await;

    let placed = place(&client, 1, &account, &[(&sku, 2)]).await;
    let no = text(&placed, "order_no");
    assert_eq!(placed["status"], "CREATED");
    assert_eq!(placed["totals"]["grand_total"], money(9_000));
    assert_eq!(placed["lines"][0]["unit_price"], money(4_500));
    assert_eq!(placed["allowed_transitions"], json!(["PAID", "CANCELLED"]));
    let early = settled(&client, 2, &act(&no, "ship", json!({}))).await.expect_problem(409, "INVALID_TRANSITION");
    assert_eq!(early["details"]["allowed_transitions"], json!(["PAID", "CANCELLED"]));

    // Six are wanted and three are left: the answer names what is short.
    let short = settled(&client, 0, &Call::post("/orders", order_body(&account, &[(&sku, 6)]))).await;
    let short = short.expect_problem(409, "INVENTORY_SHORTAGE");
    let expected = json!({"sku_id": sku, "requested": 6, "available": 3});
    let shortage = &short["details"]["shortages"][0];
    for field in ["sku_id", "requested", "available"] {
        assert_eq!(shortage[field], expected[field], "{short}");
    }

    let paid = settled(&client, 2, &act(&no, "pay", json!({"provider": "balance"}))).await.expect(200);
    assert_eq!((&paid["status"], &paid["payment_status"]), (&json!("PAID"), &json!("PAID")));
    assert_eq!(wallet(&client, 1, &account).await, (1_000, 0, 1_000));
    // Paying again is no second payment, under another key.
    let again = settled(&client, 0, &act(&no, "pay", json!({"provider": "balance"}))).await.expect(200);
    assert_eq!(again["no_change"], true);
    assert_eq!(wallet(&client, 2, &account).await, (1_000, 0, 1_000));

    let at = stock(&client, 3, &sku, "linearizable").await;
    assert_eq!((at.on_hand, at.reserved), (5, 2));
    let shipped =
        settled(&client, 0, &act(&no, "ship", json!({"carrier": "SF", "tracking_no": "123"}))).await.expect(200);
    assert_eq!(shipped["status"], "SHIPPED");
    let at = stock(&client, 3, &sku, "linearizable").await;
    assert_eq!((at.on_hand, at.reserved, at.available), (3, 0, 3));
    let done = settled(&client, 1, &act(&no, "confirm-receipt", json!({}))).await.expect(200);
    assert_eq!((&done["status"], &done["allowed_transitions"]), (&json!("COMPLETED"), &json!([])));
    settled(&client, 1, &act(&no, "cancel", json!({"reason": "late"}))).await.expect_problem(409, "INVALID_TRANSITION");

    // The same order on each node, with its whole history.
    for node in 1..=3 {
        let seen = read(&client, node, &Call::get(&format!("/orders/{no}"))).await;
        let history: Vec<&str> = seen["history"]
            .as_array()
            .expect("a history")
            .iter()
            .map(|step| step["status"].as_str().expect("a status"))
            .collect();
        assert_eq!(history, ["CREATED", "PAID", "SHIPPED", "COMPLETED"], "on node {node}");
        let by_status =
            list(&client, node, &format!("/orders?user_id={account}&status=COMPLETED"), "linearizable").await;
        assert_eq!(by_status.len(), 1);
        let none = list(&client, node, &format!("/orders?user_id={account}&status=CREATED"), "linearizable").await;
        assert!(none.is_empty(), "a completed order is listed as created");
    }
    movements_agree(&client, &sku, &[("received", 5), ("reserved", 2), ("shipped", -2)]).await;
    books_balance(&cluster, &client, &account, &no, 9_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_off_gives_back_units_and_money() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "CANCEL", 300, 10).await.id;
    let account = create_account(&client, "grace").await;
    fund(&client, &account, 1_000).await;
    let unpaid = text(&place(&client, 0, &account, &[(&sku, 4)]).await, "order_no");
    let poor = settled(&client, 0, &act(&unpaid, "pay", json!({"provider": "balance"}))).await;
    poor.expect_problem(409, "INSUFFICIENT_BALANCE");
    let gone = settled(&client, 1, &act(&unpaid, "cancel", json!({"reason": "no money"}))).await.expect(200);
    assert_eq!((&gone["status"], &gone["refund_status"]), (&json!("CANCELLED"), &json!("NONE")));
    assert_eq!(stock(&client, 2, &sku, "linearizable").await.available, 10);

    let paid = text(&place(&client, 1, &account, &[(&sku, 3)]).await, "order_no");
    settled(&client, 2, &act(&paid, "pay", json!({"provider": "balance"}))).await.expect(200);
    assert_eq!(wallet(&client, 3, &account).await, (100, 0, 100));
    let back = settled(&client, 0, &act(&paid, "cancel", json!({"reason": "changed mind"}))).await.expect(200);
    assert_eq!((&back["status"], &back["refund_status"]), (&json!("CANCELLED"), &json!("FULL")));
    assert_eq!(wallet(&client, 1, &account).await, (1_000, 0, 1_000));
    assert_eq!(stock(&client, 2, &sku, "linearizable").await.available, 10);
    // Two clicks on *cancel* are one cancellation.
    let twice = settled(&client, 1, &act(&paid, "cancel", json!({"reason": "again"}))).await.expect(200);
    assert_eq!(twice["no_change"], true);
    assert_eq!(wallet(&client, 1, &account).await, (1_000, 0, 1_000));

    // Money set aside with the order cannot be spent twice.
    let mut held = order_body(&account, &[(&sku, 3)]);
    held["payment_provider"] = json!("balance");
    let held = client.must(0, &Call::post("/orders", held), 201).await;
    assert_eq!(wallet(&client, 2, &account).await, (1_000, 900, 100));
    let other = text(&place(&client, 0, &account, &[(&sku, 1)]).await, "order_no");
    settled(&client, 0, &act(&other, "pay", json!({"provider": "balance"})))
        .await
        .expect_problem(409, "INSUFFICIENT_BALANCE");
    settled(&client, 1, &act(&text(&held, "order_no"), "pay", json!({"provider": "balance"}))).await.expect(200);
    assert_eq!(wallet(&client, 2, &account).await, (100, 0, 100));
    movements_agree(
        &client,
        &sku,
        &[
            ("received", 10),
            ("reserved", 4),
            ("released", -4),
            ("reserved", 3),
            ("released", -3),
            ("reserved", 3),
            ("reserved", 1),
        ],
    )
    .await;
    books_balance(&cluster, &client, &account, &paid, 0).await;
    books_balance(&cluster, &client, &account, &text(&held, "order_no"), 900).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_who_saw_the_same_price_changes_it() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "PRICE", 100, 100).await.id;
    let account = create_account(&client, "buyer").await;
    let path = format!("/skus/{sku}");
    let before = client.ask(2, &Call::get(&path)).await;
    assert_eq!(before.header("etag"), Some("\"v1\""));
    let bare =
        Call::new(http::Method::PATCH, &path).header("idempotency-key", "bare").json(&json!({"price": money(1)}));
    client.ask(1, &bare).await.expect_problem(428, "PRECONDITION_REQUIRED");
    for round in 1..=5_u64 {
        let wishes: Vec<_> = (0..6_u64)
            .map(|turn| {
                let price = 1_000 * round as i64 + turn as i64;
                let (client, call) = (client.clone(), Call::patch(&path, round, json!({"price": money(price)})));
                tokio::spawn(async move { (price, settled(&client, turn as usize, &call).await) })
            })
            .collect();
        let mut winners = Vec::new();
        for wish in wishes {
            let (price, answer) = wish.await.expect("a wish");
            match answer.status {
                200 => winners.push(price),
                _ => {
                    let late = answer.expect_problem(412, "VERSION_MISMATCH");
                    assert_eq!(late["details"]["current_version"], json!(round + 1), "{late}");
                }
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?} all believe that theirs is the price now");
        let now = client.ask(round % 3 + 1, &Call::get(&path)).await;
        assert_eq!(now.expect(200)["price"], money(winners[0]));
        // An order takes the price as it is, and keeps it.
        let placed = place(&client, round as usize, &account, &[(&sku, 1)]).await;
        assert_eq!(placed["lines"][0]["unit_price"], money(winners[0]));
    }
    let off = settled(&client, 0, &Call::patch(&path, 6, json!({"sellable": false}))).await;
    off.expect(200);
    let refused = settled(&client, 1, &Call::post("/orders", order_body(&account, &[(&sku, 1)]))).await;
    refused.expect_problem(409, "SKU_NOT_SELLABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_takes_the_terms_of_its_place_in_the_log() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "TERMS", 100, 100_000).await.id;
    let account = create_account(&client, "quick buyer").await;
    let path = format!("/skus/{sku}");
    // Buyers on every node while the price moves and the SKU goes off sale and on again.
    let stop = Arc::new(AtomicBool::new(false));
    let buyers: Vec<_> = (0..12)
        .map(|buyer| {
            let (client, stop, body) = (client.clone(), stop.clone(), order_body(&account, &[(&sku, 1)]));
            tokio::spawn(async move {
                let (mut bought, mut refused) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let answer = settled(&client, buyer, &Call::post("/orders", body.clone())).await;
                    match answer.status {
                        201 => bought += 1,
                        _ => {
                            answer.expect_problem(409, "SKU_NOT_SELLABLE");
                            refused += 1;
                        }
                    }
                }
                (bought, refused)
            })
        })
        .collect();
    for version in 1..=scaled(60, 600) {
        let change = match version % 6 {
            0 => json!({"sellable": true}),
            3 => json!({"sellable": false}),
            _ => json!({"price": money(100 + version as i64)}),
        };
        settled(&client, version as usize, &Call::patch(&path, version, change)).await.expect(200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut bought, mut refused) = (0, 0);
    for buyer in buyers {
        let (more, no) = buyer.await.expect("a buyer");
        (bought, refused) = (bought + more, refused + no);
    }
    println!("{bought} bought and {refused} refused while the terms changed");
    assert!(bought > 20 && refused > 0, "orders and changes did not race");

    let status = cluster.status_of(&client, 1).await.expect("a status");
    let until = status["applied_index"].as_u64().expect("an applied index");
    let (mut price, mut sellable, mut seen) = (money(100), true, 0);
    for change in feed(&client, 2, 0, until).await {
        let data = &change["data"];
        match change["type"].as_str().expect("a type") {
            "catalog.sku.changed" if change["aggregate_id"] == json!(sku) => {
                price = data["price"].clone();
                sellable = data["sellable"] == true;
            }
            "order.order.created" if data["lines"][0]["sku_id"] == json!(sku) => {
                assert!(sellable, "sold while off sale: {change}");
                assert_eq!(
                    data["lines"][0]["unit_price"], price,
                    "sold at another price than the one in force: {change}"
                );
                seen += 1;
            }
            _ => {}
        }
    }
    assert_eq!(seen, bought, "the feed tells of other orders than were acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pays_and_who_calls_off_at_once_get_one_truth() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "RACE", 100, 10_000).await.id;
    let account = create_account(&client, "of two minds").await;
    fund(&client, &account, 1_000_000).await;
    let rounds = scaled(40, 400);
    let (mut paid_first, mut kept) = (0, 0_u64);
    for round in 0..rounds {
        let no = text(&place(&client, round, &account, &[(&sku, 2)]).await, "order_no");
        let acts = [
            ("pay", json!({"provider": "balance"})),
            ("cancel", json!({"reason": "a"})),
            ("pay", json!({"provider": "balance"})),
            ("ship", json!({})),
        ];
        let racing: Vec<_> = acts
            .into_iter()
            .enumerate()
            .map(|(turn, (action, body))| {
                let (client, call) = (client.clone(), act(&no, action, body));
                tokio::spawn(async move { (action, settled(&client, round + turn, &call).await) })
            })
            .collect();
        let mut granted = Vec::new();
        for racer in racing {
            let (action, answer) = racer.await.expect("a racer");
            if answer.status == 200 {
                granted.push(action);
            } else {
                answer.expect_problem(409, "INVALID_TRANSITION");
            }
        }
        let order = read(&client, round as u64 % 3 + 1, &Call::get(&format!("/orders/{no}"))).await;
        let steps: Vec<String> =
            order["history"].as_array().expect("a history").iter().map(|step| text(step, "status")).collect();
        let legal: [&[&str]; 5] = [
            &["CREATED", "CANCELLED"],
            &["CREATED", "PAID"],
            &["CREATED", "PAID", "CANCELLED"],
            &["CREATED", "PAID", "SHIPPED"],
            &["CREATED"],
        ];
        assert!(legal.iter().any(|path| steps == *path), "no order may live like this: {steps:?}");
        assert!(!granted.is_empty(), "everybody was refused: {steps:?}");
        for (action, status) in [("pay", "PAID"), ("cancel", "CANCELLED"), ("ship", "SHIPPED")] {
            let was_told = granted.contains(&action);
            assert_eq!(was_told, steps.iter().any(|step| step == status), "{action}: told {granted:?}, is {steps:?}");
        }
        paid_first += u64::from(steps.len() > 2);
        kept += u64::from(["CREATED", "PAID"].contains(&steps.last().expect("a step").as_str()));
    }
    println!("{paid_first} of {rounds} were paid before they were called off or shipped");
    let at = stock(&client, 1, &sku, "linearizable").await;
    assert_eq!(at.reserved, 2 * kept, "units and orders differ");
    let status = cluster.status_of(&client, 1).await.expect("a status");
    let until = status["applied_index"].as_u64().expect("an applied index");
    let changes = feed(&client, 3, 0, until).await;
    let books = Books::of_feed(&changes);
    let purse = books.purses[&(account.clone(), "CNY".to_owned())];
    assert_eq!((purse.balance, purse.held), (wallet(&client, 1, &account).await.0.into(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_a_batch_are_decided_one_by_one() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "BATCH", 100, 5).await.id;
    let account = create_account(&client, "bulk buyer").await;
    let orders: Vec<Value> = [3, 3, 2, 1].iter().map(|quantity| order_body(&account, &[(&sku, *quantity)])).collect();
    let call = Call::post("/orders/batch", json!({"orders": orders}));
    let first = settled(&client, 0, &call).await;
    let body = first.expect(200);
    let statuses: Vec<u64> =
        body["results"].as_array().expect("results").iter().map(|item| number(item, "status")).collect();
    assert_eq!(statuses, [201, 409, 201, 409], "a refused item takes nothing: {body}");
    let at = stock(&client, 2, &sku, "linearizable").await;
    assert_eq!((at.reserved, at.available), (5, 0));
    let again = settled(&client, 1, &call).await;
    assert_eq!((again.status, &again.body, again.replayed()), (200, &first.body, true));
    let index = number(&body, "log_index");
    let told: Vec<Value> = feed(&client, 3, index - 1, index)
        .await
        .into_iter()
        .filter(|change| change.to_string().contains(&sku))
        .collect();
    assert!(
        !told.is_empty() && told.iter().all(|change| number(change, "index") == index),
        "a batch in several entries"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpaid_order_expires_once_though_leaders_die() {
    let overrides = Overrides::none().set("shop", "order_ttl_ms", 8_000);
    let cluster = Cluster::start(BINARY, 3, overrides).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "EXPIRES", 100, 1_000).await.id;
    let account = create_account(&client, "forgetful").await;
    fund(&client, &account, 1_000_000).await;
    let mut unpaid = Vec::new();
    let mut paid = Vec::new();
    for turn in 0..60 {
        let no = text(&place(&client, turn, &account, &[(&sku, 2)]).await, "order_no");
        if turn % 3 == 0 {
            settled(&client, turn, &act(&no, "pay", json!({"provider": "balance"}))).await.expect(200);
            paid.push(no);
        } else {
            unpaid.push(no);
        }
    }
    let placed = Instant::now();
    // One leader dies before they are due, the next in the midst of it.
    let mut down = None;
    for pause_ms in [2_000, 7_300] {
        tokio::time::sleep(Duration::from_millis(pause_ms).saturating_sub(placed.elapsed())).await;
        if let Some(dead) = down {
            cluster.start_node(dead);
        }
        let leader = cluster.wait_ready().await;
        cluster.kill(leader);
        down = Some(leader);
    }
    cluster.start_node(down.expect("a dead leader"));
    cluster.wait_ready().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let created = list(&client, 1, &format!("/orders?user_id={account}&status=CREATED"), "linearizable").await;
        if created.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{} orders are long due and have not expired", created.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("all unpaid orders expired {:?} after the last was placed", placed.elapsed());
    for no in &unpaid {
        let order = read(&client, 2, &Call::get(&format!("/orders/{no}"))).await;
        assert_eq!(order["status"], "CANCELLED");
        let last = order["history"].as_array().expect("a history").last().expect("a step").clone();
        assert_eq!(last["cause"], "EXPIRED", "{order}");
        assert_eq!(order["history"].as_array().map(Vec::len), Some(2), "expired more than once: {order}");
        assert!(last["time"].as_str() >= order["expire_time"].as_str(), "expired before its time: {order}");
        settled(&client, 0, &act(no, "pay", json!({"provider": "balance"})))
            .await
            .expect_problem(409, "INVALID_TRANSITION");
    }
    for no in &paid {
        let order = read(&client, 3, &Call::get(&format!("/orders/{no}"))).await;
        assert_eq!(order["status"], "PAID", "a paid order expired");
    }
    let at = stock(&client, 1, &sku, "linearizable").await;
    assert_eq!((at.on_hand, at.reserved), (1_000, 2 * paid.len() as u64), "expiry gave back too much or too little");
    assert_eq!(wallet(&client, 2, &account).await.0, 1_000_000 - 200 * paid.len() as i64);
    let status = cluster.status_of(&client, 1).await.expect("a status");
    let until = status["applied_index"].as_u64().expect("an applied index");
    let folded = equal_feeds(&cluster, &client, until).await;
    let reserved = 2 * paid.len() as i128;
    assert_eq!(folded[&sku], Folded { received: 1_000, adjusted: 0, reserved, shipped: 0, on_hand: 1_000 });
    wait_equal_digests(&cluster, &client, until).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_tells_everything_once_on_every_node_and_wakes_who_waits() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "FEED", 100, 50).await.id;
    let account = create_account(&client, "follower of the feed").await;
    let first = place(&client, 0, &account, &[(&sku, 1)]).await;
    let from = number(&first, "log_index");
    // A consumer that reads in small steps, each from another node, sees what one reading at once sees.
    for turn in 0..30 {
        place(&client, turn, &account, &[(&sku, 1)]).await;
    }
    let last = number(&place(&client, 0, &account, &[(&sku, 1)]).await, "log_index");
    let whole = feed(&client, 1, from - 1, last).await;
    let mut steps: Vec<Value> = Vec::new();
    let mut after = from - 1;
    let mut node = 1;
    while after < last {
        let call = Call::get(&format!("/changes?after={after}&limit=3")).consistency("local").min_index(last);
        let page = read(&client, node, &call).await;
        let rows = page["data"].as_array().expect("data").clone();
        after = number(rows.last().unwrap_or_else(|| panic!("no progress after {after}: {page}")), "index");
        steps.extend(rows.into_iter().filter(|row| number(row, "index") <= last));
        node = node % 3 + 1;
    }
    assert_eq!(steps, whole, "read in steps, the feed tells another story");
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for change in whole.iter().filter(|change| change["aggregate_id"] == json!(sku)) {
        *told.entry(text(change, "type")).or_default() += 1;
    }
    assert_eq!(told.values().sum::<usize>(), 32, "32 orders for one unit each: {told:?}");

    // Who waits at the end is woken by the next change, long before the wait is over.
    let head =
        number(&read(&client, 2, &Call::get("/changes?after=0&limit=1").consistency("local")).await, "head_index");
    let waiter = {
        let client = client.clone();
        let call = Call::get(&format!("/changes?after={}&wait=30s", head.max(last))).timeout(Duration::from_secs(60));
        tokio::spawn(async move { client.ask(3, &call).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    place(&client, 0, &account, &[(&sku, 1)]).await;
    let woken = waiter.await.expect("a waiter").expect(200);
    assert!(!woken["data"].as_array().expect("data").is_empty(), "woken with nothing: {woken}");
}

/// The trial balance from the feed of each node is zero at every event, and its wallet and order are what the API shows.
async fn books_balance(cluster: &Cluster, client: &Client, account: &str, order_no: &str, earned: i128) {
    let status = cluster.status_of(client, 1).await.expect("a status");
    let until = status["applied_index"].as_u64().expect("an applied index");
    for node in cluster.running() {
        let books = Books::of_feed(&feed(client, node, 0, until).await);
        let purse = books.purses[&(account.to_owned(), "CNY".to_owned())];
        let (balance, held, _) = wallet(client, node, account).await;
        assert_eq!((purse.balance, purse.held), (balance.into(), held.into()), "on node {node}");
        assert_eq!(books.earned[&(order_no.to_owned(), "CNY".to_owned())], earned, "on node {node}");
    }
}

/// Movements of a SKU, asked on each node: kinds and deltas as expected, figures that join, and the stock at the end.
async fn movements_agree(client: &Client, sku: &str, expected: &[(&str, i64)]) {
    for node in 1..=3 {
        let mut rows = list(client, node, &format!("/stock/movements?sku_id={sku}"), "linearizable").await;
        rows.sort_by_key(|row| (row["log_index"].as_u64(), row["sub"].as_u64()));
        let told: Vec<(String, i64)> = rows
            .iter()
            .map(|row| {
                let kind = text(row, "type").to_lowercase();
                let kind = kind.rsplit('.').next().unwrap_or_default().to_owned();
                (kind, row["delta"].as_i64().unwrap_or_else(|| panic!("no delta in {row}")))
            })
            .collect();
        let expected: Vec<(String, i64)> = expected.iter().map(|(kind, delta)| ((*kind).to_owned(), *delta)).collect();
        assert_eq!(told, expected, "as node {node} tells it: {rows:?}");
        for row in &rows {
            let (pre, post) = (&row["pre"], &row["post"]);
            let delta = row["delta"].as_i64().expect("a delta");
            let moved = |field: &str| {
                post[field].as_i64().unwrap_or_else(|| panic!("no {field} in {row}"))
                    - pre[field].as_i64().expect("a figure")
            };
            assert!(moved("on_hand") == delta || moved("reserved") == delta, "pre, post and delta disagree: {row}");
        }
        for pair in rows.windows(2) {
            assert_eq!(pair[0]["post"], pair[1]["pre"], "two movements do not join on node {node}");
        }
    }
}
