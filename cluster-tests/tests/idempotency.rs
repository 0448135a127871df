//! Promise: one key, one effect, one answer: the same request repeated at once, later, on other nodes or after the
//! leader's death has one effect and gets its first answer byte by byte; a refusal is repeated like an acceptance; a key
//! is never lent to another request; a write without a key is refused (invariant 8).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use agora_cluster_tests::{
    client::{Answer, Call, Client, Reply, Verdict, fresh_key},
    cluster::{Cluster, Lease, Shared},
    config::Overrides,
    settings::scaled,
    shop::{create_account, list, money, order_body, orders_of, receive, stock, stocked_sku, text},
};
use http::Method;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_agora-test-node");
static CLUSTER: Shared = Shared::new();

async fn cluster() -> Lease {
    CLUSTER.lease(BINARY, 3, Overrides::none()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_have_one_effect() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "FIFTY", 100, 1_000).await.id;
    let account = create_account(&client, "fifty").await;
    for round in 0..5_u64 {
        let call = Call::post_with_key("/orders", &fresh_key(), order_body(&account, &[(&sku, 2)]));
        let tries: Vec<_> = (0..50_u64)
            .map(|turn| {
                let (client, call) = (client.clone(), call.clone());
                tokio::spawn(async move { client.send(turn % 3 + 1, &call).await })
            })
            .collect();
        let mut accepted: Vec<Answer> = Vec::new();
        for attempt in tries {
            let reply = attempt.await.expect("an attempt that does not panic");
            match (reply.verdict(), reply) {
                (Verdict::Yes, Reply::Answer(answer)) => accepted.push(answer),
                // Still on its way, or no leader for a moment.
                (Verdict::Unknown | Verdict::Again, _) => {}
                (verdict, other) => panic!("{verdict:?}: {other:?}"),
            }
        }
        assert!(!accepted.is_empty(), "nobody of fifty was told the outcome");
        let bodies: BTreeSet<&[u8]> = accepted.iter().map(|answer| answer.body.as_ref()).collect();
        assert_eq!(bodies.len(), 1, "one key was given {} different answers", bodies.len());
        let firsts = accepted.iter().filter(|answer| !answer.replayed()).count();
        assert!(firsts <= 1, "{firsts} of fifty were told that theirs was the first");
        let left = stock(&client, round % 3 + 1, &sku, "linearizable").await;
        assert_eq!(left.reserved, 2 * (round + 1), "fifty repeats of one order had more than one effect");
    }
    assert_eq!(orders_of(&client, 2, &account).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_not_lent_to_another_request() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "LENT", 100, 10).await.id;
    let account = create_account(&client, "lender").await;
    let key = fresh_key();
    let call = Call::post_with_key("/orders", &key, order_body(&account, &[(&sku, 1)]));
    let first = client.settle(0, &call, Duration::from_secs(30)).await.answer().clone();
    first.expect(201);
    for node in 1..=3 {
        let other = Call::post_with_key("/orders", &key, order_body(&account, &[(&sku, 2)]));
        let answer = settled(&client, node as usize - 1, &other).await;
        answer.expect_problem(422, "IDEMPOTENCY_KEY_REUSED");
    }
    // White space and the order of fields are not another request; the key keeps its answer through all this.
    let same = format!(r#"{{ "items": [ {{"quantity": 1, "sku_id": "{sku}"}} ], "user_id": "{account}" }}"#);
    let call = Call::new(Method::POST, "/orders").header("idempotency-key", &key);
    let call = call.header("content-type", "application/json").bytes(same);
    let again = settled(&client, 2, &call).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    // The scope of a key is principal, method and route: elsewhere it is another key.
    let elsewhere = Call::post_with_key("/accounts", &key, json!({"name": "same key", "kind": "customer"}));
    settled(&client, 0, &elsewhere).await.expect(201);
    assert_eq!(stock(&client, 1, &sku, "linearizable").await.reserved, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_repeated_even_when_it_could_now_be_granted() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "REFUSED", 100, 1).await.id;
    let account = create_account(&client, "refused").await;
    let short = Call::post_with_key("/orders", &fresh_key(), order_body(&account, &[(&sku, 2)]));
    let unknown_sku = order_body(&account, &[("sku_00000000000000000000000001", 1)]);
    let unknown = Call::post_with_key("/orders", &fresh_key(), unknown_sku);
    let refusals = [(short, 409, "INVENTORY_SHORTAGE"), (unknown, 404, "NOT_FOUND")];
    let mut firsts = Vec::new();
    for (call, status, code) in &refusals {
        let first = settled(&client, 0, call).await;
        first.expect_problem(*status, code);
        assert!(!first.replayed());
        firsts.push(first);
    }
    receive(&client, &sku, 100).await;
    for (first, (call, ..)) in firsts.iter().zip(&refusals) {
        for node in 0..3 {
            let again = settled(&client, node, call).await;
            assert_eq!((again.status, &again.body), (first.status, &first.body), "a refusal changed its words");
            assert!(again.replayed(), "a refusal was decided twice");
        }
    }
    assert_eq!(stock(&client, 1, &sku, "linearizable").await.reserved, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_wants_a_key_of_good_form() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "KEYS", 100, 10).await.id;
    let account = create_account(&client, "keyless").await;
    let order =
        text(&settled(&client, 0, &Call::post("/orders", order_body(&account, &[(&sku, 1)]))).await.json(), "id");
    let skus_before = list(&client, 1, "/skus", "linearizable").await.len();
    let writes: Vec<(&str, String, Value)> = vec![
        ("POST", "/skus".into(), json!({"sku_code": "NEVER", "name": "never", "price": money(1)})),
        ("PATCH", format!("/skus/{sku}"), json!({"price": money(2)})),
        ("POST", "/stock/receive".into(), json!({"lines": [{"sku_id": sku, "quantity": 1}], "reason": "x"})),
        ("POST", "/stock/adjust".into(), json!({"sku_id": sku, "delta": 1, "reason": "x"})),
        ("POST", "/accounts".into(), json!({"name": "never", "kind": "customer"})),
        ("POST", format!("/wallets/{account}/adjust"), json!({"amount": money(1), "reason": "x"})),
        ("POST", "/orders".into(), order_body(&account, &[(&sku, 1)])),
        ("POST", "/orders/batch".into(), json!({"orders": [order_body(&account, &[(&sku, 1)])]})),
        ("POST", format!("/orders/{order}/pay"), json!({"provider": "balance"})),
        ("POST", format!("/orders/{order}/cancel"), json!({"reason": "x"})),
        ("POST", format!("/orders/{order}/ship"), json!({})),
        ("POST", format!("/orders/{order}/confirm-receipt"), json!({})),
    ];
    let too_long = "k".repeat(256);
    for (turn, (method, path, body)) in writes.iter().enumerate() {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let bare = Call::new(method, path).header("if-match", "\"v1\"").json(body);
        let node = turn as u64 % 3 + 1;
        client.ask(node, &bare).await.expect_problem(400, "IDEMPOTENCY_KEY_MISSING");
        for bad in ["", " ", too_long.as_str()] {
            let answer = client.ask(node, &bare.clone().header("idempotency-key", bad)).await;
            assert_eq!(answer.status, 400, "{path} took the key {bad:?}: {}", answer.text());
            assert!(answer.code().starts_with("IDEMPOTENCY_KEY_"), "{}", answer.text());
        }
        let two = bare.clone().header("idempotency-key", "one").header("x-idempotency-key", "two");
        let answer = client.ask(node, &two).await;
        assert_eq!(answer.status, 400, "{path} took two keys: {}", answer.text());
    }
    let left = stock(&client, 1, &sku, "linearizable").await;
    assert_eq!((left.on_hand, left.reserved, left.version), (10, 1, 2), "a write without a key had an effect");
    let order = client.ask(1, &Call::get(&format!("/orders/{order}"))).await.expect(200);
    assert_eq!(order["status"], "CREATED", "a write without a key had an effect");
    let names: Vec<Value> = list(&client, 1, "/skus", "linearizable").await;
    assert!(names.iter().all(|sku| sku["sku_code"] != "NEVER"), "a write without a key had an effect");
    assert!(names.len() >= skus_before);

    // The seed's name for the header, and a key of the greatest length, are as good.
    let longest = "k".repeat(255);
    let call = Call::new(Method::POST, "/orders").json(&order_body(&account, &[(&sku, 1)]));
    let by_seed = client.ask(1, &call.clone().header("x-idempotency-key", &longest)).await;
    by_seed.expect(201);
    let by_name = client.ask(2, &call.header("idempotency-key", &longest)).await;
    assert_eq!(by_name.body, by_seed.body, "one key under two names is two keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_request_does_not_use_up_its_key() {
    let cluster = cluster().await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "UNUSED", 100, 10).await.id;
    let account = create_account(&client, "clumsy").await;
    let key = fresh_key();
    for bad in ["{", r#"{"user_id": 7}"#, "[]"] {
        let call = Call::new(Method::POST, "/orders").header("idempotency-key", &key);
        let answer = client.ask(1, &call.header("content-type", "application/json").bytes(bad)).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let nobody = Call::post_with_key("/orders", &key, order_body(&account, &[(&sku, 1)]));
    let answer = client.ask(2, &nobody.clone().auth(agora_cluster_tests::client::Auth::Nobody)).await;
    answer.expect_problem(401, "UNAUTHENTICATED");
    let answer = settled(&client, 2, &nobody).await;
    answer.expect(201);
    assert!(!answer.replayed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_outlives_the_leader() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "OUTLIVES", 100, 5).await.id;
    let account = create_account(&client, "patient").await;
    let yes = Call::post_with_key("/orders", &fresh_key(), order_body(&account, &[(&sku, 1)]));
    let no = Call::post_with_key("/orders", &fresh_key(), order_body(&account, &[(&sku, 9)]));
    let pay_key = fresh_key();
    let (first_yes, first_no) = (settled(&client, 0, &yes).await, settled(&client, 1, &no).await);
    let order_no = text(&first_yes.expect(201), "order_no");
    first_no.expect_problem(409, "INVENTORY_SHORTAGE");
    let cancel =
        Call::post_with_key(&format!("/orders/{order_no}/cancel"), &pay_key, json!({"reason": "changed mind"}));
    let first_cancel = settled(&client, 2, &cancel).await;
    assert_eq!(first_cancel.expect(200)["status"], "CANCELLED");

    for _ in 0..2 {
        let leader = cluster.wait_ready().await;
        cluster.kill(leader);
        let asked = Instant::now();
        for (turn, (call, first)) in [(&yes, &first_yes), (&no, &first_no), (&cancel, &first_cancel)].iter().enumerate()
        {
            let again = settled(&client, turn, call).await;
            assert_eq!((again.status, &again.body), (first.status, &first.body), "after the death of leader {leader}");
            assert!(again.replayed(), "it took effect again after the death of leader {leader}");
        }
        println!("three keys answered {:?} after the leader's death", asked.elapsed());
        let by_key = Call::get(&format!("/orders/by-idempotency-key/{}", yes.key().expect("a key")));
        let found = agora_cluster_tests::shop::read(&client, cluster.running()[0], &by_key).await;
        assert!(found.to_string().contains(&order_no), "the order is not found by its key: {found}");
        cluster.start_node(leader);
        cluster.wait_ready().await;
    }
    let left = stock(&client, 1, &sku, "linearizable").await;
    assert_eq!((left.on_hand, left.reserved), (5, 0));
    assert_eq!(orders_of(&client, 3, &account).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_retries_has_one_effect_per_key() {
    let cluster = Cluster::start(BINARY, 3, Overrides::none()).await;
    let client = cluster.client();
    let sku = stocked_sku(&client, "STORM", 100, 100_000).await.id;
    let account = create_account(&client, "impatient").await;
    let (next, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let hands: Vec<_> = (0..24)
        .map(|hand| {
            let (client, next, stop) = (client.clone(), Arc::clone(&next), Arc::clone(&stop));
            let (body, altered) = (order_body(&account, &[(&sku, 1)]), order_body(&account, &[(&sku, 2)]));
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let key = fresh_key();
                    let call = Call::post_with_key("/orders", &key, body.clone());
                    // Asked on all nodes at once, the answers of two thrown away unread, by giving up on them too soon.
                    let hasty = call.clone().timeout(Duration::from_millis(1 + turn as u64 % 7));
                    let (one, two) = (turn as u64 % 3 + 1, (turn as u64 + 1) % 3 + 1);
                    let (_, _, settled) = tokio::join!(
                        client.send(one, &hasty),
                        client.send(two, &hasty),
                        client.settle(hand + turn, &call, Duration::from_secs(90))
                    );
                    numbers.push(text(&settled.answer().expect(201), "order_no"));
                    let again = client.settle(turn + 1, &call, Duration::from_secs(90)).await;
                    assert_eq!(again.answer().body, settled.answer().body, "{key} has two answers");
                    if turn % 10 == 0 {
                        let other = Call::post_with_key("/orders", &key, altered.clone());
                        let refused = client.settle(turn, &other, Duration::from_secs(90)).await;
                        refused.answer().expect_problem(422, "IDEMPOTENCY_KEY_REUSED");
                    }
                }
                numbers
            })
        })
        .collect();
    for _ in 0..scaled(3, 20) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = cluster.wait_ready().await;
        cluster.kill(leader);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        cluster.start_node(leader);
    }
    stop.store(true, Ordering::Relaxed);
    let mut numbers = BTreeSet::new();
    for hand in hands {
        for number in hand.await.expect("a hand") {
            assert!(numbers.insert(number.clone()), "order {number} answers two keys");
        }
    }
    let keys = next.load(Ordering::Relaxed);
    println!("{keys} keys while leaders were killed");
    assert!(keys > 200 && numbers.len() == keys, "{} answers to {keys} keys", numbers.len());
    cluster.wait_ready().await;
    for node in 1..=3 {
        let left = stock(&client, node, &sku, "linearizable").await;
        assert_eq!(left.reserved, keys as u64, "keys and effects differ, says node {node}");
    }
    assert_eq!(orders_of(&client, 2, &account).await.len(), keys);
}

/// The definite answer to a write, from wherever it comes.
async fn settled(client: &Client, first: usize, call: &Call) -> Answer {
    let settled = client.settle(first, call, Duration::from_secs(60)).await;
    settled.answer().clone()
}
