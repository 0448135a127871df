//! What a benchmark needs around it: three nodes of its own, and goods and customers to order with.

use std::{
    cell::{Cell, RefCell},
    net::TcpListener,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::LocalSet;

use crate::{
    client::{Answer, Client},
    config::Address,
    demo,
    fleet::{self, Fleet, Place},
    init::{self, Plan, Secrets},
};

/// Nodes a benchmark starts for itself.
const NODES: u16 = 3;
/// Ports come from here. Above lies the range the kernel gives to outgoing connections, of which a benchmark makes many.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Connections that set things up.
const SETUP_CONNECTIONS_MAX: usize = 64;
/// Deadline of one request of the setup, with its repetitions.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);
/// Units one line of a receipt may hold.
const RECEIPT_UNITS_MAX: u64 = 1_000_000;
/// Orders of the setup in one request.
const ORDERS_PER_BATCH: usize = 50;
/// What a customer has to spend, in minor units: more than a long run costs.
const WALLET_MINOR: i64 = 1_000_000_000_000;
/// Lines one receipt may hold.
const RECEIPT_LINES_MAX: usize = 100;

/// Three nodes in a temporary directory, gone when the benchmark is.
pub struct OwnCluster {
    dir: TempDir,
    places: Vec<Place>,
    fleet: Fleet,
    /// Bearer key of the shop.
    pub shop_key: String,
    /// Bearer key of cluster administration.
    pub admin_key: String,
}

impl OwnCluster {
    /// Starts the nodes and waits until they agree.
    pub async fn start() -> anyhow::Result<OwnCluster> {
        let dir =
            tempfile::Builder::new().prefix("agora-bench-").tempdir().context("cannot make a temporary directory")?;
        let mut plan = Plan::new(NODES);
        plan.cluster = "bench".to_owned();
        plan.http_port = free_ports(2 * NODES)?;
        plan.peer_port = plan.http_port + NODES;
        plan.header = "One node of a benchmark.".to_owned();
        plan.changed = vec![("log", "format", "text".into()), ("log", "level", "warn".into())];
        init::write_files(dir.path(), &plan.drafts(&Secrets::fresh()?)?)?;
        let (places, config) = fleet::places(dir.path(), NODES)?;
        let mut fleet = Fleet::start(&places)?;
        if let Err(error) = fleet.ready(&places).await {
            fleet.stop().await;
            return Err(error);
        }
        let (shop_key, admin_key) = (config.shop_key.reveal().to_owned(), config.admin_key.reveal().to_owned());
        Ok(OwnCluster { dir, places, fleet, shop_key, admin_key })
    }

    /// HTTP addresses of the nodes.
    pub fn endpoints(&self) -> Vec<Address> {
        self.places.iter().map(|place| place.http.clone()).collect()
    }

    /// Process ids of the nodes, in the order of their addresses.
    pub fn pids(&self) -> Vec<u32> {
        self.fleet.pids().into_iter().map(|(_, pid)| pid).collect()
    }

    /// Resolves when a node ends, which none should.
    pub async fn broken(&mut self) -> String {
        let exited = self.fleet.next_exit().await;
        let log = self.places.iter().find(|place| place.id == exited.id).map(|place| fleet::tail(&place.log));
        format!("node {} ended ({}){}", exited.id, exited.status, log.unwrap_or_default())
    }

    /// Stops the nodes and removes what they wrote.
    pub async fn stop(self) {
        self.fleet.stop().await;
        if let Err(error) = self.dir.close() {
            eprintln!("agora: cannot remove the temporary directory: {error}");
        }
    }
}

/// The first of that many free ports in a row.
fn free_ports(count: u16) -> anyhow::Result<u16> {
    let mut random = [0_u8; 2];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    let span = PORTS.end - PORTS.start - count;
    let start = u16::from_le_bytes(random) % span;
    let step = usize::from(count);
    let bases = (0..span).step_by(step).map(|at| PORTS.start + (start + at) % span);
    let is_free = |base: &u16| (*base..*base + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    bases
        .into_iter()
        .find(is_free)
        .with_context(|| format!("no {count} free ports in a row from {} to {}", PORTS.start, PORTS.end))
}

/// Goods and customers.
#[derive(Default)]
pub struct Goods {
    /// SKU ids; the first one is the hot one.
    pub skus: Vec<String>,
    /// Account ids.
    pub accounts: Vec<String>,
    /// Numbers of orders that were placed beforehand.
    pub orders: Vec<String>,
}

/// What to make.
pub struct Wish {
    /// How many SKUs.
    pub skus: usize,
    /// Units of each.
    pub units: u64,
    /// Units of the first one.
    pub units_hot: u64,
    /// How many accounts.
    pub accounts: usize,
    /// Whether they have money.
    pub wallets: bool,
    /// How many orders are placed, so that there is something to read.
    pub orders: usize,
    /// Beginning of codes and keys, new for every run.
    pub run: String,
}

/// Makes goods and customers over many connections at once.
pub async fn set_up(endpoints: &[Address], shop_key: &str, wish: &Wish) -> anyhow::Result<Goods> {
    let run = &wish.run;
    let skus = (0..wish.skus).map(|number| {
        let price = json!({"amount": 1_000 + number % 1_000, "currency": "CNY"});
        let body =
            json!({"sku_code": format!("{run}-{number:05}"), "name": format!("Benchmark {number}"), "price": price});
        Task { path: "/api/v2/skus".to_owned(), key: format!("{run}-sku-{number}"), body }
    });
    let skus = ids(run_all(endpoints, shop_key, skus.collect()).await?)?;
    let accounts = (0..wish.accounts).map(|number| {
        let body = json!({"name": format!("Customer {number}"), "kind": "customer"});
        Task { path: "/api/v2/accounts".to_owned(), key: format!("{run}-account-{number}"), body }
    });
    let accounts = ids(run_all(endpoints, shop_key, accounts.collect()).await?)?;
    run_all(endpoints, shop_key, receipts(&skus, wish)).await?;
    if wish.wallets {
        let fund = |(number, account): (usize, &String)| Task {
            path: format!("/api/v2/wallets/{account}/adjust"),
            key: format!("{run}-wallet-{number}"),
            body: json!({"amount": {"amount": WALLET_MINOR, "currency": "CNY"}, "reason": "benchmark"}),
        };
        run_all(endpoints, shop_key, accounts.iter().enumerate().map(fund).collect()).await?;
    }
    let batches = orders(&skus, &accounts, wish);
    let mut numbers = Vec::with_capacity(wish.orders);
    for answer in run_all(endpoints, shop_key, batches).await? {
        let results = answer.body["results"].as_array().context("an answer without results")?;
        numbers.extend(results.iter().filter_map(|result| result["order"]["order_no"].as_str()).map(str::to_owned));
    }
    ensure!(numbers.len() == wish.orders, "setup: {} of {} orders were placed", numbers.len(), wish.orders);
    Ok(Goods { skus, accounts, orders: numbers })
}

/// Orders of one unit each, spread over all SKUs and customers, many per request.
fn orders(skus: &[String], accounts: &[String], wish: &Wish) -> Vec<Task> {
    let order = |number: usize| {
        let item = json!({"sku_id": skus[number % skus.len()], "quantity": 1});
        json!({"user_id": accounts[number % accounts.len()], "items": [item]})
    };
    let batch = |first: usize| {
        let last = (first + ORDERS_PER_BATCH).min(wish.orders);
        Task {
            path: "/api/v2/orders/batch".to_owned(),
            key: format!("{}-placed-{first}", wish.run),
            body: json!({"orders": (first..last).map(order).collect::<Vec<_>>()}),
        }
    };
    (0..wish.orders).step_by(ORDERS_PER_BATCH).map(batch).collect()
}

/// Receipts that bring every SKU to its units.
fn receipts(skus: &[String], wish: &Wish) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut left: Vec<u64> = vec![wish.units; skus.len()];
    if let Some(hot) = left.first_mut() {
        *hot = wish.units_hot;
    }
    while left.iter().any(|units| *units > 0) {
        let open: Vec<usize> = (0..left.len()).filter(|at| left[*at] > 0).collect();
        for part in open.chunks(RECEIPT_LINES_MAX) {
            let mut lines = Vec::new();
            for at in part {
                let units = left[*at].min(RECEIPT_UNITS_MAX);
                left[*at] -= units;
                lines.push(json!({"sku_id": skus[*at], "quantity": units}));
            }
            let key = format!("{}-receipt-{}", wish.run, tasks.len());
            tasks.push(Task {
                path: "/api/v2/stock/receive".to_owned(),
                key,
                body: json!({"lines": lines, "reason": "benchmark"}),
            });
        }
    }
    tasks
}

fn ids(answers: Vec<Answer>) -> anyhow::Result<Vec<String>> {
    answers.iter().map(demo::id_of).collect()
}

/// One write of the setup.
struct Task {
    path: String,
    key: String,
    body: serde_json::Value,
}

/// Does all tasks; the answers are in their order.
async fn run_all(endpoints: &[Address], shop_key: &str, tasks: Vec<Task>) -> anyhow::Result<Vec<Answer>> {
    let count = tasks.len();
    let tasks = Rc::new(tasks);
    let next = Rc::new(Cell::new(0_usize));
    let answers = Rc::new(RefCell::new(vec![None; count]));
    let failed: Rc<RefCell<Option<anyhow::Error>>> = Rc::default();
    let set = LocalSet::new();
    for number in 0..SETUP_CONNECTIONS_MAX.min(count) {
        let mut order = endpoints.to_vec();
        order.rotate_left(number % endpoints.len());
        let client = Client::new(order, Some(shop_key), SETUP_TIMEOUT)?;
        let (tasks, next, answers, failed) =
            (Rc::clone(&tasks), Rc::clone(&next), Rc::clone(&answers), Rc::clone(&failed));
        set.spawn_local(async move {
            while failed.borrow().is_none() {
                let at = next.replace(next.get() + 1);
                let Some(task) = tasks.get(at) else { return };
                match client.post(&task.path, &task.key, &task.body).await {
                    Ok(answer) => answers.borrow_mut()[at] = Some(answer),
                    Err(error) => *failed.borrow_mut() = Some(error.context(format!("setup: POST {}", task.path))),
                }
            }
        });
    }
    set.await;
    if let Some(error) = failed.take() {
        return Err(error);
    }
    let answers: Vec<Answer> = answers.take().into_iter().flatten().collect();
    ensure!(answers.len() == count, "setup: {} answers to {count} requests", answers.len());
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish { skus: 1, units: 1, units_hot: 1, accounts: 1, wallets: false, orders: 0, run: "r".to_owned() }
    }

    #[test]
    fn orders_of_the_setup_are_as_many_as_wished() {
        let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        for count in [0, 1, 50, 51, 120] {
            let tasks = orders(&names(7), &names(3), &Wish { orders: count, ..wish() });
            let placed: Vec<usize> = tasks.iter().map(|task| task.body["orders"].as_array().unwrap().len()).collect();
            assert_eq!(placed.iter().sum::<usize>(), count);
            assert!(placed.iter().all(|orders| (1..=ORDERS_PER_BATCH).contains(orders)));
        }
    }

    #[test]
    fn receipts_bring_every_sku_to_its_units_within_the_bounds() {
        let skus: Vec<String> = (0..250).map(|number| format!("s{number}")).collect();
        let wish = Wish { skus: 250, units: 1_500_000, units_hot: 3_000_000, ..wish() };
        let mut sums = std::collections::BTreeMap::<String, u64>::new();
        for task in receipts(&skus, &wish) {
            let lines = task.body["lines"].as_array().unwrap();
            assert!(!lines.is_empty() && lines.len() <= RECEIPT_LINES_MAX);
            for line in lines {
                let units = line["quantity"].as_u64().unwrap();
                assert!((1..=RECEIPT_UNITS_MAX).contains(&units));
                *sums.entry(line["sku_id"].as_str().unwrap().to_owned()).or_default() += units;
            }
        }
        assert_eq!(sums.len(), 250);
        assert!(sums.iter().all(|(sku, units)| *units == if sku == "s0" { 3_000_000 } else { 1_500_000 }));
    }

    #[test]
    fn free_ports_are_in_range_and_free() {
        let base = free_ports(6).unwrap();
        assert!(PORTS.contains(&base) && PORTS.contains(&(base + 5)));
    }
}
