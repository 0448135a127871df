//! `agora start`: one node, from its configuration to its end.
//!
//! The parts are put together here and nowhere else: disk, world, shop, API. A node ends in one of three ways. It is told
//! to (SIGTERM, SIGINT, or standard input closing under `--exit-with-stdin`): it stops accepting, lets requests on their
//! way finish, hands leadership over, makes its rows durable, and the exit code is 0. It cannot start: one line says
//! why. Or something went so wrong that going on could do harm: one line says what, and the exit code is not 0. A panic is
//! of the third kind: a bug, and the other nodes carry on.

use std::{
    future::Future, io::Read, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, pin::pin, process, sync::Arc,
    time::Duration,
};

use agora_actors::{Shop, ShopConfig};
use agora_api::{ApiConfig, ApiState};
use agora_raft::{Boot, Member, RaftConfig, World};
use agora_storage::{disk::FileDisk, rows::RowOptions};
use anyhow::{Context, anyhow};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use crate::{
    cli::StartArgs,
    config::{Address, Config},
    limits, logs,
};

/// Connections the kernel holds until the node accepts them.
const BACKLOG_MAX: u32 = 4_096;
/// Time requests on their way have before leadership is handed over. Long polls may take longer and go on meanwhile.
const QUIET_TIMEOUT: Duration = Duration::from_secs(1);
/// Time the last connections have once the shop has stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The command. Returns when the node was told to stop and has.
pub fn run(args: &StartArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    logs::start(&config);
    warn_if_public(&args.config);
    abort_on_panic();
    limits::raise_open_files(config.http.connections_max as u64);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .thread_name("agora-request")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let stop = stop_signal(args.exit_with_stdin)?;
        node(&config, stop).await
    });
    // What had to be kept is durable, and after a fatal error nothing here is to be trusted: the process ends at once,
    // and no task is woken once more only to be torn down.
    std::mem::forget(runtime);
    ended
}

/// One life of a node. `stop` resolves when it shall end.
async fn node(config: &Config, stop: impl Future<Output = &'static str>) -> anyhow::Result<()> {
    let mut stop = pin!(stop);
    let socket = bind(&config.http.listen).await?;
    let disk = FileDisk::new(&config.data_dir, row_options(config)).with_context(|| cannot_start(config))?;
    let world = World::real(Arc::new(disk));
    let started = tokio::select! {
        started = Shop::start(world, raft_config(config), boot(config), shop_config(config)) => started,
        why = &mut stop => {
            tracing::info!(why, "told to stop while starting");
            return Ok(());
        }
    };
    let shop = started.with_context(|| cannot_start(config))?;
    // Only now: a client that is refused goes to another node, one that is kept waiting does not.
    let listener = socket.listen(BACKLOG_MAX).with_context(|| format!("cannot listen on {}", config.http.listen))?;
    tracing::info!(
        node = config.node_id,
        cluster = %config.cluster,
        http = %config.http.listen,
        peers = %config.peer_listen,
        data_dir = %config.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        pid = process::id(),
        "node started"
    );
    serve(config, shop, listener, stop).await
}

/// Answers until it is told to stop or must.
async fn serve(
    config: &Config,
    shop: Shop,
    listener: TcpListener,
    stop: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    let (close, closed) = oneshot::channel::<()>();
    let state = ApiState::new(shop.clone(), api_config(config));
    let closing = async move {
        // A sender that is gone means the same as a message.
        let _ = closed.await;
    };
    let mut api = tokio::spawn(agora_api::serve(listener, state, closing));
    let why = tokio::select! {
        why = stop => why,
        reason = shop.cluster().fatal() => return Err(fatal(config, &reason)),
        ended = &mut api => return Err(fatal(config, &format!("the HTTP server ended by itself: {ended:?}"))),
    };
    tracing::info!(why, "stopping");
    let _ = close.send(());
    let quiet = timeout(QUIET_TIMEOUT, &mut api).await.is_ok();
    let fatal_meanwhile = tokio::select! {
        () = shop.shutdown() => None,
        reason = shop.cluster().fatal() => Some(reason),
    };
    if let Some(reason) = fatal_meanwhile {
        return Err(fatal(config, &reason));
    }
    if !quiet && timeout(CLOSE_TIMEOUT, &mut api).await.is_err() {
        tracing::warn!("some connections were still busy and are cut");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Why the process must end, and what to do about it.
fn fatal(config: &Config, reason: &str) -> anyhow::Error {
    anyhow!(
        "node {} must stop: {reason} (if starting it again does not help, remove it from the cluster and add a new one)",
        config.node_id
    )
}

fn cannot_start(config: &Config) -> String {
    format!("node {} cannot start on {}", config.node_id, config.data_dir.display())
}

/// Takes the port, without answering on it yet.
async fn bind(address: &Address) -> anyhow::Result<TcpSocket> {
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address.to_string())
        .await
        .with_context(|| format!("http.listen: cannot resolve {address}"))?
        .collect();
    let at = resolved.first().with_context(|| format!("http.listen: {address} has no address"))?;
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.context("cannot open a socket")?;
    // A node that is started again at once must not wait for the old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(*at).with_context(|| {
        format!("cannot listen on {address}: choose another http.listen, or stop what listens there")
    })?;
    Ok(socket)
}

/// Resolves with the reason when the process is told to stop.
fn stop_signal(with_stdin: bool) -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (closed, stdin) = oneshot::channel();
    let held = if with_stdin {
        // A thread, not the runtime: a read of standard input cannot be called off.
        std::thread::Builder::new()
            .name("agora-stdin".to_owned())
            .spawn(move || watch_stdin(closed))
            .context("cannot start a thread")?;
        None
    } else {
        Some(closed)
    };
    Ok(async move {
        let _held = held;
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = stdin => "standard input closed",
        }
    })
}

/// Reads standard input to its end; what it says does not matter.
fn watch_stdin(closed: oneshot::Sender<()>) {
    let mut ignored = [0_u8; 256];
    let mut stdin = std::io::stdin().lock();
    while stdin.read(&mut ignored).is_ok_and(|read| read > 0) {}
    // Nobody listens any more if the node is stopping already.
    let _ = closed.send(());
}

/// The file holds the keys of the shop and of its cluster. A node that refused would not start after a careless copy, so
/// it only says so.
fn warn_if_public(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0) {
        tracing::warn!(file = %path.display(), "everyone on this machine may read the secrets in this file: chmod 600");
    }
}

/// A panic ends the process, in every build: the other nodes carry on, and half-changed state is never served.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!(
            "agora: this node met a bug and stops; the other nodes go on; please report the lines above, then start it again"
        );
        process::abort();
    }));
}

fn boot(config: &Config) -> Boot {
    match config.own_member() {
        Some(_) => Boot::Create { lineage: config.lineage, members: members(config).collect() },
        None => Boot::Join,
    }
}

fn members(config: &Config) -> impl Iterator<Item = Member> {
    config.members.iter().map(|member| Member {
        id: member.id,
        peer_addr: member.peer.to_string(),
        http_addr: member.http.to_string(),
    })
}

fn raft_config(config: &Config) -> RaftConfig {
    RaftConfig {
        node_id: config.node_id,
        cluster: config.cluster.clone(),
        listen: config.peer_listen.to_string(),
        http_advertise: config.http.advertise.to_string(),
        peer_secret: config.peer_secret,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seeds: members(config).filter(|member| member.id != config.node_id).collect(),
        heartbeat_ms: config.raft.heartbeat_ms,
        election_min_ms: config.raft.election_min_ms,
        election_max_ms: config.raft.election_max_ms,
        entry_count_max: config.raft.entry_count_max,
        entry_bytes_max: config.raft.entry_bytes_max,
        entries_in_flight_max: config.raft.entries_in_flight_max,
        log_bytes_max: config.raft.log_bytes_max,
        snapshot_log_bytes: config.raft.snapshot_log_bytes,
        ..RaftConfig::default()
    }
}

fn shop_config(config: &Config) -> ShopConfig {
    ShopConfig {
        order_ttl_ms: config.shop.order_ttl_ms,
        live_entities_max: config.shop.live_entities_max,
        hosts: config.shop.hosts,
        admission_max: config.shop.admission_max,
        timer_tick_ms: config.shop.timer_tick_ms,
    }
}

/// How the rows are kept, by configuration.
pub fn row_options(config: &Config) -> RowOptions {
    RowOptions {
        cache_bytes: config.storage.cache_bytes,
        memtable_bytes: config.storage.memtable_bytes,
        journal_bytes_max: config.storage.journal_bytes_max,
        ..RowOptions::default()
    }
}

fn api_config(config: &Config) -> ApiConfig {
    ApiConfig {
        shop_key: config.shop_key.reveal().to_owned(),
        admin_key: config.admin_key.reveal().to_owned(),
        body_bytes_max: config.http.body_bytes_max,
        request_timeout_ms: config.http.request_timeout_ms,
        header_timeout_ms: config.http.header_timeout_ms,
        connections_max: config.http.connections_max,
        ..ApiConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{Plan, Secrets};

    fn config() -> Config {
        let drafts = Plan::new(3).drafts(&Secrets::fresh().unwrap()).unwrap();
        Config::parse(Path::new("n2.toml"), &drafts[1].render(), &|_| None).unwrap()
    }

    #[test]
    fn the_defaults_of_the_file_are_those_of_the_parts() {
        let config = config();
        assert_eq!(row_options(&config), RowOptions::default());
        let (ours, theirs) = (raft_config(&config), RaftConfig::default());
        assert_eq!(
            (ours.heartbeat_ms, ours.election_min_ms, ours.election_max_ms, ours.entry_count_max, ours.entry_bytes_max),
            (
                theirs.heartbeat_ms,
                theirs.election_min_ms,
                theirs.election_max_ms,
                theirs.entry_count_max,
                theirs.entry_bytes_max
            )
        );
        assert_eq!(
            (ours.entries_in_flight_max, ours.log_bytes_max, ours.snapshot_log_bytes),
            (theirs.entries_in_flight_max, theirs.log_bytes_max, theirs.snapshot_log_bytes)
        );
        assert_eq!(format!("{:?}", shop_config(&config)), format!("{:?}", ShopConfig::default()));
        let (ours, theirs) = (api_config(&config), ApiConfig::default());
        assert_eq!(
            (ours.body_bytes_max, ours.request_timeout_ms, ours.header_timeout_ms, ours.connections_max),
            (theirs.body_bytes_max, theirs.request_timeout_ms, theirs.header_timeout_ms, theirs.connections_max)
        );
    }

    #[test]
    fn a_first_member_creates_and_a_stranger_joins() {
        let mut config = config();
        assert!(matches!(boot(&config), Boot::Create { members, .. } if members.len() == 3));
        assert_eq!(raft_config(&config).seeds.iter().map(|seed| seed.id).collect::<Vec<_>>(), [1, 3]);
        config.node_id = 4;
        assert!(matches!(boot(&config), Boot::Join));
        assert_eq!(raft_config(&config).seeds.len(), 3);
    }
}
