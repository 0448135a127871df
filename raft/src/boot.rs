//! From a directory to a running node.
//!
//! In order: open the directory (which commits a new incarnation), judge it, rebuild the rows from a peer if they are
//! lost, read where they stand, build the engine, and only then listen. The engine never starts over rows that it would
//! refuse or misread: it looks at the log alone.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agora_storage::disk::OpenedRows;
use agora_storage::log::{Identity, LogStore};
use agora_storage::meta::LogPosition;
use agora_storage::open::{Expect, NewIdentity, Opened};
use agora_storage::rows::Rows;
use openraft::Raft;
use openraft::storage::RaftLogStorage;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::applier::ApplyHandle;
use crate::apply::Apply;
use crate::barrier::Barriers;
use crate::committed::CommittedIndex;
use crate::config::{Boot, Member, RaftConfig};
use crate::core::Core;
use crate::counters::Counters;
use crate::error::{Fatal, StartError};
use crate::identity::{NodeGate, Seen, Who};
use crate::journal::{Gate, Journal, Settings};
use crate::local::LocalNode;
use crate::log_store::{LogAdapter, LogHandle};
use crate::machine::{Machine, Syncer};
use crate::node::PeerService;
use crate::pulse::Pulse;
use crate::rows_cell::RowsCell;
use crate::snapshot::{Making, Sender, Template, pull};
use crate::status::Status;
use crate::supervisor;
use crate::transport::hello::PeerKey;
use crate::transport::link::Links;
use crate::transport::network::Network;
use crate::transport::server::Server;
use crate::types::{MemberAddr, MembershipRecord, log_id};
use crate::world::{NetListener, World};
use crate::{journal, observer};

/// Pause between two rounds of asking peers for a snapshot.
const PULL_PAUSE: Duration = Duration::from_millis(200);

/// A booted node.
pub(crate) struct Parts<O> {
    pub(crate) core: Arc<Core>,
    pub(crate) journal: Journal<O>,
    pub(crate) threads: Vec<std::thread::JoinHandle<()>>,
    pub(crate) peer_addr: String,
}

/// What the gate may see before and after apply runs.
struct SeenSoFar {
    apply: OnceLock<ApplyHandle>,
    pulse: Arc<Pulse>,
}

impl Seen for SeenSoFar {
    fn members(&self) -> (MembershipRecord, LogPosition) {
        let members =
            self.apply.get().map(|apply| apply.with_progress(|progress| progress.members.clone())).unwrap_or_default();
        (members, self.pulse.observed.read().committed)
    }
}

/// The directory, opened and judged.
struct Directory {
    log: Arc<LogStore>,
    identity: Identity,
    /// The rows, or why they are lost and what index they must reach.
    rows: Result<Arc<dyn Rows>, (String, u64)>,
}

fn open_directory(world: &World, config: &RaftConfig, boot: &Boot) -> Result<Directory, StartError> {
    let expect = Expect { cluster: config.cluster.clone(), node: config.node_id, nonce: world.random.u128() };
    let create = match boot {
        Boot::Existing => None,
        Boot::Create { lineage, members } => {
            if *lineage == 0 {
                return Err(StartError::Config(
                    "lineage 0 means unknown: draw a random one when creating a cluster".to_owned(),
                ));
            }
            if !members.iter().any(|member| member.id == config.node_id) {
                return Err(StartError::Config(format!(
                    "node {} is not among the first members of the new cluster",
                    config.node_id
                )));
            }
            Some(NewIdentity { lineage: *lineage })
        }
        Boot::Join => Some(NewIdentity { lineage: 0 }),
    };
    Ok(match agora_storage::open::open(&*world.disk, &expect, create)? {
        Opened::Ready { log, identity, rows } => Directory { log, identity, rows: Ok(rows) },
        Opened::RowsLost { log, identity, reason, need_index } => {
            Directory { log, identity, rows: Err((reason, need_index)) }
        }
    })
}

/// Starts everything on the current runtime; long-lived tasks go into `tasks`.
pub(crate) async fn boot<A: Apply>(
    world: World,
    config: RaftConfig,
    boot: Boot,
    apply: A,
    service: Arc<dyn PeerService>,
    callers: tokio::runtime::Handle,
    tasks: &mut JoinSet<()>,
) -> Result<Parts<A::Outcome>, StartError> {
    config.validate()?;
    let engine_config = Arc::new(config.engine()?);
    let listener = listen(&world, &config).await?;
    let peer_addr = listener.local_addr();
    let directory = open_directory(&world, &config, &boot)?;
    let counters = Arc::new(Counters::default());
    let fatal = Fatal::new();
    let log = LogHandle::open(
        directory.log,
        world.exec,
        world.clock.clone(),
        config.log_cache_bytes_max,
        counters.clone(),
        fatal.clone(),
    )
    .map_err(StartError::Other)?;
    let mut threads: Vec<_> =
        log.start().map_err(|error| StartError::Other(format!("log thread: {error}")))?.into_iter().collect();

    let pulse = Arc::new(Pulse::new(world.clock.clone(), config.election_max_ms));
    let who = Arc::new(Who::new(directory.identity.clone()));
    let seen = Arc::new(SeenSoFar { apply: OnceLock::new(), pulse: pulse.clone() });
    let gate = Arc::new(NodeGate { who: who.clone(), log: log.clone(), seen: seen.clone() });
    let key = PeerKey::new(&config.peer_secret);
    let links = Arc::new(Links::new(world.clone(), key.clone(), gate.clone(), counters.clone()));
    let template = Arc::new(Template {
        who: who.clone(),
        disk: world.disk.clone(),
        clock: world.clock.clone(),
        exec: world.exec,
        making: parking_lot::Mutex::new(Making::default()),
    });

    // Rows that were begun anew are older than what this node has shown its clients, up to the end of its log.
    let mut serves_from = 0;
    let (generation, rows) = match directory.rows {
        Ok(rows) => {
            if rows.applied() == 0 {
                serves_from = log.durable_end().index;
            }
            (directory.identity.generation, rows)
        }
        Err((reason, need_index)) => {
            serves_from = log.durable_end().index;
            let rebuilt =
                rebuild_rows(&config, &log, &links, &template, directory.identity.generation, &reason, need_index)
                    .await;
            match rebuilt.or_else(|error| what_is_left(&world, &directory.identity, need_index, error)) {
                Ok(rows) => rows,
                Err(error) => {
                    log.stop();
                    return Err(error);
                }
            }
        }
    };

    let rows = Arc::new(RowsCell::new(generation, rows));
    let settings = Settings::new(&config, who.incarnation());
    let (journal_gate, answers) =
        Gate::<A::Outcome>::new(settings, world.clock.clone(), pulse.clone(), counters.clone());
    callers.spawn(journal::deliver(answers));
    let (apply, thread) = ApplyHandle::start(
        apply,
        rows.clone(),
        world.exec,
        world.clock.clone(),
        counters.clone(),
        fatal.clone(),
        journal_gate.clone(),
    )
    .map_err(StartError::Other)?;
    threads.extend(thread);
    if seen.apply.set(apply.clone()).is_err() {
        unreachable!("set once, here");
    }

    let syncer = Syncer { log: log.clone(), exec: world.exec, counters: counters.clone() };
    let sender = Arc::new(Sender::new(counters.clone(), world.exec));
    let machine =
        Machine { apply: apply.clone(), syncer: syncer.clone(), template: template.clone(), behind: Some(log.clone()) };
    let network = Network { links: links.clone(), snapshots: sender.clone() };
    let raft = Raft::build(config.node_id, engine_config, network, LogAdapter::new(log.clone()), machine)
        .await
        .map_err(|error| StartError::Other(format!("the consensus engine did not start: {error}")))?;
    raft.run();
    initialize(&raft, &log, &boot).await?;

    let barriers = Arc::new(Barriers::new(pulse.clone(), rows, counters.clone(), links.clone()));
    let committed = Arc::new(CommittedIndex::new(counters.clone()));
    let journal = Journal::new(journal_gate.clone(), pulse.clone(), barriers.clone());
    let http_addr = config.http_advertise.clone();
    let core = Arc::new(Core {
        config,
        world: world.clone(),
        who,
        http_addr,
        log,
        apply,
        raft: raft.clone(),
        links,
        pulse,
        barriers: barriers.clone(),
        committed: committed.clone(),
        journal: journal_gate.clone(),
        counters: counters.clone(),
        fatal,
        template,
        syncer,
        sender,
        heard: parking_lot::Mutex::default(),
        status: watch::Sender::new(Arc::new(Status::default())),
        changing: tokio::sync::Mutex::new(()),
        handing: tokio::sync::Mutex::new(()),
        serves_from,
    });
    core.publish_status();
    let server = Arc::new(Server {
        world,
        key,
        gate,
        raft: raft.clone(),
        local: Arc::new(LocalNode::new(core.clone())),
        service,
        callers,
        counters,
    });
    tasks.spawn(server.run(listener));
    tasks.spawn(journal_gate.pump(raft.clone()));
    tasks.spawn(barriers.run(raft.clone()));
    tasks.spawn(committed.run(move || committed_now(raft.clone())));
    tasks.spawn(observer::run(core.clone()));
    tasks.spawn(supervisor::watch_stalls(core.clone()));
    tasks.spawn(supervisor::ping_peers(core.clone()));
    tasks.spawn(supervisor::ping_calls(core.clone()));
    tasks.spawn(supervisor::checkpoints(core.clone()));
    tasks.spawn(supervisor::keep_house(core.clone()));
    Ok(Parts { core, journal, threads, peer_addr })
}

/// What the engine holds to be committed, `None` when it is gone.
async fn committed_now(raft: Raft<crate::types::TypeConfig, Machine>) -> Option<u64> {
    let asked = raft.with_raft_state(|state| state.cluster_committed().map(crate::types::position)).await;
    asked.ok().map(|at| at.map_or(0, |at| at.index))
}

async fn listen(world: &World, config: &RaftConfig) -> Result<Box<dyn NetListener>, StartError> {
    world.net.bind(&config.listen).await.map_err(|source| StartError::Listen { addr: config.listen.clone(), source })
}

/// Writes the first entry of a new cluster, on each of its first members alike.
async fn initialize(
    raft: &Raft<crate::types::TypeConfig, Machine>,
    log: &LogHandle,
    boot: &Boot,
) -> Result<(), StartError> {
    let Boot::Create { members, .. } = boot else { return Ok(()) };
    let fresh = log.durable_end().index == 0 && log.vote() == Default::default();
    if !fresh {
        return Ok(());
    }
    let nodes: BTreeMap<u64, MemberAddr> = members.iter().map(|member| (member.id, addr_of(member))).collect();
    if nodes.len() != members.len() || nodes.contains_key(&0) {
        return Err(StartError::Config("the first members must have different ids, from 1".to_owned()));
    }
    raft.initialize(nodes).await.map_err(|error| StartError::Other(format!("the cluster was not created: {error}")))
}

fn addr_of(member: &Member) -> MemberAddr {
    MemberAddr { peer_addr: member.peer_addr.clone(), http_addr: member.http_addr.clone() }
}

/// Pulls a snapshot from any peer and makes it the current generation. The engine would not: it looks at the log alone.
async fn rebuild_rows(
    config: &RaftConfig,
    log: &LogHandle,
    links: &Links,
    template: &Arc<Template>,
    generation: u64,
    reason: &str,
    need_index: u64,
) -> Result<(u64, Arc<dyn Rows>), StartError> {
    tracing::warn!(reason, need_index, "rows are lost: asking the peers for a snapshot");
    let mut peers = log.members();
    peers.extend(config.seeds.iter().map(|member| (member.id, addr_of(member))));
    peers.remove(&config.node_id);
    for (node, addr) in &peers {
        links.set_addr(*node, &addr.peer_addr);
    }
    let deadline = Instant::now() + Duration::from_millis(config.rebuild_timeout_ms);
    loop {
        for node in peers.keys() {
            match pull(links, *node, need_index, template, generation).await {
                Ok(prepared) => {
                    let header = prepared.header().clone();
                    let at = LogPosition { index: header.index, term: header.term };
                    cut_log(log, at).await.map_err(StartError::Other)?;
                    let generation = prepared.generation();
                    log.rows_synced(generation, at.index)
                        .await
                        .map_err(|error| StartError::Other(error.to_string()))?;
                    tracing::info!(from = node, index = at.index, "rows were rebuilt from a peer's snapshot");
                    return Ok((generation, prepared.keep()));
                }
                Err(error) => tracing::warn!(from = node, %error, "a peer gave no snapshot"),
            }
        }
        if Instant::now() + PULL_PAUSE >= deadline {
            return Err(StartError::RowsLost { reason: reason.to_owned(), need_index });
        }
        tokio::time::sleep(PULL_PAUSE).await;
    }
}

/// Rows of which some cannot be read, when nobody has better ones: a shop that misses a few rows beside one that is shut.
fn what_is_left(
    world: &World,
    identity: &Identity,
    need_index: u64,
    error: StartError,
) -> Result<(u64, Arc<dyn Rows>), StartError> {
    match world.disk.open_damaged_rows(identity.generation, identity.synced_index) {
        // They may be ahead of the log, which must not forget what only they know.
        Ok(OpenedRows::Ready(rows)) if rows.applied() >= need_index && rows.sync().is_ok() => {
            tracing::error!(%error, "nobody has better rows than the damaged ones here: going on with what can be read");
            Ok((identity.generation, rows))
        }
        Ok(_) | Err(_) => Err(error),
    }
}

/// Removes from the log what contradicts the snapshot: entries that lost against what was committed.
async fn cut_log(log: &LogHandle, at: LogPosition) -> Result<(), String> {
    let held = log.term_at(at.index)?;
    if held.is_none_or(|term| term == at.term) {
        return Ok(());
    }
    let before = at.index - 1;
    let after = match log.term_at(before)? {
        Some(term) => Some(LogPosition { index: before, term }),
        None => Some(log.purged()).filter(|purged| purged.index > 0),
    };
    let mut adapter = LogAdapter::new(log.clone());
    adapter.truncate_after(after.map(log_id)).await.map_err(|error| error.to_string())
}
