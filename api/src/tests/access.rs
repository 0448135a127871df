//! Who may do what: every route, with every key.

use http::Method;

use super::*;
use crate::auth::Access;

fn example(template: &str) -> String {
    template.split('/').map(|part| if part.starts_with('{') { "1" } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_opens_with_its_own_key_and_no_other() {
    let bench = Bench::start().await;
    for endpoint in &bench.endpoints {
        let path = example(endpoint.path);
        let with = |authorization: &str| {
            let ask = ask(endpoint.method.clone(), &path).without("authorization");
            if authorization.is_empty() { ask } else { ask.header("authorization", authorization) }
        };
        if endpoint.access == Access::Open {
            for authorization in ["", "Bearer nonsense"] {
                let got = bench.send(with(authorization)).await;
                assert!([200, 503].contains(&got.status), "{path}: {}", got.status);
            }
            continue;
        }
        for authorization in ["", "Bearer", "Bearer wrong", "Basic c2hvcDpzaG9w", SHOP_KEY] {
            let got = bench.send(with(authorization)).await;
            got.problem(401, "UNAUTHENTICATED");
            assert_eq!(got.header("www-authenticate"), Some("Bearer"), "{path}");
        }
        let (own, other) = match endpoint.access {
            Access::Shop => (SHOP_KEY, ADMIN_KEY),
            _ => (ADMIN_KEY, SHOP_KEY),
        };
        bench.send(with(&format!("Bearer {other}"))).await.problem(403, "FORBIDDEN");
        let got = bench.send(with(&format!("bearer {own}"))).await;
        assert!(![401, 403].contains(&got.status), "{path}: {}", got.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_methods_that_are_not_there_are_problems_too() {
    let bench = Bench::start().await;
    for path in ["/", "/api", "/api/v2/nothing", "/api/v2/skus/", "/api/v2/skus/a/b/c", "/api/v2/%ff", "/metrics/x"] {
        bench.send(get(path).without("authorization")).await.problem(401, "UNAUTHENTICATED");
        bench.send(get(path)).await.problem(404, "NOT_FOUND");
    }
    let got = bench.send(ask(Method::PUT, "/api/v2/orders")).await;
    got.problem(405, "METHOD_NOT_ALLOWED");
    let mut allowed: Vec<&str> = got.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "POST"]);
    bench.send(ask(Method::PUT, "/livez").without("authorization")).await.problem(401, "UNAUTHENTICATED");
    bench.send(ask(Method::DELETE, "/api/v2/cluster/status")).await.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_how_it_and_its_cluster_are() {
    let bench = Bench::start().await;
    bench.sku("A", 1, 1).await;
    let open = |path: &str| get(path).without("authorization");
    assert_eq!(bench.send(open("/livez")).await.expect(200)["status"], "ok");
    assert_eq!(bench.send(open("/readyz")).await.expect(200)["status"], "ready");
    assert_eq!(bench.send(open("/healthz?verbose")).await.expect(200)["leader"], 1);

    let status = bench.send(get("/api/v2/cluster/status")).await.expect(200);
    assert_eq!((&status["leader"], &status["voters"], &status["quorum"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(status["members"][0]["role"], "leader");
    assert_eq!(bench.send(get("/api/v2/cluster/members/1")).await.expect(200)["id"], 1);
    for id in ["2", "x", "-1", "99999999999999999999999", "%00"] {
        bench.send(get(&format!("/api/v2/cluster/members/{id}"))).await.problem(404, "NOT_FOUND");
    }
    bench.send(ask(Method::DELETE, "/api/v2/cluster/members/1")).await.problem(409, "WOULD_LOSE_QUORUM");
    bench.send(ask(Method::DELETE, "/api/v2/cluster/members/9")).await.problem(404, "NOT_FOUND");
    let bad = json!({"id": 0, "peer": "nowhere", "http_addr": "a:0"});
    let problem = bench.send(post("/api/v2/cluster/members", bad)).await.problem(400, "VALIDATION_FAILED");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3);

    let made = bench.send(ask(Method::POST, "/api/v2/cluster/snapshots")).await.expect(201);
    assert!(made["index"].as_u64() > Some(0), "{made}");
    let listed = bench.send(get("/api/v2/cluster/snapshots")).await.expect(200);
    assert_eq!(listed["data"], json!([made]));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_and_the_document_is_served() {
    let bench = Bench::start().await;
    let sku = bench.sku("A", 1, 1).await;
    let account = bench.account(0).await;
    bench.place(&account, &[(&sku, 1)]).await.expect(201);
    bench.place(&account, &[(&sku, 1)]).await.problem(409, "INVENTORY_SHORTAGE");
    let got = bench.send(get("/metrics")).await;
    assert_eq!(got.status, 200);
    let page = String::from_utf8(got.body.to_vec()).unwrap();
    for line in [
        "agora_orders 1",
        "agora_orders_total{result=\"placed\"} 1",
        "agora_raft_is_leader 1",
        "http_request_duration_seconds_count{method=\"POST\",route=\"/api/v2/orders\",status_code=\"201\"} 1",
        "http_request_duration_seconds_count{method=\"POST\",route=\"/api/v2/orders\",status_code=\"409\"} 1",
    ] {
        assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
    }
    // Every write went through every stage once, on the only node there is; the refusal too, since it is a transaction.
    let count = |stage: &str| {
        let name = format!("agora_stage_seconds_count{{stage=\"{stage}\"}} ");
        let count =
            page.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no stage {stage}"));
        count.parse::<u64>().unwrap()
    };
    let writes = count("receive");
    assert!(writes >= 4, "{writes}");
    for stage in ["submit", "decide", "queue", "append", "commit", "apply", "answer"] {
        assert_eq!(count(stage), writes, "{stage}");
    }
    assert_eq!((count("forward"), count("serve")), (0, 0));
    // The format: every sample is announced once, with its kind, and no series is there twice.
    let mut seen = std::collections::BTreeSet::new();
    for line in page.lines() {
        let key = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
        assert!(seen.insert(key.to_owned()), "{key} is there twice");
    }
    let document = bench.send(get("/api/v2/openapi.json")).await.expect(200);
    assert_eq!(document, bench.document);
}
