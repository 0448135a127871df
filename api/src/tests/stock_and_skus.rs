//! SKUs, stock, accounts and wallets.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_sku_is_created_read_changed_and_listed() {
    let bench = Bench::start().await;
    let body = json!({"sku_code": "T-1", "name": "衬衫", "price": money(9_900)});
    let created = bench.write(post("/api/v2/skus", body.clone()).key("create")).await;
    let sku = created.expect(201);
    let path = format!("/api/v2/skus/{}", text(&sku["id"]));
    assert_eq!(created.header("location"), Some(path.as_str()));
    assert_eq!(created.header("etag"), Some("\"v1\""));
    assert_eq!(created.header("x-log-index"), Some(sku["log_index"].to_string().as_str()));
    assert_eq!(created.header("idempotent-replayed"), None);

    let again = bench.write(post("/api/v2/skus", body.clone()).key("create")).await;
    assert_eq!((again.status, &again.body), (201, &created.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = json!({"sku_code": "T-2", "name": "衬衫", "price": money(9_900)});
    bench.write(post("/api/v2/skus", other).key("create")).await.problem(422, "IDEMPOTENCY_KEY_REUSED");
    let taken = bench.write(post("/api/v2/skus", body)).await.problem(409, "DUPLICATE_EXTERNAL_ID");
    assert_eq!(taken["details"]["existing_id"], sku["id"]);

    let read = bench.send(get(&path)).await;
    assert_eq!(read.expect(200), sku);
    assert_eq!(read.header("x-leader"), Some("1"));
    assert!(read.header("x-staleness-ms").is_some());
    assert_eq!(bench.send(get("/api/v2/skus/by-code/T-1")).await.expect(200), sku);
    bench.send(get("/api/v2/skus/by-code/T-9")).await.problem(404, "NOT_FOUND");
    let cached = bench.send(get(&path).header("if-none-match", "\"v1\"")).await;
    assert_eq!((cached.status, cached.body.len()), (304, 0));

    let price = json!({"price": money(8_800)});
    bench.write(post(&path, price.clone())).await.problem(405, "METHOD_NOT_ALLOWED");
    bench.write(patch(&path, 1, price.clone()).without("if-match")).await.problem(428, "PRECONDITION_REQUIRED");
    let stale = bench.write(patch(&path, 7, price.clone())).await;
    let problem = stale.problem(412, "VERSION_MISMATCH");
    assert_eq!((&problem["details"]["current_version"], &problem["details"]["current"]["id"]), (&json!(1), &sku["id"]));
    assert_eq!(stale.header("etag"), Some("\"v1\""));
    let changed = bench.write(patch(&path, 1, price.clone()).key("change")).await;
    assert_eq!(changed.expect(200)["price"], money(8_800));
    assert_eq!(changed.header("etag"), Some("\"v2\""));
    // The precondition is part of what the key stands for.
    bench.write(patch(&path, 2, price).key("change")).await.problem(422, "IDEMPOTENCY_KEY_REUSED");
    let dollars = json!({"price": {"amount": 1, "currency": "USD"}});
    bench.write(patch(&path, 2, dollars)).await.problem(409, "CURRENCY_MISMATCH");
    let hidden = bench.write(patch(&path, 2, json!({"sellable": false, "name": "Hemd"}))).await.expect(200);
    assert_eq!((&hidden["sellable"], &hidden["name"]), (&json!(false), &json!("Hemd")));
    let unknown = "/api/v2/skus/sku_00000000000000000000000001";
    bench.write(patch(unknown, 1, json!({"sellable": false}))).await.problem(404, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_a_cursor_fits_its_list_only() {
    let bench = Bench::start().await;
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(bench.sku(&format!("S-{number}"), 1, 0).await);
    }
    let mut seen = Vec::new();
    let mut path = "/api/v2/skus?limit=2".to_owned();
    let mut cursor = Value::Null;
    loop {
        let page = bench.send(get(&path).header("consistency", "linearizable")).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|sku| text(&sku["id"])));
        assert_eq!(page["has_more"].as_bool(), Some(page["next_cursor"].is_string()));
        if page["has_more"] == false {
            break;
        }
        cursor = page["next_cursor"].clone();
        path = format!("/api/v2/skus?limit=2&cursor={}", text(&cursor));
    }
    assert_eq!(seen, made);
    let cursor = text(&cursor);
    for bad in [
        format!("/api/v2/accounts?cursor={cursor}"),
        format!("/api/v2/skus?cursor={cursor}x"),
        "/api/v2/skus?cursor=A".into(),
    ] {
        bench.send(get(&bad)).await.problem(400, "VALIDATION_FAILED");
    }
    let problem = bench.send(get("/api/v2/skus?curser=1")).await.problem(400, "UNKNOWN_PARAMETER");
    assert!(text(&problem["detail"]).ends_with("cursor"), "{problem}");
    bench.write(post("/api/v2/skus?dry=1", json!({}))).await.problem(400, "UNKNOWN_PARAMETER");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_comes_and_is_corrected_and_every_move_is_told() {
    let bench = Bench::start().await;
    let (a, b) = (bench.sku("A", 1, 0).await, bench.sku("B", 1, 0).await);
    let one = bench.receive(&[(&a, 3), (&a, 2)]).await.expect(200);
    assert_eq!((&one["on_hand"], &one["available"], &one["lines"][0]["on_hand"]), (&json!(5), &json!(5), &json!(5)));
    let two = bench.receive(&[(&a, 1), (&b, 4)]).await.expect(200);
    assert_eq!(two["lines"].as_array().unwrap().len(), 2);
    let adjust = |delta: i64| post("/api/v2/stock/adjust", json!({"sku_id": a, "delta": delta, "reason": "count"}));
    let less = bench.write(adjust(-2)).await;
    assert_eq!(less.expect(200)["on_hand"], 4);
    assert_eq!(less.header("etag"), Some("\"v3\""));
    let problem = bench.write(adjust(-5)).await.problem(409, "INVENTORY_SHORTAGE");
    assert_eq!(problem["details"]["shortages"][0]["available"], 4);
    bench.receive(&[("sku_00000000000000000000000001", 1)]).await.problem(404, "NOT_FOUND");
    assert_eq!(bench.stock(&a).await, (4, 0, 4));

    let moves = bench.send(get(&format!("/api/v2/stock/movements?sku_id={a}")).header("consistency", "leader")).await;
    let moves = moves.expect(200)["data"].as_array().unwrap().clone();
    let told: Vec<(&str, i64)> =
        moves.iter().map(|one| (one["type"].as_str().unwrap(), one["delta"].as_i64().unwrap())).collect();
    assert_eq!(told, [("RECEIVED", 5), ("RECEIVED", 1), ("ADJUSTED", -2)]);
    assert_eq!(moves[2]["pre"], json!({"on_hand": 6, "reserved": 0, "available": 6}));
    assert_eq!(moves[2]["reason"], "count");
    let first = bench.send(get("/api/v2/stock/movements?limit=2").header("consistency", "leader")).await.expect(200);
    let next = format!("/api/v2/stock/movements?limit=200&cursor={}", text(&first["next_cursor"]));
    let rest = bench.send(get(&next)).await.expect(200);
    assert_eq!((first["data"].as_array().unwrap().len(), rest["data"].as_array().unwrap().len()), (2, 2));
    assert_ne!(first["data"][1], rest["data"][0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_fill_and_empty_and_the_ledger_balances() {
    let bench = Bench::start().await;
    let id = bench.account(0).await;
    let wallet = format!("/api/v2/wallets/{id}");
    let empty = bench.send(get(&wallet)).await.expect(200);
    assert_eq!((&empty["balance"], &empty["wallets"]), (&Value::Null, &json!([])));
    let adjust = |amount: Value| post(&format!("{wallet}/adjust"), json!({"amount": amount, "reason": "test"}));
    let full = bench.write(adjust(money(500))).await.expect(200);
    assert_eq!((&full["balance"], &full["held"], &full["available"]), (&money(500), &money(0), &money(500)));
    let problem = bench.write(adjust(money(-501))).await.problem(409, "INSUFFICIENT_BALANCE");
    assert_eq!(problem["details"], json!({"requested": money(501), "available": money(500)}));
    let yen = json!({"amount": 7, "currency": "JPY"});
    assert_eq!(bench.write(adjust(yen.clone())).await.expect(200)["balance"], yen);
    let both = bench.send(get(&wallet)).await.expect(200);
    assert_eq!((&both["balance"], both["wallets"].as_array().unwrap().len()), (&Value::Null, 2));
    assert_eq!(bench.send(get(&format!("{wallet}?currency=JPY"))).await.expect(200)["balance"], yen);
    bench.send(get(&format!("{wallet}?currency=yen"))).await.problem(400, "VALIDATION_FAILED");
    let account = bench.send(get(&format!("/api/v2/accounts/{id}"))).await.expect(200);
    assert_eq!(account["wallets"], both["wallets"]);
    let listed = bench.send(get("/api/v2/accounts").header("consistency", "leader")).await.expect(200);
    assert_eq!(listed["data"], json!([account]));
    let sums = bench.send(get("/api/v2/ledger/trial-balance").header("consistency", "leader")).await.expect(200);
    assert_eq!((&sums["balanced"], sums["totals"].as_array().unwrap().len()), (&json!(true), 2));
    bench.send(get("/api/v2/accounts/acc_00000000000000000000000001")).await.problem(404, "NOT_FOUND");
    bench.send(get("/api/v2/wallets/nobody")).await.problem(404, "NOT_FOUND");
}
