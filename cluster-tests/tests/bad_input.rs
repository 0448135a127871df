//! Promise: whatever comes in, the answer is a clear 4xx or a closed connection; nothing changes, nothing is lost, memory
//! stays bounded, no process falls, and honest clients are served meanwhile. On the
//! peer port strangers are refused, and the log does not fill with them.

use std::time::{Duration, Instant};

use agora_cluster_tests::{
    check::feed,
    client::{Answer, Auth, Call, Client, fresh_key},
    cluster::{Cluster, Lease, Shared},
    config::Overrides,
    raw::{self, Ending},
    settings::scaled,
    shop::{create_account, list, money, order_body, orders_of, place, stock, stocked_sku, text},
};
use http::Method;
use serde_json::{Value, json};

static CLUSTER: Shared = Shared::new();
/// Resident memory no node of these tests may pass: far more than it needs, far less than what is thrown at it.
const MEMORY_KIB_MAX: u64 = 600 << 10;

async fn cluster() -> Lease {
    CLUSTER.lease(env!("CARGO_BIN_EXE_agora-test-node"), 3, Overrides::none()).await
}

/// One write that must be refused.
struct Bad {
    what: &'static str,
    path: String,
    body: String,
    status: u16,
    codes: &'static [&'static str],
}

fn bad(what: &'static str, path: &str, body: impl ToString, status: u16, codes: &'static [&'static str]) -> Bad {
    Bad { what, path: path.to_owned(), body: body.to_string(), status, codes }
}

const INVALID: &[&str] = &["VALIDATION_FAILED"];
const MALFORMED: &[&str] = &["MALFORMED_JSON", "VALIDATION_FAILED"];

fn bad_orders(account: &str, sku: &str) -> Vec<Bad> {
    let of = |quantity: Value| json!({"user_id": account, "items": [{"sku_id": sku, "quantity": quantity}]});
    let lines = |count: usize| json!({"user_id": account, "items": vec![json!({"sku_id": sku, "quantity": 1}); count]});
    let nested = "[".repeat(100_000);
    vec![
        bad("nothing", "/orders", "", 400, MALFORMED),
        bad("half an object", "/orders", r#"{"user_id": "#, 400, &["MALFORMED_JSON"]),
        bad("two values", "/orders", format!("{} {{}}", of(json!(1))), 400, &["MALFORMED_JSON"]),
        bad("a list", "/orders", "[]", 400, MALFORMED),
        bad("null", "/orders", "null", 400, MALFORMED),
        bad("100,000 brackets", "/orders", nested, 400, MALFORMED),
        bad("a NUL", "/orders", "\0", 400, &["MALFORMED_JSON"]),
        bad("an unknown field", "/orders", with(of(json!(1)), "user_idd", json!(1)), 400, &["UNKNOWN_FIELD"]),
        bad(
            "a field twice",
            "/orders",
            format!(r#"{{"user_id":"{account}","user_id":"{account}","items":[]}}"#),
            400,
            MALFORMED,
        ),
        bad("no items", "/orders", json!({"user_id": account, "items": []}), 400, INVALID),
        bad("no account", "/orders", json!({"items": [{"sku_id": sku, "quantity": 1}]}), 400, INVALID),
        bad("negative quantity", "/orders", of(json!(-1)), 400, INVALID),
        bad("zero quantity", "/orders", of(json!(0)), 400, INVALID),
        bad("huge quantity", "/orders", of(json!(u64::MAX)), 400, INVALID),
        bad(
            "quantity past 64 bits",
            "/orders",
            of(json!(0)).to_string().replace(":0", ":99999999999999999999999"),
            400,
            MALFORMED,
        ),
        bad("half a unit", "/orders", of(json!(0.5)), 400, INVALID),
        bad("a whole number as a float", "/orders", of(json!(1.0)), 400, INVALID),
        bad("quantity as text", "/orders", of(json!("1")), 400, MALFORMED),
        bad("10,000 lines", "/orders", lines(10_000), 400, INVALID),
        bad("an id of another kind", "/orders", order_body(sku, &[(sku, 1)]), 400, INVALID),
        bad("an id that is none", "/orders", order_body(account, &[("sku_1' OR 1=1", 1)]), 400, INVALID),
        bad(
            "unknown SKU",
            "/orders",
            order_body(account, &[("sku_00000000000000000000000001", 1)]),
            404,
            &["NOT_FOUND"],
        ),
        bad(
            "unknown account",
            "/orders",
            order_body("acc_00000000000000000000000001", &[(sku, 1)]),
            404,
            &["NOT_FOUND"],
        ),
        bad("overlong note", "/orders", with(of(json!(1)), "note", json!("n".repeat(100_000))), 400, INVALID),
        bad("control characters", "/orders", with(of(json!(1)), "note", json!("\u{0}\u{7}")), 400, INVALID),
        bad(
            "duplicates beyond the limit",
            "/orders",
            with(
                lines(1),
                "items",
                json!([
            {"sku_id": sku, "quantity": 1_000_000}, {"sku_id": sku, "quantity": 1_000_000}]),
            ),
            400,
            INVALID,
        ),
        bad(
            "coupons by the thousand",
            "/orders",
            with(of(json!(1)), "coupon_codes", json!(vec!["C"; 1_000])),
            400,
            INVALID,
        ),
        bad("unknown coupon", "/orders", with(of(json!(1)), "coupon_codes", json!(["NOPE"])), 409, &["COUPON_INVALID"]),
        bad("unknown provider", "/orders", with(of(json!(1)), "payment_provider", json!("barter")), 400, INVALID),
        bad("101 orders", "/orders/batch", json!({"orders": vec![of(json!(1)); 101]}), 400, INVALID),
        bad("no orders", "/orders/batch", json!({"orders": []}), 400, INVALID),
    ]
}

fn bad_others(account: &str, sku: &str) -> Vec<Bad> {
    let wallet = format!("/wallets/{account}/adjust");
    let new_sku = |code: Value, name: Value, price: Value| json!({"sku_code": code, "name": name, "price": price});
    let dollars = json!({"amount": 1, "currency": "USD"});
    vec![
        bad("negative price", "/skus", new_sku(json!("B1"), json!("b"), money(-1)), 400, INVALID),
        bad(
            "price as a float",
            "/skus",
            new_sku(json!("B2"), json!("b"), json!({"amount": 1.5, "currency": "CNY"})),
            400,
            INVALID,
        ),
        bad("price past all limits", "/skus", new_sku(json!("B3"), json!("b"), money(i64::MAX)), 400, INVALID),
        bad("no currency", "/skus", new_sku(json!("B4"), json!("b"), json!({"amount": 1})), 400, INVALID),
        bad(
            "no such currency",
            "/skus",
            new_sku(json!("B5"), json!("b"), json!({"amount": 1, "currency": "yuan"})),
            400,
            INVALID,
        ),
        bad("empty code", "/skus", new_sku(json!(""), json!("b"), money(1)), 400, INVALID),
        bad("overlong code", "/skus", new_sku(json!("c".repeat(65)), json!("b"), money(1)), 400, INVALID),
        bad("overlong name", "/skus", new_sku(json!("B6"), json!("名".repeat(201)), money(1)), 400, INVALID),
        bad("code in use", "/skus", new_sku(json!("BAD-INPUT"), json!("b"), money(1)), 409, &["DUPLICATE_EXTERNAL_ID"]),
        bad(
            "a receipt of less than nothing",
            "/stock/receive",
            json!({"lines": [{"sku_id": sku, "quantity": -5}], "reason": "r"}),
            400,
            INVALID,
        ),
        bad("a receipt of nothing", "/stock/receive", json!({"lines": [], "reason": "r"}), 400, INVALID),
        bad(
            "half a receipt",
            "/stock/receive",
            json!({"lines": [{"sku_id": sku, "quantity": 5},
            {"sku_id": "sku_00000000000000000000000001", "quantity": 5}], "reason": "r"}),
            404,
            &["NOT_FOUND"],
        ),
        bad("no correction", "/stock/adjust", json!({"sku_id": sku, "delta": 0, "reason": "r"}), 400, INVALID),
        bad(
            "a correction below nothing",
            "/stock/adjust",
            json!({"sku_id": sku, "delta": -1_000_000, "reason": "r"}),
            409,
            &["INVENTORY_SHORTAGE"],
        ),
        bad(
            "a correction past 64 bits",
            "/stock/adjust",
            json!({"sku_id": sku, "delta": i64::MIN, "reason": "r"}),
            400,
            INVALID,
        ),
        bad(
            "overlong reason",
            "/stock/adjust",
            json!({"sku_id": sku, "delta": 1, "reason": "r".repeat(501)}),
            400,
            INVALID,
        ),
        bad("a house of cards", "/accounts", json!({"name": "x", "kind": "cards"}), 400, INVALID),
        bad("a name of blanks", "/accounts", json!({"name": "   ", "kind": "customer"}), 400, INVALID),
        bad("nothing to the wallet", &wallet, json!({"amount": money(0), "reason": "r"}), 400, INVALID),
        bad(
            "more than the wallet holds",
            &wallet,
            json!({"amount": money(-1), "reason": "r"}),
            409,
            &["INSUFFICIENT_BALANCE"],
        ),
        bad(
            "dollars never put in",
            &wallet,
            json!({"amount": with(dollars, "amount", json!(-1)), "reason": "r"}),
            409,
            &["INSUFFICIENT_BALANCE"],
        ),
    ]
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_body_is_told_so_and_changes_nothing() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "BAD-INPUT", 100, 1_000).await.id;
    let account = create_account(&client, "careless").await;
    for (turn, case) in bad_orders(&account, &sku).into_iter().chain(bad_others(&account, &sku)).enumerate() {
        let call = Call::new(Method::POST, &case.path).header("idempotency-key", &fresh_key());
        let call = call.header("content-type", "application/json").bytes(case.body.clone());
        let answer = settled(&client, turn, &call).await;
        assert_eq!(answer.status, case.status, "{}: {}", case.what, answer.text());
        assert!(case.codes.contains(&answer.code().as_str()), "{}: {}", case.what, answer.text());
        let problem = answer.expect_problem(case.status, &answer.code());
        if case.status == 400 {
            let named = problem["errors"].as_array().is_some_and(|errors| !errors.is_empty());
            assert!(named, "{}: the answer names no error: {problem}", case.what);
        }
        assert!(answer.text().len() < 64 << 10, "{}: an answer of {} bytes", case.what, answer.text().len());
    }
    let left = stock(&client, 1, &sku, "linearizable").await;
    assert_eq!((left.on_hand, left.reserved, left.version), (1_000, 0, 1), "a bad body moved stock");
    assert!(orders_of(&client, 2, &account).await.is_empty(), "a bad body became an order");
    let holder = client.ask(3, &Call::get(&format!("/accounts/{account}"))).await.expect(200);
    assert!(holder["wallets"].as_array().is_none_or(Vec::is_empty), "a bad body moved money: {holder}");
    healthy(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sku_named_twice_is_one_wish() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "TWICE", 100, 5).await.id;
    let account = create_account(&client, "repeats himself").await;
    let call = Call::post("/orders", order_body(&account, &[(&sku, 3), (&sku, 3)]));
    let problem = settled(&client, 0, &call).await.expect_problem(409, "INVENTORY_SHORTAGE");
    let shortages = problem["details"]["shortages"].as_array().expect("shortages").clone();
    assert_eq!(shortages.len(), 1, "one SKU is short, named once: {shortages:?}");
    assert_eq!((&shortages[0]["requested"], &shortages[0]["available"]), (&json!(6), &json!(5)));
    place(&client, 1, &account, &[(&sku, 3), (&sku, 2)]).await;
    assert_eq!(stock(&client, 2, &sku, "linearizable").await.available, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_batch_is_one_entry_or_a_clear_no() {
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_agora-test-node"), 3, Overrides::none()).await;
    let client = cluster.client();
    // A hundred orders of a hundred lines of SKUs with the longest names: some seven megabytes of order from half a
    // megabyte of request.
    let mut skus = Vec::new();
    for at in 0..100 {
        let body = json!({"sku_code": format!("LARGE-{at}"), "name": "名".repeat(200), "price": money(1)});
        skus.push(text(&client.must(at, &Call::post("/skus", body), 201).await, "id"));
    }
    let lines: Vec<Value> = skus.iter().map(|sku| json!({"sku_id": sku, "quantity": 1_000})).collect();
    client.must(0, &Call::post("/stock/receive", json!({"lines": lines, "reason": "r"})), 200).await;
    let account = create_account(&client, "wholesaler").await;
    let items: Vec<(&str, u64)> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
    let call = Call::post("/orders/batch", json!({"orders": vec![order_body(&account, &items); 100]}));
    let first = settled(&client, 1, &call).await;
    let orders = match first.status {
        200 => {
            let results = first.json()["results"].as_array().expect("results").clone();
            assert!(results.iter().all(|item| item["status"] == 201), "units were there for every order");
            100
        }
        _ => {
            assert!((400..500).contains(&first.status), "{}", first.text());
            0
        }
    };
    println!("a batch of 10,000 lines: {} with {} bytes", first.status, first.body.len());
    for (turn, sku) in skus.iter().take(3).enumerate() {
        let again = settled(&client, turn, &call).await;
        assert_eq!((again.status, again.body == first.body), (first.status, true), "the largest answer has two faces");
        let left = stock(&client, turn as u64 + 1, sku, "linearizable").await;
        assert_eq!(left.reserved, orders, "half a batch");
    }
    assert_eq!(orders_of(&client, 3, &account).await.len() as u64, orders);
    healthy(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_of_two_currencies_do_not_mix() {
    let cluster = cluster().await;
    let client = cluster.client();
    let yuan = stocked_sku(&client, "YUAN", 100, 5).await.id;
    let body = json!({"sku_code": "DOLLAR", "name": "d", "price": {"amount": 5, "currency": "USD"}});
    let dollar = text(&client.must(0, &Call::post("/skus", body), 201).await, "id");
    agora_cluster_tests::shop::receive(&client, &dollar, 5).await;
    let account = create_account(&client, "traveller").await;
    let call = Call::post("/orders", order_body(&account, &[(&yuan, 1), (&dollar, 1)]));
    settled(&client, 0, &call).await.expect_problem(409, "CURRENCY_MISMATCH");
    let reprice = Call::patch(&format!("/skus/{yuan}"), 1, json!({"price": {"amount": 5, "currency": "USD"}}));
    settled(&client, 1, &reprice).await.expect_problem(409, "CURRENCY_MISMATCH");
    assert_eq!(stock(&client, 1, &yuan, "linearizable").await.reserved, 0);
    assert_eq!(stock(&client, 1, &dollar, "linearizable").await.reserved, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_around_the_body_are_refused() {
    let cluster = cluster().await;
    let client = cluster.client();
    let order = json!({"user_id": "acc_00000000000000000000000001", "items": []});
    let cases = [
        (Call::get("/nothing/here"), 404, "NOT_FOUND"),
        (Call::get("/skus/sku_1/stock/more"), 404, "NOT_FOUND"),
        (Call::new(Method::PUT, "/orders").json(&order), 405, "METHOD_NOT_ALLOWED"),
        (Call::get("/skus?colour=red"), 400, "UNKNOWN_PARAMETER"),
        (Call::get("/skus?limit=0"), 400, "VALIDATION_FAILED"),
        (Call::get("/skus?limit=201"), 400, "VALIDATION_FAILED"),
        (Call::get("/skus?limit=-1"), 400, "VALIDATION_FAILED"),
        (Call::get("/orders?status=EATEN"), 400, "VALIDATION_FAILED"),
        (Call::get("/orders/by-idempotency-key/never-used"), 404, "NOT_FOUND"),
        (Call::get("/skus").consistency("eventual"), 400, "VALIDATION_FAILED"),
        (Call::get("/skus").header("min-index", "soon"), 400, "VALIDATION_FAILED"),
        (Call::get("/skus").header("max-staleness", "ages"), 400, "VALIDATION_FAILED"),
        (Call::get("/skus").auth(Auth::Nobody), 401, "UNAUTHENTICATED"),
        (Call::get("/skus").auth(Auth::Nobody).header("authorization", "Bearer wrong"), 401, "UNAUTHENTICATED"),
        (Call::get("/cluster/status").auth(Auth::Nobody), 401, "UNAUTHENTICATED"),
        (Call::get("/cluster/status").auth(Auth::Shop), 403, "FORBIDDEN"),
        (Call::post("/cluster/snapshots", json!({})).auth(Auth::Shop), 403, "FORBIDDEN"),
        (Call::get("/metrics").auth(Auth::Nobody), 401, "UNAUTHENTICATED"),
        (Call::post("/orders", order.clone()).auth(Auth::Admin), 403, "FORBIDDEN"),
        (Call::new(Method::POST, "/orders").header("idempotency-key", "k").bytes("{}"), 415, "UNSUPPORTED_MEDIA"),
        (
            Call::new(Method::POST, "/orders")
                .header("idempotency-key", "k")
                .header("content-type", "text/xml")
                .bytes("<o/>"),
            415,
            "UNSUPPORTED_MEDIA",
        ),
    ];
    for (turn, (call, status, code)) in cases.into_iter().enumerate() {
        let answer = client.ask(turn as u64 % 3 + 1, &call).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{call:?}: {}", answer.text());
    }
    let cursor = client.ask(1, &Call::get("/skus?cursor=AAAA")).await;
    assert!([400, 410].contains(&cursor.status), "a forged cursor: {}", cursor.text());
    // Probes are open to all.
    for probe in ["/livez", "/readyz", "/healthz"] {
        client.ask(1, &Call::get(probe).auth(Auth::Nobody)).await.expect(200);
    }
    healthy(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_bytes_on_the_http_port_are_refused() {
    let cluster = cluster().await;
    let client = cluster.client();
    let address = cluster.http(1);
    let head = "POST /api/v2/orders HTTP/1.1\r\nhost: a\r\nauthorization: Bearer none\r\n";
    let long_path = format!("GET /api/v2/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(200_000));
    let many_headers = format!("GET /livez HTTP/1.1\r\nhost: a\r\n{}\r\n", "x-a: b\r\n".repeat(20_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no HTTP", b"hello\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]),
        ("zeros", vec![0; 4_096]),
        ("a path with odd bytes", b"GET /api/v2/skus/\xff\xfe%zz%00/../../etc HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("an escaped NUL and no UTF-8", b"GET /api/v2/orders/%00%ff%c0%ae HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("a path of 200,000 bytes", long_path.into_bytes()),
        ("20,000 headers", many_headers.into_bytes()),
        ("two lengths", format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\n{{}}").into_bytes()),
        (
            "a length and chunks",
            format!("{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes(),
        ),
        ("a negative length", format!("{head}content-length: -1\r\n\r\n").into_bytes()),
        ("a length past 64 bits", format!("{head}content-length: 99999999999999999999\r\n\r\n").into_bytes()),
        ("a chunk past 64 bits", format!("{head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n").into_bytes()),
    ];
    for (what, bytes) in cases {
        let ending = raw::send(&address, &bytes, Duration::from_secs(15)).await;
        match ending.status() {
            Some(status) => assert!((400..500).contains(&status), "{what}: answered {status}"),
            None => assert_eq!(ending, Ending::Closed(Vec::new()), "{what}: left hanging"),
        }
    }
    // A body that announces itself as too large is refused before it is sent.
    let key = agora_cluster_tests::config::SHOP_KEY;
    let announced = format!(
        "POST /api/v2/orders HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nidempotency-key: large\r\n\
         content-type: application/json\r\ncontent-length: 2000000\r\n\r\n"
    );
    let ending = raw::send(&address, announced.as_bytes(), Duration::from_secs(5)).await;
    assert_eq!(ending.status(), Some(413), "2,000,000 bytes announced: {ending:?}");
    // A body without end: refused at the limit, not taken into memory.
    let before = cluster.memory_kib(1).0;
    let mut endless = format!(
        "POST /api/v2/orders HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nidempotency-key: endless\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..48 {
        endless.extend_from_slice(b"100000\r\n");
        endless.extend_from_slice(&vec![b'['; 1 << 20]);
        endless.extend_from_slice(b"\r\n");
    }
    let ending = raw::send(&address, &endless, Duration::from_secs(20)).await;
    assert!(matches!(ending.status(), Some(413) | None), "48 MiB of brackets: {:?}", ending.status());
    let after = cluster.memory_kib(1).0;
    assert!(after < before + (40 << 10), "48 MiB of brackets took {} KiB", after.saturating_sub(before));
    healthy(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_do_not_keep_others_out() {
    // A short head timeout, so that the test need not wait long for it.
    let overrides = Overrides::none().set("http", "header_timeout_ms", 2_000).set("http", "request_timeout_ms", 5_000);
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_agora-test-node"), 3, overrides).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "PATIENT", 100, 1_000).await.id;
    let account = create_account(&client, "honest").await;
    let node = cluster.follower().await;
    let address = cluster.http(node);
    let before = cluster.memory_kib(node).0;

    // Many connections that say nothing: each kind of client has one file descriptor here and one there.
    let count = scaled(1_500, 10_000);
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(raw::open(&address).await);
    }
    // Slow lorises: a head that never ends, and a body that never comes.
    let mut lorises: Vec<_> = (0..50)
        .map(|at| {
            let address = address.clone();
            tokio::spawn(async move {
                let mut stream = raw::open(&address).await;
                let begun = Instant::now();
                let key = agora_cluster_tests::config::SHOP_KEY;
                let mut bytes = format!(
                    "POST /api/v2/orders HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nidempotency-key: slow-{at}\r\n"
                )
                .into_bytes();
                if at % 2 == 1 {
                    bytes.extend_from_slice(b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n{");
                }
                loop {
                    use tokio::io::AsyncWriteExt;
                    if stream.write_all(&bytes).await.is_err() {
                        return begun.elapsed();
                    }
                    if let Ending::Closed(_) = raw::read_on(&mut stream, Duration::from_millis(250)).await {
                        return begun.elapsed();
                    }
                    assert!(begun.elapsed() < Duration::from_secs(45), "a slow client is served for ever");
                    bytes = if at % 2 == 0 { b"x-a: b\r\n".to_vec() } else { b" ".to_vec() };
                }
            })
        })
        .collect();
    // Honest orders through the same node meanwhile.
    for _ in 0..20 {
        let call = Call::post("/orders", order_body(&account, &[(&sku, 1)]));
        let settled = client.settle(node as usize - 1, &call, Duration::from_secs(60)).await;
        settled.answer().expect(201);
        assert_eq!(settled.attempts.last().map(|attempt| attempt.node), Some(node), "an honest client was kept out");
    }
    let grown = cluster.memory_kib(node).0.saturating_sub(before);
    println!("{count} idle connections and 50 slow ones cost {grown} KiB");
    assert!(grown < 64 * (count as u64 + 50), "more than 64 KiB for a connection that says nothing");
    for loris in lorises.drain(..) {
        let served = loris.await.expect("a slow client");
        assert!(served > Duration::from_millis(500), "cut off before it could be called slow: {served:?}");
    }
    // The silent ones are shown the door as well.
    let mut closed = 0;
    for stream in &mut idle {
        if matches!(raw::read_on(stream, Duration::from_secs(20)).await, Ending::Closed(_)) {
            closed += 1;
        }
    }
    assert_eq!(closed, count, "idle connections are kept for ever");
    healthy(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_the_peer_port_are_refused() {
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_agora-test-node"), 3, Overrides::none()).await;
    let client = cluster.client();
    let leader = cluster.wait_ready().await;
    let term = term_of(&cluster, &client).await;
    let before: Vec<(u64, usize, u64)> =
        cluster.running().into_iter().map(|id| (id, cluster.log(id).len(), cluster.memory_kib(id).0)).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |count: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.extend_from_slice(&random.to_le_bytes());
        }
        bytes
    };
    let mut shapes: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        // A frame of 4 GiB less one, one of 2 GiB, one of nothing: lengths first, in either order of bytes.
        [&u32::MAX.to_be_bytes()[..], &[1; 64]].concat(),
        [&0x8000_0000_u32.to_be_bytes()[..], &[1; 64]].concat(),
        [&0x8000_0000_u32.to_le_bytes()[..], &[1; 64]].concat(),
        [&u64::MAX.to_be_bytes()[..], &[1; 64]].concat(),
        vec![0; 4],
        Vec::new(),
    ];
    shapes.extend((0..20).map(|at| noise(1 << (at % 16))));
    for round in 0..scaled(4, 40) {
        for (at, shape) in shapes.iter().enumerate() {
            let node = (round + at) as u64 % 3 + 1;
            let patience = if shape.is_empty() { Duration::from_millis(50) } else { Duration::from_secs(15) };
            let ending = raw::send(&cluster.peer(node), shape, patience).await;
            // A stranger with part of a hello may be waited for; one with a wrong one is shown the door.
            assert!(ending.bytes().len() < 4_096, "a stranger was told {} bytes", ending.bytes().len());
            if shape.len() >= 64 {
                assert!(matches!(ending, Ending::Closed(_)), "{} strange bytes are left waiting", shape.len());
            }
        }
    }
    for (id, log_bytes, memory) in before {
        let (now, text) = (cluster.memory_kib(id).0, cluster.log(id));
        assert!(now < memory + (64 << 10), "node {id} grew from {memory} to {now} KiB");
        let said = &text[log_bytes..];
        assert!(!said.contains("panicked"), "{said}");
        assert!(said.len() < 64 << 10, "node {id} wrote {} bytes of log about strangers", said.len());
    }
    assert_eq!(cluster.wait_ready().await, leader, "strangers unseated the leader");
    assert_eq!(term_of(&cluster, &client).await, term, "strangers moved the term");
    healthy(&cluster, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused() {
    a_foreign_node_is_refused("name", "theirs", "cluster").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_lineage_is_refused() {
    a_foreign_node_is_refused("lineage", "0123456789abcdef0123456789abcdef", "lineage").await;
}

/// Starts a node that has our secret, our peers and the id of one of ours, but another identity of the cluster.
async fn a_foreign_node_is_refused(key: &str, value: &str, named: &str) {
    let binary = env!("CARGO_BIN_EXE_agora-test-node");
    let ours = Cluster::start(binary, 3, Overrides::none()).await;
    let client = ours.client();
    let sku = stocked_sku(&client, "OURS", 100, 10).await.id;
    let leader = ours.wait_ready().await;
    let term = term_of(&ours, &client).await;
    let foreign = Cluster::prepare(binary, 1, Overrides::none());
    let config = std::fs::read_to_string(ours.config_path(1)).expect("a configuration");
    let mut config: toml::Table = config.parse().expect("a table");
    config["cluster"][key] = value.into();
    config["node"]["data_dir"] = foreign.data_dir(1).display().to_string().into();
    config["http"]["listen"] = foreign.http(1).into();
    config["peer"]["listen"] = foreign.peer(1).into();
    std::fs::write(foreign.config_path(1), toml::to_string(&config).expect("TOML")).expect("a configuration");
    let grown: Vec<usize> = (1..=3).map(|id| ours.log(id).len()).collect();
    foreign.start_node(1);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let theirs = foreign.client();
    if foreign.wait_exit(1, Duration::from_millis(10)).is_none() {
        let ready = theirs.send(1, &Call::get("/readyz").timeout(Duration::from_secs(3))).await;
        assert_ne!(ready.label(), "200", "a foreign node found a cluster in ours");
        let seen = theirs.send(1, &Call::get(&format!("/skus/{sku}/stock")).consistency("local")).await;
        assert_ne!(seen.label(), "200", "a foreign node holds our rows");
    }
    let told = (1..=3).any(|id| ours.log(id)[grown[id as usize - 1]..].to_lowercase().contains(named));
    assert!(told, "nobody logged that a node with another {key} was refused\n{}", ours.log_tail(leader));
    for (id, before) in (1..=3).zip(&grown) {
        let said = ours.log(id).len() - before;
        assert!(said < 32 << 10, "node {id} wrote {said} bytes of log about one stranger in four seconds");
    }
    assert_eq!(ours.wait_ready().await, leader, "a foreign node unseated the leader");
    assert_eq!(term_of(&ours, &client).await, term, "a foreign node moved the term");
    healthy(&ours, &client).await;
}

async fn term_of(cluster: &Cluster, client: &Client) -> u64 {
    let leader = cluster.wait_ready().await;
    let status = cluster.status_of(client, leader).await.expect("a status");
    let terms = status["members"].as_array().into_iter().flatten().filter_map(|member| member["term"].as_u64());
    terms.max().unwrap_or_else(|| panic!("no term in {status}"))
}

async fn settled(client: &Client, first: usize, call: &Call) -> Answer {
    client.settle(first, call, Duration::from_secs(60)).await.answer().clone()
}

/// All nodes live, serve and stay within their memory, and the feed is whole.
async fn healthy(cluster: &Cluster, client: &Client) {
    cluster.assert_running();
    let leader = cluster.wait_ready().await;
    for id in cluster.running() {
        let (now, most) = cluster.memory_kib(id);
        assert!(most < MEMORY_KIB_MAX, "node {id} holds {now} KiB and held {most} KiB");
        client.ask(id, &Call::get("/healthz")).await.expect(200);
        assert!(!cluster.log(id).contains("panicked"), "node {id} panicked\n{}", cluster.log_tail(id));
        list(client, id, "/skus", "linearizable").await;
    }
    let status = cluster.status_of(client, leader).await.expect("a status");
    let until = status["applied_index"].as_u64().expect("an applied index");
    agora_cluster_tests::check::fold_feed(&feed(client, leader, 0, until).await);
}
