//! The loads against one node in this process, its disk in memory: every kind of request is understood, and every load
//! leaves something to check.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agora_actors::{RaftConfig, Shop, ShopConfig, World};
use agora_api::{ApiConfig, ApiState};
use agora_history::{Answer, Basket, Call, Item, Level, NodeId, Op, Reply, RunData, RunDir};
use agora_raft::{Boot, Member};
use agora_scenario::{
    client::{Client, Patience},
    cluster::{Act, BoxFuture, Cluster, HttpRequest, HttpResponse, SendError},
    recorder::Recorder,
    rng::Rng,
    runner::{Failed, Plan, run},
    schedule::{Calm, Context, Nemesis},
    workloads::{Kind, Load},
};
use agora_storage::MemDisk;
use axum::{Router, body::Body};
use http_body_util::BodyExt;
use tower::ServiceExt;

const SHOP_KEY: &str = "shop-key-of-the-tests";
const ADMIN_KEY: &str = "admin-key-of-the-tests";

/// One node that cannot be attacked, but whose answers can be lost.
struct OneNode {
    router: Router,
    born: Instant,
}

impl OneNode {
    async fn start() -> Arc<OneNode> {
        let raft = RaftConfig { node_id: 1, cluster: "test".to_owned(), checkpoint_ms: 200, ..RaftConfig::default() };
        let me = Member { id: 1, peer_addr: "127.0.0.1:0".to_owned(), http_addr: "127.0.0.1:0".to_owned() };
        let boot = Boot::Create { lineage: 7, members: vec![me] };
        let world = World::real(Arc::new(MemDisk::new()));
        let config = ShopConfig { order_ttl_ms: 250, ..ShopConfig::default() };
        let shop = Shop::start(world, raft, boot, config).await.unwrap();
        let config =
            ApiConfig { shop_key: SHOP_KEY.to_owned(), admin_key: ADMIN_KEY.to_owned(), ..ApiConfig::default() };
        Arc::new(OneNode { router: agora_api::router(ApiState::new(shop, config)), born: Instant::now() })
    }
}

async fn exchange(router: Router, request: HttpRequest) -> HttpResponse {
    let mut builder = http::Request::builder().method(request.method).uri(request.path);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if !request.body.is_empty() {
        builder = builder.header("content-length", request.body.len());
    }
    let (parts, body) = router.oneshot(builder.body(Body::from(request.body)).unwrap()).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    HttpResponse { status: parts.status.as_u16(), headers: headers.collect(), body }
}

impl Cluster for OneNode {
    fn harness(&self) -> &'static str {
        "test"
    }

    fn nodes(&self) -> Vec<NodeId> {
        vec![1]
    }

    fn is_up(&self, _node: NodeId) -> bool {
        true
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap()
    }

    fn send(
        &self,
        _node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<HttpResponse, SendError>> {
        Box::pin(async move {
            let answer = tokio::time::timeout(deadline, exchange(self.router.clone(), request)).await;
            answer.map_err(|_| SendError::TimedOut)
        })
    }

    fn addresses(&self, _node: NodeId) -> (String, String) {
        ("127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned())
    }

    fn keys(&self) -> (String, String) {
        (SHOP_KEY.to_owned(), ADMIN_KEY.to_owned())
    }

    fn supports(&self, _act: &Act) -> bool {
        false
    }

    fn act(&self, act: Act) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { Err(format!("{act:?} cannot be done here")) })
    }

    fn evidence(&self) -> String {
        String::new()
    }
}

/// A run of these loads without faults, until each has done its number of operations.
async fn calm(loads: &[Load]) -> RunData {
    let cluster = OneNode::start().await;
    let mut plan = Plan::new("calm", 7, Arc::new(Calm), Duration::from_secs(120));
    plan.loads = loads.to_vec();
    plan.warm_up = Duration::ZERO;
    plan.catalogue.hot_units = 40;
    plan.catalogue.bulk = u32::from(loads.iter().any(|load| load.kind == Kind::Bulk)) * 3;
    run(cluster, &plan).await.unwrap_or_else(|failed| panic!("{failed}"))
}

/// How often each kind of request ended in which way.
fn counts(calls: &[Call]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for call in calls {
        let request = format!("{:?}", call.request);
        let kind = request.split(['(', ' ']).next().unwrap_or_default().to_owned();
        let ending = match &call.reply {
            Reply::Yes { .. } => "yes".to_owned(),
            Reply::Refused { refusal, .. } => refusal.code.clone(),
            Reply::NotDone { code, .. } => code.clone(),
            Reply::Unknown { why, .. } => why.clone(),
        };
        *counts.entry(format!("{kind}: {ending}")).or_default() += 1;
    }
    counts
}

#[track_caller]
fn expect(data: &RunData, wanted: &[(&str, u32)]) {
    let counts = counts(&data.calls);
    for (what, least) in wanted {
        let count = counts.get(*what).copied().unwrap_or(0);
        assert!(count >= *least, "{what}: {count}, wanted {least}; all: {counts:#?}");
    }
}

/// What holds for every run: all was answered, the feed names every effect, what is left adds up, and no checker finds
/// fault with it.
#[track_caller]
fn sound(data: &RunData) {
    for checker in agora_checkers::all() {
        let checked = checker(data);
        // Without faults there is nothing to cover.
        assert!(checked.findings.is_empty() || checked.checker == "C11", "{checked:#?}");
        assert_eq!(checked.undecided, 0, "{checked:#?}");
    }
    for call in &data.calls {
        let is_dropped = matches!(&call.reply, Reply::Unknown { why, .. } if why == "the client threw the answer away");
        assert!(is_dropped || !matches!(call.reply, Reply::Unknown { .. }), "{call:?}");
        assert_eq!(call.key.is_some(), call.request.is_write(), "{call:?}");
        assert!(call.invoked <= call.returned, "{call:?}");
        if matches!(call.reply, Reply::Yes { .. } | Reply::Refused { .. }) {
            assert!(call.index.is_some() && call.body_hash.is_some(), "{call:?}");
        }
    }
    let finals = &data.finals.nodes[&1];
    assert!(finals.index >= finals.digest_index && finals.digest_index > 0, "{finals:?}");
    assert_eq!(finals.digest.len(), 32);
    assert_eq!(finals.chain_head.len(), 64);
    assert_eq!(finals.debits, finals.credits);
    assert!(finals.debits > 0);
    assert_eq!(finals.skus.len(), finals.stocks.len());
    assert!(data.finals.first_write_after_heal.is_some());
    let told: std::collections::BTreeSet<&str> = data.feeds[&1].iter().map(|event| event.trace_id.as_str()).collect();
    for call in &data.calls {
        let has_effect = match &call.reply {
            Reply::Yes { answer: Answer::Order(order), .. } => !order.no_change,
            Reply::Yes { answer: Answer::Orders(items), .. } => items.iter().any(|item| matches!(item, Item::Order(_))),
            // A price set to what it is changes nothing.
            Reply::Yes { answer: Answer::Sku(sku), .. } => {
                !matches!(call.request, Op::ChangeSku { expected_version, .. } if expected_version == sku.version)
            }
            Reply::Yes { .. } => true,
            _ => false,
        };
        // A replayed answer was caused by the attempt before it, which has the same trace.
        if has_effect && call.request.is_write() {
            assert!(told.contains(call.trace.as_str()), "{call:?}");
        }
    }
}

const QUICK: Duration = Duration::from_millis(4);

#[tokio::test]
async fn every_request_and_every_refusal_is_understood() {
    let cluster = OneNode::start().await;
    let recorder = Arc::new(Recorder::new(3));
    let mut client = Client::new(1, cluster, recorder.clone(), &Rng::new(3), Patience::default());
    let sku = |reply: Reply| match reply {
        Reply::Yes { answer: Answer::Sku(sku), .. } => sku,
        other => panic!("{other:?}"),
    };
    let stocks = |reply: Reply| match reply {
        Reply::Yes { answer: Answer::Stocks(stocks), .. } => stocks,
        other => panic!("{other:?}"),
    };
    let account = |reply: Reply| match reply {
        Reply::Yes { answer: Answer::Account(account), .. } => account,
        other => panic!("{other:?}"),
    };
    let order = |reply: Reply| match reply {
        Reply::Yes { answer: Answer::Order(order), .. } => order,
        other => panic!("{other:?}"),
    };
    let refusal = |reply: Reply| match reply {
        Reply::Refused { status, refusal } => (status, refusal),
        other => panic!("{other:?}"),
    };

    let tea = sku(client.write(Op::CreateSku { code: "tea".to_owned(), price: 400, sellable: true }).await);
    assert_eq!((tea.code.as_str(), tea.price, tea.sellable, tea.version), ("tea", 400, true, 1));
    let (status, taken) =
        refusal(client.write(Op::CreateSku { code: "tea".to_owned(), price: 1, sellable: true }).await);
    assert_eq!((status, taken.code.as_str()), (409, "DUPLICATE_EXTERNAL_ID"));
    let pot = sku(client.write(Op::CreateSku { code: "pot".to_owned(), price: 900, sellable: false }).await);
    let change = |version, price| Op::ChangeSku {
        sku: tea.id.clone(),
        expected_version: version,
        price: Some(price),
        sellable: None,
    };
    assert_eq!(sku(client.write(change(1, 500)).await).version, 2);
    let (status, stale) = refusal(client.write(change(1, 600)).await);
    assert_eq!((status, stale.versions), (412, Some((1, 2))));

    let lines = vec![(tea.id.clone(), 5), (pot.id.clone(), 2), (tea.id.clone(), 1)];
    let both = stocks(client.write(Op::Receive { lines }).await);
    assert_eq!(both.iter().map(|stock| stock.available).collect::<Vec<_>>(), [6, 2]);
    let one = stocks(client.write(Op::Receive { lines: vec![(tea.id.clone(), 4)] }).await);
    assert_eq!((one.len(), one[0].on_hand), (1, 10));
    let less = stocks(client.write(Op::AdjustStock { sku: tea.id.clone(), delta: -3 }).await);
    assert_eq!((less[0].on_hand, less[0].reserved, less[0].available), (7, 0, 7));

    let ada = account(client.write(Op::CreateAccount { name: "Ada".to_owned() }).await);
    assert_eq!((ada.balance, ada.held, ada.version), (0, 0, 1));
    let rich = account(client.write(Op::AdjustWallet { account: ada.id.clone(), amount: 2_100 }).await);
    assert_eq!((rich.id.as_str(), rich.balance, rich.held), (ada.id.as_str(), 2_100, 0));
    let (_, broke) = refusal(client.write(Op::AdjustWallet { account: ada.id.clone(), amount: -2_101 }).await);
    assert_eq!((broke.code.as_str(), broke.money), ("INSUFFICIENT_BALANCE", Some((2_101, 2_100))));

    let basket = |items: &[(&String, u32)], hold| Basket {
        account: ada.id.clone(),
        items: items.iter().map(|(sku, quantity)| ((*sku).clone(), *quantity)).collect(),
        hold,
    };
    let held = order(client.write(Op::Place(basket(&[(&tea.id, 1), (&tea.id, 2)], true))).await);
    let place_key = client.last_key().unwrap().to_owned();
    assert_eq!((held.status.as_str(), held.total, held.version), ("CREATED", 1_500, 1));
    assert_eq!(held.lines.len(), 1);
    assert_eq!((held.lines[0].quantity, held.lines[0].unit_price), (3, 500));
    let (status, short) = refusal(client.write(Op::Place(basket(&[(&tea.id, 5)], false))).await);
    assert_eq!((status, short.code.as_str()), (409, "INVENTORY_SHORTAGE"));
    assert_eq!((short.shortages[0].requested, short.shortages[0].available), (5, 4));
    let (_, unsold) = refusal(client.write(Op::Place(basket(&[(&pot.id, 1)], false))).await);
    assert_eq!(unsold.code, "SKU_NOT_SELLABLE");
    let (status, nobody) = refusal(
        client
            .write(Op::Place(Basket {
                account: "acc_00000000000000000000000001".to_owned(),
                ..basket(&[(&tea.id, 1)], false)
            }))
            .await,
    );
    assert_eq!((status, nobody.code.as_str()), (404, "NOT_FOUND"));
    let baskets = vec![basket(&[(&tea.id, 1)], false), basket(&[(&tea.id, 9)], false)];
    match client.write(Op::PlaceBatch(baskets)).await {
        Reply::Yes { answer: Answer::Orders(items), .. } => {
            assert!(matches!(&items[0], Item::Order(order) if order.total == 500), "{items:?}");
            assert!(matches!(&items[1], Item::Refused(no) if no.shortages[0].requested == 9), "{items:?}");
        }
        other => panic!("{other:?}"),
    }
    let baskets = vec![basket(&[(&tea.id, 3)], false), basket(&[(&tea.id, 1)], false)];
    match client.write(Op::PlaceBatch(baskets)).await {
        Reply::Yes { answer: Answer::Orders(items), .. } => {
            assert!(matches!(&items[1], Item::Refused(no) if no.shortages[0].available == 0), "{items:?}");
        }
        other => panic!("{other:?}"),
    }

    let id = held.id.clone();
    let (_, early) = refusal(client.write(Op::Ship { order: id.clone() }).await);
    assert_eq!(early.transition, Some(("CREATED".to_owned(), "SHIPPED".to_owned())));
    assert_eq!(order(client.write(Op::Pay { order: id.clone() }).await).status, "PAID");
    assert!(order(client.write(Op::Pay { order: id.clone() }).await).no_change);
    assert_eq!(order(client.write(Op::Ship { order: id.clone() }).await).version, 3);
    let done = order(client.write(Op::Confirm { order: id.clone() }).await);
    assert_eq!(
        done.steps.iter().map(|step| step.0.as_str()).collect::<Vec<_>>(),
        ["CREATED", "PAID", "SHIPPED", "COMPLETED"]
    );
    let (_, late) = refusal(client.write(Op::Cancel { order: id.clone() }).await);
    assert_eq!(late.code, "INVALID_TRANSITION");

    assert_eq!(sku(client.read_surely(Op::ReadSku { sku: tea.id.clone() }).await).price, 500);
    let stock = stocks(client.read_surely(Op::ReadStock { sku: tea.id.clone() }).await);
    assert_eq!((stock[0].on_hand, stock[0].reserved), (4, 4));
    assert_eq!(order(client.read_surely(Op::ReadOrder { order: id }).await).status, "COMPLETED");
    assert_eq!(account(client.read_surely(Op::ReadWallet { account: ada.id.clone() }).await).balance, 600);
    assert_eq!(order(client.read_surely(Op::ReadKey { key: place_key }).await).id, done.id);
    match client.read_surely(Op::ReadLedger).await {
        Reply::Yes { answer: Answer::Ledger { debits, credits }, .. } => assert!(debits == credits && debits > 0),
        other => panic!("{other:?}"),
    }
    match client.read_surely(Op::ReadFeed { after: 0, limit: 5 }).await {
        Reply::Yes { answer: Answer::Feed(page), .. } => {
            assert!(page.places.len() >= 5 && page.next_after < page.head_index, "{page:?}");
        }
        other => panic!("{other:?}"),
    }
    let local = client.read(Op::ReadSku { sku: tea.id.clone() }, Level::Local, Some(client.seen()), 1).await;
    assert!(matches!(local.reply, Reply::Yes { .. }) && local.index.unwrap() >= client.seen(), "{local:?}");
    let never = client.read(Op::ReadSku { sku: "sku_00000000000000000000000001".to_owned() }, Level::Leader, None, 1);
    assert!(matches!(never.await.reply, Reply::NotDone { status: 404, .. }));
    let (calls, faults) = recorder.take().unwrap();
    assert!(calls.len() > 30 && faults.is_empty());
}

#[tokio::test]
async fn a_rush_sells_out_and_gives_back() {
    let data = calm(&[Load::new(Kind::Rush, 12, QUICK).at_most(1_500)]).await;
    sound(&data);
    expect(
        &data,
        &[
            ("Place: yes", 50),
            ("Place: INVENTORY_SHORTAGE", 20),
            ("Pay: yes", 10),
            ("Cancel: yes", 20),
            ("Receive: yes", 1),
        ],
    );
    let expired = data.feeds[&1].iter().filter(|event| event.data["cause"] == "EXPIRED").count();
    assert!(expired > 0, "nothing expired");
}

#[tokio::test]
async fn carts_are_granted_and_refused_whole() {
    let data = calm(&[Load::new(Kind::Carts, 8, QUICK).at_most(1_500)]).await;
    sound(&data);
    expect(
        &data,
        &[
            ("Place: yes", 50),
            ("Place: INVENTORY_SHORTAGE", 5),
            ("Place: NOT_FOUND", 1),
            ("PlaceBatch: yes", 20),
            ("Pay: yes", 10),
            ("Ship: yes", 2),
            ("Cancel: yes", 5),
        ],
    );
}

#[tokio::test]
async fn payments_are_held_captured_refunded_and_refused() {
    let data = calm(&[Load::new(Kind::Payments, 8, QUICK).at_most(1_500)]).await;
    sound(&data);
    expect(
        &data,
        &[
            ("Pay: yes", 30),
            ("Pay: INVALID_TRANSITION", 1),
            ("Place: INSUFFICIENT_BALANCE", 1),
            ("Pay: INSUFFICIENT_BALANCE", 1),
            ("AdjustWallet: yes", 30),
            ("AdjustWallet: INSUFFICIENT_BALANCE", 3),
            ("Cancel: yes", 20),
            ("CreateAccount: yes", 3),
        ],
    );
    let told = |kind: &str| data.feeds[&1].iter().filter(|event| event.kind == kind).count();
    for kind in ["held", "released", "captured", "paid", "refunded", "adjusted"] {
        assert!(told(&format!("wallet.balance.{kind}")) > 0, "no money was {kind}");
    }
}

#[tokio::test]
async fn a_storm_throws_answers_away_and_hears_the_same_again() {
    let data = calm(&[Load::new(Kind::Storm, 8, QUICK).at_most(1_500)]).await;
    sound(&data);
    let dropped = "the client threw the answer away";
    expect(
        &data,
        &[
            (&format!("Place: {dropped}"), 30),
            ("Place: IDEMPOTENCY_KEY_REUSED", 2),
            ("AdjustWallet: IDEMPOTENCY_KEY_REUSED", 1),
        ],
    );
    let replayed = data.calls.iter().filter(|call| call.replayed).count();
    assert!(replayed > 50, "{replayed}");
    let mut hashes: BTreeMap<u64, u64> = BTreeMap::new();
    let mut compared = 0;
    for call in data.calls.iter().filter(|call| call.request.is_write()) {
        let Some(hash) = call.body_hash else { continue };
        compared += u32::from(hashes.contains_key(&call.op));
        assert_eq!(*hashes.entry(call.op).or_insert(hash), hash, "{call:?}");
    }
    assert!(compared > 20, "{compared}");
}

#[tokio::test]
async fn goods_come_and_prices_change_while_selling() {
    let data = calm(&[Load::new(Kind::Receiving, 8, QUICK).at_most(1_500)]).await;
    sound(&data);
    expect(
        &data,
        &[
            ("Receive: yes", 30),
            ("Receive: NOT_FOUND", 1),
            ("AdjustStock: yes", 30),
            ("AdjustStock: INVENTORY_SHORTAGE", 1),
            ("ChangeSku: yes", 20),
            ("ChangeSku: VERSION_MISMATCH", 3),
            ("CreateSku: yes", 15),
            ("CreateSku: DUPLICATE_EXTERNAL_ID", 1),
            ("Place: SKU_NOT_SELLABLE", 1),
        ],
    );
}

#[tokio::test]
async fn feed_and_reads_see_what_others_do() {
    let loads = [
        Load::new(Kind::Feed, 4, QUICK).at_most(400),
        Load::new(Kind::Reads, 8, QUICK).at_most(1_200),
        Load::new(Kind::Carts, 2, QUICK).at_most(400),
        Load::new(Kind::Operators, 1, QUICK).at_most(12),
    ];
    let data = calm(&loads).await;
    sound(&data);
    expect(
        &data,
        &[
            ("ReadFeed: yes", 100),
            ("ReadStock: yes", 100),
            ("ReadSku: yes", 50),
            ("ReadOrder: yes", 50),
            ("ReadWallet: yes", 50),
            ("ReadKey: yes", 20),
            ("ReadLedger", 0),
        ],
    );
    for level in [Level::Linearizable, Level::Leader, Level::Bounded, Level::Local] {
        let with_index = data.calls.iter().filter(|call| call.level == Some(level) && call.min_index.is_some());
        assert!(with_index.count() > 10, "{level:?}");
    }
    let events = data.calls.iter().filter_map(|call| match &call.reply {
        Reply::Yes { answer: Answer::Feed(page), .. } => Some(page.places.len()),
        _ => None,
    });
    assert!(events.sum::<usize>() > 200);
    assert!(data.run.settings.contains_key("operators: snapshot"), "{:?}", data.run.settings);
}

#[tokio::test]
async fn bulk_acknowledges_many_orders_and_ends_with_its_budget() {
    let data = calm(&[Load::new(Kind::Bulk, 4, Duration::ZERO).at_most(40)]).await;
    sound(&data);
    let placed: usize = data
        .calls
        .iter()
        .filter_map(|call| match &call.reply {
            Reply::Yes { answer: Answer::Orders(items), .. } => Some(items.len()),
            _ => None,
        })
        .sum();
    let batches = data.calls.iter().filter(|call| matches!(call.request, Op::PlaceBatch(_))).count();
    assert!((40..=44).contains(&batches) && placed >= 40 * 50, "{batches} batches, {placed} orders");
    assert_eq!(data.finals.nodes[&1].orders.len(), placed);
}

/// Does nothing but say that it did something.
struct Pretends;

impl Nemesis for Pretends {
    fn name(&self) -> String {
        "N0".to_owned()
    }

    fn run<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            assert!(context.wait_for_load().await);
            let targets = context.targets(&[1]).await;
            let fault = context.begin_fault("N0", "nothing", targets, "");
            context.pause(Duration::from_millis(100)).await;
            context.end_fault(fault);
            context.begin_fault("N0", "never healed", context.targets(&[1]).await, "");
            Err("it could not be done".to_owned())
        })
    }
}

#[tokio::test]
async fn a_fault_that_did_not_happen_fails_the_run_and_what_was_seen_is_kept() {
    let cluster = OneNode::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut plan =
        Plan::new("pretence", 9, Arc::new(Pretends), Duration::from_secs(5)).load(Load::new(Kind::Rush, 4, QUICK));
    plan.stream = Some(directory.path().join("history.jsonl"));
    let failed = run(cluster, &plan).await.unwrap_err();
    assert_eq!((failed.phase, failed.why.as_str()), ("attack", "it could not be done"));
    let data = failed.data;
    assert!(data.calls.len() > 50);
    assert_eq!(data.faults.len(), 2);
    assert_eq!(data.faults[0].targets[0].role, agora_history::Role::Leader);
    assert!(data.faults.iter().all(|fault| fault.until.is_some_and(|until| until >= fault.from)));
    let text = std::fs::read_to_string(directory.path().join("history.jsonl")).unwrap();
    assert!(text.lines().count() > data.calls.len(), "the history was not written while it happened");
    let kept = RunDir::new(directory.path().join("kept"));
    kept.write(&data).unwrap();
    assert_eq!(kept.read().unwrap().calls, data.calls);
}

/// One node that says it is two; of the second, one answer is another one than the first's, and all later ones are right.
struct TwoFaces {
    node: Arc<OneNode>,
    /// The path of what is answered wrongly, and how often that is still to be.
    lie: (&'static str, AtomicU64),
}

impl TwoFaces {
    async fn run(lie: &'static str, times: u64) -> Result<RunData, Box<Failed>> {
        let cluster = TwoFaces { node: OneNode::start().await, lie: (lie, AtomicU64::new(times)) };
        let mut plan = Plan::new("two faces", 5, Arc::new(Calm), Duration::from_secs(120));
        plan.loads = vec![Load { ops_max: 5, ..Load::new(Kind::Rush, 2, QUICK) }];
        plan.warm_up = Duration::ZERO;
        run(Arc::new(cluster), &plan).await
    }

    fn answer(&self, node: NodeId, path: &str, mut response: HttpResponse) -> HttpResponse {
        let Ok(mut body) = serde_json::from_slice::<serde_json::Value>(&response.body) else { return response };
        let is_status = path.ends_with("/cluster/status");
        if is_status {
            body["node"] = node.into();
            if let Some(members) = body["members"].as_array_mut()
                && let Some(mut second) = members.first().cloned()
            {
                second["id"] = 2.into();
                members.push(second);
            }
        }
        let tells = |left: u64| left.checked_sub(1);
        let is_asked =
            node == 2 && path.contains(self.lie.0) && (!is_status || body["members"][1]["checkpoint"].is_object());
        if is_asked && self.lie.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, tells).is_ok() {
            for member in body["members"].as_array_mut().into_iter().flatten() {
                member["checkpoint"]["digest"] = "00".into();
            }
            if body["id"].is_string() {
                body["id"] = "ord_of_another".into();
            }
            if let Some(listed) = body["data"].as_array_mut() {
                listed.pop();
            }
        }
        response.body = body.to_string().into();
        response
    }
}

impl Cluster for TwoFaces {
    fn harness(&self) -> &'static str {
        "test"
    }

    fn nodes(&self) -> Vec<NodeId> {
        vec![1, 2]
    }

    fn is_up(&self, _node: NodeId) -> bool {
        true
    }

    fn now(&self) -> u64 {
        self.node.now()
    }

    fn send(
        &self,
        node: NodeId,
        request: HttpRequest,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<HttpResponse, SendError>> {
        Box::pin(async move {
            let path = request.path.clone();
            Ok(self.answer(node, &path, self.node.send(node, request, deadline).await?))
        })
    }

    fn addresses(&self, node: NodeId) -> (String, String) {
        self.node.addresses(node)
    }

    fn keys(&self) -> (String, String) {
        self.node.keys()
    }

    fn supports(&self, _act: &Act) -> bool {
        false
    }

    fn act(&self, act: Act) -> BoxFuture<'_, Result<(), String>> {
        self.node.act(act)
    }

    fn evidence(&self) -> String {
        String::new()
    }
}

#[tokio::test]
async fn what_two_nodes_say_differently_of_one_index_is_found_even_if_they_agree_a_moment_later() {
    // Otherwise they are alike.
    TwoFaces::run("nothing", 1).await.unwrap_or_else(|failed| panic!("{failed}"));
    for (path, times, what) in [
        ("/orders/by-idempotency-key/", 1, "ord_of_another under key"),
        ("/orders?status=CREATED", 1, "others or so are listed"),
        // It is asked for all the time, and compared in the end.
        ("/cluster/status", 1_000_000, "has digest"),
    ] {
        let failed = TwoFaces::run(path, times).await.expect_err(path);
        assert_eq!(failed.phase, "contradiction", "{failed}");
        assert!(failed.why.contains(what), "{path}: {failed}");
    }
}
