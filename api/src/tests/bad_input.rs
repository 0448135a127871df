//! Whatever comes in: a clear 4xx that names the place, and nothing changes.

use super::*;

struct Case {
    path: &'static str,
    body: String,
    code: &'static str,
    pointer: &'static str,
}

fn case(path: &'static str, body: impl ToString, code: &'static str, pointer: &'static str) -> Case {
    Case { path, body: body.to_string(), code, pointer }
}

const INVALID: &str = "VALIDATION_FAILED";

fn cases(account: &str, sku: &str) -> Vec<Case> {
    let of = |quantity: Value| json!({"user_id": account, "items": [{"sku_id": sku, "quantity": quantity}]});
    let with = |name: &str, value: Value| {
        let mut body = of(json!(1));
        body[name] = value;
        body
    };
    let many = |count: usize| json!({"user_id": account, "items": vec![json!({"sku_id": sku, "quantity": 1}); count]});
    let distinct: Vec<Value> =
        (0..101).map(|at| json!({"sku_id": format!("sku_{:026}", 1_000 + at), "quantity": 1})).collect();
    let sku_of = |price: Value| json!({"sku_code": "X", "name": "x", "price": price});
    let orders = "/api/v2/orders";
    let quantity = "/items/0/quantity";
    vec![
        case(orders, "", "MALFORMED_JSON", ""),
        case(orders, "{", "MALFORMED_JSON", ""),
        case(orders, "[".repeat(200_000), INVALID, ""),
        case(orders, "\u{0}", "MALFORMED_JSON", ""),
        case(orders, format!("{} x", of(json!(1))), "MALFORMED_JSON", ""),
        case(orders, with("user_idd", json!(1)), "UNKNOWN_FIELD", "/user_idd"),
        case(orders, of(json!("9".repeat(100_000))), INVALID, quantity),
        case(orders, of(json!(-1)), INVALID, quantity),
        case(orders, of(json!(0)), INVALID, quantity),
        case(orders, of(json!(1_000_001)), INVALID, quantity),
        case(orders, of(json!(u64::MAX)), INVALID, quantity),
        case(orders, of(json!(1.0)), INVALID, quantity),
        case(orders, of(json!("1")), INVALID, quantity),
        case(orders, of(json!(null)), INVALID, quantity),
        case(orders, of(json!(0)).to_string().replace(":0", ":99999999999999999999999"), INVALID, quantity),
        case(orders, of(json!(0)).to_string().replace(":0", ":1e999"), INVALID, quantity),
        case(orders, json!({"user_id": account, "items": []}), INVALID, "/items"),
        case(orders, many(10_000), INVALID, "/items"),
        case(orders, many(1_001), INVALID, "/items"),
        case(orders, json!({"user_id": account, "items": distinct}), INVALID, "/items"),
        case(orders, order(account, &[(sku, 1_000_000), (sku, 1)]), INVALID, "/items/1/quantity"),
        case(orders, order(sku, &[(sku, 1)]), INVALID, "/user_id"),
        case(orders, order(account, &[("sku_1' or 1=1", 1)]), INVALID, "/items/0/sku_id"),
        case(orders, with("note", json!("n".repeat(501))), INVALID, "/note"),
        case(orders, with("note", json!("\u{7}")), INVALID, "/note"),
        case(orders, with("coupon_codes", json!(vec!["C"; 21])), INVALID, "/coupon_codes"),
        case(orders, with("coupon_codes", json!(["ok", ""])), INVALID, "/coupon_codes/1"),
        case(orders, with("payment_provider", json!("barter")), INVALID, "/payment_provider"),
        case("/api/v2/orders/batch", json!({"orders": []}), INVALID, "/orders"),
        case("/api/v2/orders/batch", json!({"orders": vec![of(json!(1)); 101]}), INVALID, "/orders"),
        case(
            "/api/v2/orders/batch",
            json!({"orders": [of(json!(1)), of(json!(0))]}),
            INVALID,
            "/orders/1/items/0/quantity",
        ),
        case("/api/v2/skus", sku_of(money(-1)), INVALID, "/price/amount"),
        case("/api/v2/skus", sku_of(money(i64::MAX)), INVALID, "/price/amount"),
        case("/api/v2/skus", sku_of(json!({"amount": 1})), INVALID, "/price/currency"),
        case("/api/v2/skus", sku_of(json!({"amount": 1, "currency": "yuan"})), INVALID, "/price/currency"),
        case("/api/v2/skus", sku_of(json!({"amount": 1, "currency": "CNY", "x": 1})), "UNKNOWN_FIELD", "/price/x"),
        case("/api/v2/skus", json!({"sku_code": "c".repeat(65), "name": "x", "price": money(1)}), INVALID, "/sku_code"),
        case("/api/v2/skus", json!({"sku_code": " x", "name": "x", "price": money(1)}), INVALID, "/sku_code"),
        case("/api/v2/skus", json!({"sku_code": "x", "name": "名".repeat(201), "price": money(1)}), INVALID, "/name"),
        case(
            "/api/v2/stock/receive",
            json!({"lines": [{"sku_id": sku, "quantity": -5}]}),
            INVALID,
            "/lines/0/quantity",
        ),
        case("/api/v2/stock/adjust", json!({"sku_id": sku, "delta": 0}), INVALID, "/delta"),
        case("/api/v2/stock/adjust", json!({"sku_id": sku, "delta": i64::MIN}), INVALID, "/delta"),
        case("/api/v2/accounts", json!({"name": "x", "kind": "bank"}), INVALID, "/kind"),
        case("/api/v2/accounts", json!({"name": "   ", "kind": "house"}), INVALID, "/name"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_body_is_told_where_and_changes_nothing() {
    let bench = Bench::start().await;
    let (sku, account) = (bench.sku("A", 1, 10).await, bench.account(0).await);
    for Case { path, body, code, pointer } in cases(&account, &sku) {
        let ask = ask(http::Method::POST, path).bytes(body.clone()).header("content-type", "application/json");
        let got = bench.write(ask).await;
        let shown: String = body.chars().take(200).collect();
        assert_eq!(got.json()["code"], code, "{shown}: {}", got.json());
        assert_eq!(got.json()["errors"][0]["pointer"], pointer, "{shown}: {}", got.json());
        assert_eq!(got.status, 400, "{shown}");
        assert!(got.body.len() < 32 * 1_024, "an answer of {} bytes to {shown}", got.body.len());
    }
    // The client's own text comes back, but not all of it.
    let long = format!("{{\"{}\":1}}", "元".repeat(100_000));
    let ask = ask(http::Method::POST, "/api/v2/orders").bytes(long).header("content-type", "application/json");
    let got = bench.write(ask).await;
    got.problem(400, "UNKNOWN_FIELD");
    assert!(got.body.len() < 8 * 1_024, "an answer of {} bytes", got.body.len());
    assert_eq!(bench.stock(&sku).await, (10, 0, 10));
    let path = format!("/api/v2/skus/{sku}");
    for (body, pointer) in
        [(json!({}), ""), (json!({"name": null}), "/name"), (json!({"price": money(-1)}), "/price/amount")]
    {
        let problem = bench.write(patch(&path, 1, body.clone())).await.problem(400, INVALID);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    for tag in ["*", "v1", "\"1\"", "\"v1\", \"v2\""] {
        let ask = patch(&path, 1, json!({"sellable": true})).without("if-match").header("if-match", tag);
        bench.write(ask).await.problem(400, INVALID);
    }
    let wallet = format!("/api/v2/wallets/{account}/adjust");
    bench.write(post(&wallet, json!({"amount": money(0)}))).await.problem(400, INVALID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_around_the_body_is_refused_before_it_is_read() {
    let bench = Bench::with(ApiConfig { body_bytes_max: 10_000, ..ApiConfig::default() }).await;
    let body = json!({"name": "x", "kind": "customer"});
    let good = || post("/api/v2/accounts", body.clone());
    bench.send(good()).await.problem(400, "IDEMPOTENCY_KEY_MISSING");
    bench.send(good().key("")).await.problem(400, "IDEMPOTENCY_KEY_INVALID");
    bench.send(good().key(&"k".repeat(256))).await.problem(400, "IDEMPOTENCY_KEY_INVALID");
    bench.send(good().key("a").header("x-idempotency-key", "b")).await.problem(400, "IDEMPOTENCY_KEY_INVALID");
    bench.write(good().without("content-type")).await.problem(415, "UNSUPPORTED_MEDIA");
    bench
        .write(good().without("content-type").header("content-type", "text/xml"))
        .await
        .problem(415, "UNSUPPORTED_MEDIA");
    bench.write(post("/api/v2/accounts", json!({"name": "x".repeat(10_000)}))).await.problem(413, "PAYLOAD_TOO_LARGE");
    bench.send(get(&format!("/api/v2/skus?cursor={}", "a".repeat(9_000)))).await.problem(414, "URI_TOO_LONG");
    for path in ["/api/v2/skus/%ff", "/api/v2/orders/%c0%ae", "/api/v2/skus/by-code/%ff"] {
        bench.send(get(path)).await.problem(400, INVALID);
    }
    for path in
        ["/api/v2/skus/%00", "/api/v2/skus/sku_%E5%85%83", "/api/v2/skus/..%2f..%2fetc", "/api/v2/skus/by-code/%00"]
    {
        bench.send(get(path)).await.problem(404, "NOT_FOUND");
    }
    for (name, value) in [("consistency", "eventual"), ("max-staleness", "ages"), ("min-index", "soon")] {
        bench.send(get("/api/v2/skus").header(name, value)).await.problem(400, INVALID);
    }
    let listed = bench.send(get("/api/v2/accounts").header("consistency", "leader")).await.expect(200);
    assert_eq!(listed["data"], json!([]), "a refused request had an effect");
}
