//! The bench of real processes does what it says: nothing outlives it, power that goes takes exactly what was not synced,
//! links are as bad as they were made, clocks as wrong.
//!
//! It needs root and is run with `AGORA_ROOT=1` (which `.ci/run` sets); without, it says so and nothing else. It is its
//! own `main`, because it has to run itself again inside namespaces before anything else. The node is `agora` (or
//! `agora-test-node`) beside it in the target directory, or `AGORA_NODE`.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use agora_process::{Inside, NodeProgram, Processes, Settings, enter, volume::Volume};
use agora_scenario::{
    admin::Admin,
    cluster::{Act, Cluster, Damage, DiskFault, HttpRequest, HttpResponse, Link, Part, SendError, Syscall},
};
use bytes::Bytes;
use std::sync::Arc;

/// Word that has this program hold a cluster until it is killed.
const HOLD: &str = "hold-a-cluster";
const LEADER_MAX: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if env::var("AGORA_ROOT").as_deref() != Ok("1") {
        println!(
            "real machines: not run. They need root: sudo -E env \"PATH=$PATH\" AGORA_ROOT=1 cargo test -p agora-process"
        );
        return ExitCode::SUCCESS;
    }
    if std::process::id() != 1 && env::args().nth(1).as_deref() != Some(HOLD) {
        nothing_outlives_a_killed_harness();
    }
    let inside = match enter() {
        Ok(inside) => inside,
        Err(missing) => {
            eprintln!("{missing}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if env::args().nth(1).as_deref() == Some(HOLD) {
        runtime.block_on(hold(inside));
        return ExitCode::SUCCESS;
    }
    test("power that goes takes what was not synced and nothing else", power_takes_what_was_not_synced);
    runtime.block_on(async {
        let bench = Bench::new(inside).await;
        bench.links_are_as_bad_as_they_were_made().await;
        bench.a_cut_leader_is_replaced_and_still_answers_clients().await;
        bench.a_paused_node_stands_still().await;
        bench.connections_are_reset().await;
        bench.power_loss_of_all_loses_no_acknowledged_write().await;
        bench.a_machine_without_power_is_silent_and_a_dead_process_is_not().await;
        bench.clocks_are_wrong_while_the_node_runs().await;
        bench.directories_are_kept_and_put_back().await;
        bench.disks_break_and_are_mended().await;
        bench.a_node_joins_and_is_retired().await;
        println!("the wire: {:?}", bench.cluster.carried());
        let dir = bench.cluster.dir().to_owned();
        drop(bench);
        // What failed is kept, what passed is not.
        fs::remove_dir_all(dir).unwrap();
    });
    println!("real machines: all passed");
    ExitCode::SUCCESS
}

fn test(name: &str, work: impl FnOnce()) {
    let began = Instant::now();
    print!("{name} … ");
    let _ = std::io::stdout().flush();
    work();
    println!("ok, {} ms", began.elapsed().as_millis());
}

fn run_dir(name: &str) -> PathBuf {
    let exe = env::current_exe().unwrap();
    // target/<profile>/deps/<this>
    let target = exe.ancestors().nth(3).expect("a target directory");
    let dir = target.join("chaos").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn node_program() -> NodeProgram {
    if let Some(given) = env::var_os("AGORA_NODE") {
        return NodeProgram::agora(given);
    }
    let exe = env::current_exe().unwrap();
    let profile = exe.ancestors().nth(2).expect("a profile's directory");
    let beside = ["agora", "agora-test-node"].map(|name| profile.join(name));
    match beside.iter().find(|path| path.is_file()) {
        Some(found) => NodeProgram::agora(found),
        None => panic!("no node to run: cargo build -p agora-node, or set AGORA_NODE"),
    }
}

async fn hold(inside: Inside) {
    let dir = PathBuf::from(env::args().nth(2).expect("a directory"));
    let cluster = Arc::new(Processes::start(inside, Settings::new(dir, node_program())).unwrap());
    let leader = Admin::new(cluster.clone()).wait_for_leader(LEADER_MAX).await;
    println!("leader {leader:?}");
    tokio::time::sleep(Duration::from_secs(120)).await;
}

/// Everything on this system that names `place`: processes, mounts, loop devices.
fn traces_of(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() || pid == std::process::id().to_string() {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&place) {
            found.push(format!("process {pid}: {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if let Some(line) = mounts.lines().find(|line| line.contains(&place)) {
            found.push(format!("mount seen by process {pid}: {line}"));
        }
    }
    let loops = agora_process::shell::words("losetup --all").unwrap();
    found.extend(loops.lines().filter(|line| line.contains(&place)).map(|line| format!("loop device {line}")));
    found
}

fn namespaces() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for kind in ["net", "mnt", "pid"] {
            if let Ok(name) = fs::read_link(entry.path().join("ns").join(kind)) {
                all.insert(name.display().to_string());
            }
        }
    }
    all
}

fn nothing_outlives_a_killed_harness() {
    test("nothing outlives a harness that is killed", || {
        let dir = run_dir("killed");
        let before = namespaces();
        let named_before = fs::read_dir("/run/netns").map(Iterator::count).unwrap_or(0);
        let mut harness = Command::new(env::current_exe().unwrap())
            .arg(HOLD)
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(harness.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("leader Some"), "no cluster came up: {said:?}");
        let alive = traces_of(&dir);
        // What is looked for afterwards can be seen before.
        for kind in ["process", "mount", "loop device"] {
            assert!(alive.iter().any(|trace| trace.starts_with(kind)), "no {kind} among {alive:#?}");
        }
        assert!(namespaces().difference(&before).count() >= 3);
        harness.kill().unwrap();
        harness.wait().unwrap();
        // The kernel takes a namespace apart in its own time, but soon.
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let left = traces_of(&dir);
            let spaces = namespaces();
            let spaces: Vec<_> = spaces.difference(&before).collect();
            if left.is_empty() && spaces.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "left behind: {left:#?} {spaces:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(fs::read_dir("/run/netns").map(Iterator::count).unwrap_or(0), named_before);
        fs::remove_dir_all(dir).unwrap();
    });
}

fn power_takes_what_was_not_synced() {
    let dir = run_dir("power");
    let volume = Volume::create(&dir.join("disk.img"), &dir.join("disk"), 256 << 20).unwrap();
    let path = |name: &str| volume.root().join(name);
    let sync_root = || fs::File::open(volume.root()).unwrap().sync_all().unwrap();
    for round in 0..5 {
        let (synced, unsynced) = (path(&format!("synced-{round}")), path(&format!("unsynced-{round}")));
        let mut file = fs::File::create(&synced).unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        file.sync_all().unwrap();
        sync_root();
        drop(file);
        // More of a file that was synced before.
        let mut file = fs::File::options().append(true).open(&synced).unwrap();
        file.write_all(&[8; 100_000]).unwrap();
        fs::write(&unsynced, [9; 100_000]).unwrap();
        assert_eq!(fs::metadata(&unsynced).unwrap().len(), 100_000, "it is there as long as the power is");
        volume.power_off().unwrap();
        drop(file);
        volume.power_on().unwrap();
        let mut kept = Vec::new();
        fs::File::open(&synced).unwrap().read_to_end(&mut kept).unwrap();
        assert_eq!(kept, vec![7; 100_000], "round {round}: synced bytes stay, the others do not");
        let lost = fs::read(&unsynced).unwrap_or_default();
        assert!(lost.is_empty(), "round {round}: {} bytes that were not synced are there", lost.len());
    }
    volume.unmount().unwrap();
    fs::remove_dir_all(dir).unwrap();
}

struct Bench {
    cluster: Arc<Processes>,
    admin: Admin,
}

fn set(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    nodes.into_iter().collect()
}

impl Bench {
    async fn new(inside: Inside) -> Bench {
        let began = Instant::now();
        let cluster = Arc::new(Processes::start(inside, Settings::new(run_dir("bench"), node_program())).unwrap());
        let admin = Admin::new(cluster.clone());
        let bench = Bench { cluster, admin };
        let leader = bench.leader().await;
        println!("three nodes, led by {leader}, after {} ms", began.elapsed().as_millis());
        bench
    }

    async fn act(&self, act: Act) {
        let what = format!("{act:?}");
        if let Err(error) = self.cluster.act(act).await {
            panic!("{what}: {error}");
        }
    }

    /// Waits until all nodes are up and follow one leader.
    async fn leader(&self) -> u64 {
        let until = Instant::now() + LEADER_MAX;
        loop {
            let said = self.admin.statuses().await;
            let leaders: BTreeSet<_> = said.iter().map(|status| status.leader).collect();
            if said.len() == self.cluster.nodes().len()
                && leaders.len() == 1
                && let Some(Some(leader)) = leaders.first()
            {
                return *leader;
            }
            assert!(Instant::now() < until, "no leader of all: {said:?}\n{}", self.cluster.evidence());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn send(&self, node: u64, method: http::Method, path: &str, body: &str) -> Result<HttpResponse, SendError> {
        static KEY: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let key = KEY.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let headers = [
            ("authorization", format!("Bearer {}", self.cluster.keys().0)),
            ("content-type", "application/json".to_owned()),
            ("idempotency-key", format!("bench-{key}")),
        ];
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let body = Bytes::from(body.to_owned());
        let request = HttpRequest { method, path: path.to_owned(), headers, body };
        self.cluster.send(node, request, Duration::from_secs(3)).await
    }

    /// A new account; its id if that was acknowledged.
    async fn account(&self, node: u64) -> Option<String> {
        let body = r#"{"name":"somebody","kind":"customer"}"#;
        let answer = self.send(node, http::Method::POST, "/api/v2/accounts", body).await.ok()?;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        (answer.status == 201).then(|| body["id"].as_str().unwrap_or_default().to_owned())
    }

    async fn must_have(&self, node: u64, account: &str) {
        let path = format!("/api/v2/accounts/{account}");
        let until = Instant::now() + LEADER_MAX;
        loop {
            match self.send(node, http::Method::GET, &path, "").await {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) if answer.status < 500 => panic!("{account} is lost: {}", answer.status),
                other => assert!(Instant::now() < until, "{account}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn alive(&self, node: u64) -> Result<Duration, SendError> {
        let began = Instant::now();
        let answer = self.send(node, http::Method::GET, "/livez", "").await?;
        assert_eq!(answer.status, 200);
        Ok(began.elapsed())
    }

    async fn links_are_as_bad_as_they_were_made(&self) {
        let began = Instant::now();
        let undisturbed = self.alive(1).await.unwrap();
        let link = Link { delay_ms: 60, jitter_ms: 20, ..Link::default() };
        self.act(Act::SetClientLinks { nodes: set([1]), link }).await;
        let delayed = self.alive(1).await.unwrap();
        assert!(delayed >= Duration::from_millis(120), "there and back takes twice the delay, it took {delayed:?}");
        self.act(Act::SetClientLinks { nodes: set([1]), link: Link { loss: 0.3, duplicate: 0.3, ..link } }).await;
        for _ in 0..5 {
            // TCP makes good what is lost, given time.
            let _ = self.alive(1).await;
        }
        let carried = self.cluster.carried();
        assert!(carried.lost > 0 && carried.late > 0 && carried.doubled > 0, "{carried:?}");
        self.act(Act::SetClientLinks { nodes: set([1]), link: Link::CUT }).await;
        assert!(
            matches!(self.alive(1).await, Err(SendError::TimedOut)),
            "the connection was open: it may have arrived"
        );
        assert!(matches!(self.alive(1).await, Err(SendError::NotSent(_))), "there is no open connection any more");
        self.act(Act::HealNetwork).await;
        let healed = self.alive(1).await.unwrap();
        println!(
            "links are as bad as they were made … ok, {} ms (undisturbed {undisturbed:?}, delayed {delayed:?}, healed {healed:?})",
            began.elapsed().as_millis()
        );
    }

    async fn a_cut_leader_is_replaced_and_still_answers_clients(&self) {
        let began = Instant::now();
        let leader = self.leader().await;
        let others = set(self.cluster.nodes().into_iter().filter(|node| *node != leader));
        for (from, to) in [(set([leader]), others.clone()), (others.clone(), set([leader]))] {
            self.act(Act::SetLinks { from, to, link: Link::CUT }).await;
        }
        let until = Instant::now() + LEADER_MAX;
        let next = loop {
            match self.admin.leader().await {
                Some(next) if next != leader => break next,
                other => assert!(Instant::now() < until, "still led by {other:?}"),
            }
        };
        let elected = began.elapsed();
        assert!(self.account(next).await.is_some());
        assert!(self.alive(leader).await.is_ok(), "clients are not concerned");
        assert!(self.account(leader).await.is_none(), "a leader without a majority must not acknowledge");
        self.act(Act::HealNetwork).await;
        self.leader().await;
        println!(
            "a cut leader is replaced and still answers clients … ok, {} ms (new leader after {} ms)",
            began.elapsed().as_millis(),
            elected.as_millis()
        );
    }

    async fn a_paused_node_stands_still(&self) {
        self.act(Act::Pause(2)).await;
        assert!(self.cluster.is_up(2));
        assert!(self.alive(2).await.is_err());
        self.act(Act::Resume(2)).await;
        assert!(self.alive(2).await.is_ok());
        self.leader().await;
        println!("a paused node stands still … ok");
    }

    async fn connections_are_reset(&self) {
        let count = || -> usize {
            let own = agora_process::net::Network::space(1);
            let listed = agora_process::shell::words(&format!("nsenter --net={own} ss -H -n -t state established"));
            listed.unwrap().lines().filter(|line| line.contains("198.18.0.2:") || line.contains("198.18.0.3:")).count()
        };
        let local_ports = || -> BTreeSet<String> {
            let own = agora_process::net::Network::space(1);
            let listed = agora_process::shell::words(&format!("nsenter --net={own} ss -H -n -t state established"));
            let between = |line: &&str| line.contains("198.18.0.2:") || line.contains("198.18.0.3:");
            listed.unwrap().lines().filter(between).map(|line| line.split_whitespace().skip(2).collect()).collect()
        };
        let before = local_ports();
        assert!(!before.is_empty());
        self.act(Act::ResetConnections { nodes: set(self.cluster.nodes()) }).await;
        let after = local_ports();
        assert!(before.is_disjoint(&after), "survived: {:?}", before.intersection(&after).collect::<Vec<_>>());
        self.leader().await;
        println!("connections are reset … ok ({} before, {} now)", before.len(), count());
    }

    async fn power_loss_of_all_loses_no_acknowledged_write(&self) {
        let began = Instant::now();
        let nodes = self.cluster.nodes();
        let mut accounts = Vec::new();
        let mut down_ms = Vec::new();
        for _ in 0..3 {
            let leader = self.leader().await;
            for number in 0..50 {
                accounts.extend(self.account(nodes[number % nodes.len()]).await);
            }
            let off = Instant::now();
            self.act(Act::PowerLoss(set(nodes.clone()))).await;
            down_ms.push(off.elapsed().as_millis());
            assert!(nodes.iter().all(|node| !self.cluster.is_up(*node)), "node {leader} led");
            for node in &nodes {
                self.act(Act::Start(*node)).await;
            }
            self.leader().await;
        }
        assert!(accounts.len() >= 100, "only {} accounts were acknowledged", accounts.len());
        for account in &accounts {
            self.must_have(nodes[0], account).await;
        }
        println!(
            "power loss of all loses no acknowledged write … ok, {} ms ({} writes before 3 losses, {down_ms:?} ms each)",
            began.elapsed().as_millis(),
            accounts.len()
        );
    }

    async fn a_machine_without_power_is_silent_and_a_dead_process_is_not(&self) {
        let refused = |error: &SendError| matches!(error, SendError::NotSent(why) if why.contains("refused"));
        self.act(Act::Kill(set([3]))).await;
        let error = loop {
            // Connections that were open when it died are found out first.
            match self.alive(3).await.unwrap_err() {
                SendError::Lost(_) => {}
                error => break error,
            }
        };
        assert!(refused(&error), "{error:?}");
        self.act(Act::Start(3)).await;
        self.leader().await;
        self.act(Act::PowerLoss(set([3]))).await;
        let error = self.alive(3).await.unwrap_err();
        assert!(!refused(&error) && matches!(error, SendError::NotSent(_)), "{error:?}");
        self.act(Act::HealNetwork).await;
        assert!(self.alive(3).await.is_err(), "healing the network brings no power");
        self.act(Act::Start(3)).await;
        self.leader().await;
        println!("a machine without power is silent and a dead process is not … ok");
    }

    async fn clocks_are_wrong_while_the_node_runs(&self) {
        let date = async |node: u64| -> i64 {
            // Through the log: its time is that of the node's clock.
            let log = fs::read_to_string(self.cluster.machine(node).unwrap().dir().join("log")).unwrap();
            let line = log.lines().rev().find(|line| line.contains("\"timestamp\"")).unwrap_or_default().to_owned();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let stamp = line["timestamp"].as_str().unwrap().to_owned();
            let seconds = agora_process::shell::run("date", ["-d", &stamp, "+%s"]).unwrap();
            seconds.trim().parse().unwrap()
        };
        let real = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        self.act(Act::ClockOffset { node: 2, ms: 3_600_000 }).await;
        // The library looks again once a second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        self.act(Act::Stop(2)).await;
        let ahead = date(2).await - real();
        assert!((3_590..=3_610).contains(&ahead), "{ahead} s ahead, wanted 3600");
        self.act(Act::ClockOffset { node: 2, ms: 0 }).await;
        self.act(Act::Start(2)).await;
        self.leader().await;
        println!("clocks are wrong while the node runs … ok");
    }

    async fn directories_are_kept_and_put_back(&self) {
        let data = self.cluster.machine(3).unwrap().data();
        self.act(Act::Stop(3)).await;
        let names =
            || -> BTreeSet<_> { fs::read_dir(&data).unwrap().flatten().map(|entry| entry.file_name()).collect() };
        let before = names();
        assert!(before.len() > 1);
        self.act(Act::KeepDirectory(3)).await;
        self.act(Act::Wipe(3)).await;
        assert!(names().is_empty());
        self.act(Act::RestoreDirectory(3)).await;
        assert_eq!(names(), before);
        self.act(Act::Start(3)).await;
        self.leader().await;
        assert!(self.cluster.act(Act::Wipe(3)).await.is_err(), "not while it runs");
        println!("directories are kept and put back … ok");
    }

    async fn disks_break_and_are_mended(&self) {
        let began = Instant::now();
        // Dies at a call, whatever it does then.
        self.act(Act::CrashAt { node: 3, call: Syscall::Fsync, n: 3 }).await;
        let until = Instant::now() + LEADER_MAX;
        while self.cluster.is_up(3) {
            self.account(self.cluster.nodes()[0]).await;
            assert!(Instant::now() < until, "it lives, though it must have synced three times");
        }
        // The trap has struck and does not do so again.
        self.act(Act::Start(3)).await;
        self.leader().await;

        // A node that waits for its disk can be killed, and its disk works again.
        self.act(Act::BreakDisk { node: 2, fault: DiskFault::Hung }).await;
        self.account(1).await;
        let killed = Instant::now();
        self.act(Act::Kill(set([2]))).await;
        assert!(killed.elapsed() < Duration::from_secs(10));
        self.act(Act::MendDisk(2)).await;
        self.act(Act::Start(2)).await;
        self.leader().await;

        self.act(Act::BreakDisk { node: 2, fault: DiskFault::Full }).await;
        assert!(self.cluster.disk_used(2) > 0.999, "{} used", self.cluster.disk_used(2));
        self.act(Act::MendDisk(2)).await;
        assert!(self.cluster.disk_used(2) < 0.9, "{} used", self.cluster.disk_used(2));
        self.act(Act::Start(2)).await;
        self.leader().await;

        // Rows are disposable: a node whose rows rot comes back by itself.
        self.act(Act::Kill(set([3]))).await;
        let damage = Damage::ZeroSector { at: 500_000 };
        self.act(Act::Corrupt { node: 3, part: Part::RowsJournal, damage }).await;
        self.act(Act::Start(3)).await;
        self.leader().await;
        println!("disks break and are mended … ok, {} ms", began.elapsed().as_millis());
    }

    async fn a_node_joins_and_is_retired(&self) {
        let leader = self.leader().await;
        self.act(Act::Provision(4)).await;
        let until = Instant::now() + LEADER_MAX;
        while let Err(error) = self.admin.add(leader, 4).await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while let Err(error) = self.admin.promote(leader, 4).await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.admin.remove(leader, 4).await.unwrap();
        self.act(Act::Retire(4)).await;
        assert_eq!(self.cluster.nodes(), vec![1, 2, 3]);
        self.leader().await;
        println!("a node joins and is retired … ok");
    }
}
