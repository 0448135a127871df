//! Orders: placed, refused, repeated, moved on, listed.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_placed_once_however_often_it_is_asked_for() {
    let bench = Bench::start().await;
    let (sku, account) = (bench.sku("A", 500, 5).await, bench.account(0).await);
    let ask = post("/api/v2/orders", order(&account, &[(&sku, 2), (&sku, 1)])).key("once");
    let placed = bench.write(ask.clone()).await;
    let body = placed.expect(201);
    assert_eq!(placed.header("location"), Some(format!("/api/v2/orders/{}", text(&body["order_no"])).as_str()));
    assert_eq!(body["lines"].as_array().unwrap().len(), 1);
    assert_eq!((&body["lines"][0]["quantity"], &body["totals"]["grand_total"]), (&json!(3), &money(1_500)));
    assert_eq!(body["allowed_transitions"], json!(["PAID", "CANCELLED"]));
    assert_eq!(bench.stock(&sku).await, (5, 3, 2));

    let again = bench.write(ask.clone()).await;
    assert_eq!((again.status, &again.body), (201, &placed.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let named = ask.clone().without("idempotency-key").header("x-idempotency-key", "once");
    assert_eq!(bench.write(named).await.body, placed.body);
    let other = post("/api/v2/orders", order(&account, &[(&sku, 1)])).key("once");
    bench.write(other).await.problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(bench.stock(&sku).await, (5, 3, 2));

    // Cancelled since: the key still answers what it answered then, and tells what is now.
    let no = text(&body["order_no"]);
    bench.write(post(&format!("/api/v2/orders/{no}/cancel"), json!({"reason": "changed my mind"}))).await.expect(200);
    assert_eq!(bench.write(ask).await.body, placed.body);
    let found = bench.send(get("/api/v2/orders/by-idempotency-key/once")).await.expect(200);
    assert_eq!((&found["order_no"], &found["status"]), (&body["order_no"], &json!("CANCELLED")));
    let problem = bench.send(get("/api/v2/orders/by-idempotency-key/never")).await.problem(404, "NOT_FOUND");
    assert!(problem["detail"].as_str().unwrap().ends_with("repeat it under the same key"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_lists_all_that_is_short_and_stays_the_same() {
    let bench = Bench::start().await;
    let (a, b) = (bench.sku("A", 1, 5).await, bench.sku("B", 1, 1).await);
    let account = bench.account(0).await;
    let ask = post("/api/v2/orders", order(&account, &[(&a, 6), (&b, 2)])).key("short");
    let refused = bench.write(ask.clone()).await;
    let problem = refused.problem(409, "INVENTORY_SHORTAGE");
    let shortage = |sku: &str, requested: u64, available: u64| json!({"sku_id": sku, "requested": requested, "available": available, "location_id": null});
    let mut shortages = problem["details"]["shortages"].as_array().unwrap().clone();
    shortages.sort_by_key(|one| one["requested"].as_u64());
    assert_eq!(shortages, [shortage(&b, 2, 1), shortage(&a, 6, 5)]);
    assert_eq!(problem["applied"], false);
    assert_eq!(refused.header("x-log-index"), Some(problem["log_index"].to_string().as_str()));

    bench.receive(&[(&a, 100), (&b, 100)]).await.expect(200);
    let again = bench.write(ask.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")).await;
    assert_eq!((again.status, &again.body), (409, &refused.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("x-trace-id"), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    bench.send(get("/api/v2/orders/by-idempotency-key/short")).await.problem(409, "INVENTORY_SHORTAGE");
    assert_eq!(bench.stock(&a).await, (105, 0, 105));

    let unknown = "sku_00000000000000000000000001";
    let problem = bench.place(&account, &[(&a, 1), (unknown, 1)]).await.problem(404, "NOT_FOUND");
    assert_eq!(problem["details"]["sku_ids"], json!([unknown]));
    bench.place("acc_00000000000000000000000001", &[(&a, 1)]).await.problem(404, "NOT_FOUND");
    bench.write(patch(&format!("/api/v2/skus/{a}"), 1, json!({"sellable": false}))).await.expect(200);
    bench.place(&account, &[(&a, 1)]).await.problem(409, "SKU_NOT_SELLABLE");
    let mut coupons = order(&account, &[(&b, 1)]);
    coupons["coupon_codes"] = json!(["NEW50"]);
    let problem = bench.write(post("/api/v2/orders", coupons)).await.problem(409, "COUPON_INVALID");
    assert_eq!(problem["details"]["invalid_coupons"][0]["code"], "NEW50");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_its_way_and_no_other() {
    let bench = Bench::start().await;
    let (sku, account) = (bench.sku("A", 300, 5).await, bench.account(1_000).await);
    let placed = bench.place(&account, &[(&sku, 2)]).await.expect(201);
    let path = format!("/api/v2/orders/{}", text(&placed["order_no"]));
    let act = |action: &str, body: Value| post(&format!("{path}/{action}"), body);
    let pay = || act("pay", json!({"provider": "balance"}));
    let problem = bench.write(act("ship", json!({}))).await.problem(409, "INVALID_TRANSITION");
    assert_eq!(problem["details"]["allowed_transitions"], json!(["PAID", "CANCELLED"]));

    let paid = bench.write(pay()).await;
    assert_eq!(paid.header("etag"), Some("\"v2\""));
    let body = paid.expect(200);
    assert_eq!(
        (&body["status"], &body["payment_status"], &body["status_text"]),
        (&json!("PAID"), &json!("PAID"), &json!("待发货"))
    );
    let twice = bench.write(pay()).await.expect(200);
    assert_eq!((&twice["no_change"], &twice["version"]), (&json!(true), &json!(2)));
    let wallet = bench.send(get(&format!("/api/v2/wallets/{account}"))).await.expect(200);
    assert_eq!(wallet["balance"], money(400));

    let shipped = act("ship", json!({"carrier": "SF", "tracking_no": "123"})).header("accept-language", "en");
    let shipped = bench.write(shipped).await.expect(200);
    assert_eq!((&shipped["status_text"], &shipped["history"][2]["note"]), (&json!("shipped"), &json!("SF 123")));
    assert_eq!(bench.stock(&sku).await, (3, 0, 3));
    // An act without fields may come without a body.
    let done = bench.write(ask(http::Method::POST, &format!("{path}/confirm-receipt"))).await.expect(200);
    assert_eq!((&done["status"], &done["allowed_transitions"]), (&json!("COMPLETED"), &json!([])));
    bench.write(act("cancel", json!({}))).await.problem(409, "INVALID_TRANSITION");
    let read = bench.send(get(&path)).await.expect(200);
    assert_eq!(read["history"].as_array().unwrap().len(), 4);
    assert_eq!(bench.send(get(&format!("/api/v2/orders/{}", text(&read["id"])))).await.expect(200), read);
    let cached = bench.send(get(&path).header("if-none-match", "\"v4\"")).await;
    assert_eq!(cached.status, 304);

    let poor = bench.place(&account, &[(&sku, 3)]).await.expect(201);
    let poor = format!("/api/v2/orders/{}/pay", text(&poor["order_no"]));
    bench.write(post(&poor, json!({"provider": "balance"}))).await.problem(409, "INSUFFICIENT_BALANCE");
    bench.write(post(&poor, json!({"provider": "barter"}))).await.problem(400, "VALIDATION_FAILED");
    for no in ["nothing", "00000000000000000000000001", "%00", "sku_00000000000000000000000001"] {
        bench.write(post(&format!("/api/v2/orders/{no}/cancel"), json!({}))).await.problem(404, "NOT_FOUND");
        bench.send(get(&format!("/api/v2/orders/{no}"))).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_can_be_held_with_the_order() {
    let bench = Bench::start().await;
    let (sku, account) = (bench.sku("A", 300, 5).await, bench.account(500).await);
    let mut held = order(&account, &[(&sku, 1)]);
    held["payment_provider"] = json!("balance");
    let placed = bench.write(post("/api/v2/orders", held.clone())).await.expect(201);
    assert_eq!(placed["payment_provider"], "balance");
    let wallet = bench.send(get(&format!("/api/v2/wallets/{account}"))).await.expect(200);
    assert_eq!((&wallet["held"], &wallet["available"]), (&money(300), &money(200)));
    bench.write(post("/api/v2/orders", held)).await.problem(409, "INSUFFICIENT_BALANCE");
    assert_eq!(bench.stock(&sku).await, (5, 1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_item_by_item_and_repeated_whole() {
    let bench = Bench::start().await;
    let (sku, account) = (bench.sku("A", 300, 3).await, bench.account(0).await);
    let one = |quantity| order(&account, &[(&sku, quantity)]);
    let ask = post("/api/v2/orders/batch", json!({"orders": [one(2), one(2), one(1)]})).key("batch");
    let got = bench.write(ask.clone()).await;
    let body = got.expect(200);
    let statuses: Vec<u64> =
        body["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 409, 201]);
    assert_eq!(body["results"][1]["problem"]["code"], "INVENTORY_SHORTAGE");
    assert_eq!(body["results"][2]["order"]["lines"][0]["quantity"], 1);
    assert_eq!(bench.stock(&sku).await, (3, 3, 0));
    let again = bench.write(ask).await;
    assert_eq!((&again.body, again.header("idempotent-replayed")), (&got.body, Some("true")));
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_by_account_and_status_in_pages() {
    let bench = Bench::start().await;
    let sku = bench.sku("A", 1, 100).await;
    let (mine, other) = (bench.account(0).await, bench.account(0).await);
    let mut placed = Vec::new();
    for number in 0..6 {
        let account = if number % 3 == 2 { &other } else { &mine };
        placed.push(text(&bench.place(account, &[(&sku, 1)]).await.expect(201)["order_no"]));
    }
    bench.write(post(&format!("/api/v2/orders/{}/cancel", placed[3]), json!({}))).await.expect(200);
    let numbers = |path: String| {
        let bench = &bench;
        async move {
            let mut seen = Vec::new();
            let mut next = path.clone();
            loop {
                let page = bench.send(get(&next).header("consistency", "leader")).await.expect(200);
                seen.extend(page["data"].as_array().unwrap().iter().map(|order| text(&order["order_no"])));
                if page["has_more"] == false {
                    return seen;
                }
                next = format!("{path}&cursor={}", text(&page["next_cursor"]));
            }
        }
    };
    let pick = |picked: &[usize]| picked.iter().map(|at| placed[*at].clone()).collect::<Vec<_>>();
    assert_eq!(numbers("/api/v2/orders?limit=4".into()).await, pick(&[5, 4, 3, 2, 1, 0]));
    assert_eq!(numbers("/api/v2/orders?limit=2&sort=created_at".into()).await, pick(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(numbers(format!("/api/v2/orders?limit=1&user_id={mine}")).await, pick(&[4, 3, 1, 0]));
    assert_eq!(numbers("/api/v2/orders?limit=3&status=CANCELLED".into()).await, pick(&[3]));
    assert_eq!(numbers(format!("/api/v2/orders?limit=1&status=CREATED&user_id={mine}")).await, pick(&[4, 1, 0]));
    for bad in ["status=EATEN", "user_id=me", "sort=price", "limit=0", "cursor=x"] {
        bench.send(get(&format!("/api/v2/orders?{bad}"))).await.problem(400, "VALIDATION_FAILED");
    }
}
