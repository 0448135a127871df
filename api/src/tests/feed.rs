//! The change feed, and reads that wait or must be fresh.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_tells_everything_in_order_and_in_any_steps() {
    let bench = Bench::start().await;
    let (sku, account) = (bench.sku("A", 300, 5).await, bench.account(500).await);
    let placed = bench.place(&account, &[(&sku, 1)]).await.expect(201);
    let no = text(&placed["order_no"]);
    bench.write(post(&format!("/api/v2/orders/{no}/pay"), json!({"provider": "balance"}))).await.expect(200);
    bench.place(&account, &[(&sku, 50)]).await.problem(409, "INVENTORY_SHORTAGE");

    let whole = bench.send(get("/api/v2/changes?limit=1000").header("consistency", "leader")).await.expect(200);
    let kinds: Vec<String> = whole["data"].as_array().unwrap().iter().map(|event| text(&event["type"])).collect();
    for kind in ["catalog.sku.created", "inventory.stock.received", "inventory.stock.reserved", "order.order.created"] {
        assert!(kinds.iter().any(|known| known == kind), "{kind} is not in {kinds:?}");
    }
    assert_eq!(whole["next_after"], whole["head_index"]);
    let mut steps = Vec::new();
    let mut after = 0;
    while after < whole["head_index"].as_u64().unwrap() {
        let path = format!("/api/v2/changes?limit=1&after={after}");
        let page = bench.send(get(&path).header("consistency", "local")).await.expect(200);
        steps.extend(page["data"].as_array().unwrap().clone());
        assert!(page["next_after"].as_u64().unwrap() > after, "no progress after {after}");
        after = page["next_after"].as_u64().unwrap();
    }
    assert_eq!(json!(steps), whole["data"]);

    let path = "/api/v2/changes?types=order.order.created,order.order.paid";
    let some = bench.send(get(path).header("consistency", "leader")).await.expect(200);
    let kinds: Vec<String> = some["data"].as_array().unwrap().iter().map(|event| text(&event["type"])).collect();
    assert_eq!(kinds, ["order.order.created", "order.order.paid"]);
    assert_eq!(some["data"][0]["aggregate_id"], placed["id"]);
    assert_eq!(some["data"][0]["index"], placed["log_index"]);
    for bad in ["types=order.eaten", "wait=31s", "wait=soon", "after=-1", "limit=1001", "limit=0"] {
        bench.send(get(&format!("/api/v2/changes?{bad}"))).await.problem(400, "VALIDATION_FAILED");
    }
    let far = bench.send(get("/api/v2/changes?after=99999999").header("consistency", "local")).await.expect(200);
    assert_eq!((&far["data"], &far["next_after"]), (&json!([]), &json!(99_999_999)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_feed_is_woken_or_told_that_there_is_nothing() {
    let bench = Arc::new(Bench::start().await);
    let sku = bench.sku("A", 300, 5).await;
    let head =
        bench.send(get("/api/v2/changes").header("consistency", "leader")).await.expect(200)["head_index"].clone();
    let begun = Instant::now();
    let waiter = {
        let (bench, path) =
            (Arc::clone(&bench), format!("/api/v2/changes?types=inventory.stock.received&wait=20s&after={head}"));
        tokio::spawn(async move { bench.send(get(&path)).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.receive(&[(&sku, 1)]).await.expect(200);
    let woken = waiter.await.unwrap().expect(200);
    assert_eq!(woken["data"][0]["aggregate_id"], json!(sku));
    assert!(begun.elapsed() < Duration::from_secs(10), "woken after {:?}", begun.elapsed());

    let path = format!("/api/v2/changes?types=order.order.paid&wait=300ms&after={}", woken["next_after"]);
    let begun = Instant::now();
    let nothing = bench.send(get(&path)).await.expect(200);
    assert_eq!(nothing["data"], json!([]));
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_as_fresh_as_they_are_asked_to_be() {
    let bench = Bench::start().await;
    let sku = bench.sku("A", 300, 5).await;
    let path = format!("/api/v2/skus/{sku}/stock");
    for level in ["linearizable", "leader", "bounded", "local"] {
        bench.send(get(&path).header("consistency", level)).await.expect(200);
    }
    bench.send(get(&path).header("max-staleness", "10s")).await.expect(200);
    let stock = bench.send(get(&path)).await.expect(200);
    bench.send(get(&path).header("min-index", &stock["log_index"].to_string())).await.expect(200);
    let ahead = bench.send(get(&path).header("min-index", "99999999").header("consistency", "local")).await;
    let problem = ahead.problem(503, "STALE_READ");
    assert_eq!((&problem["applied"], &problem["retryable"]), (&json!(false), &json!(true)));
    assert!(ahead.header("retry-after").is_some());
}
