//! One simulated machine: its disk and clock, which outlive the node's process, and the process itself.
//!
//! The process is what `agora start` puts together: the shop over disk, world and peers, and the API's router behind
//! HTTP. It ends in the same three ways: told to, unable to start, or fatally; then the driver takes its runtime away.

use std::{future::pending, sync::Arc, time::Duration};

use agora_actors::{Shop, ShopConfig};
use agora_api::{ApiConfig, ApiState};
use agora_history::NodeId;
use agora_raft::{Boot, Member, RaftConfig};
use agora_storage::MemDisk;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    commands::{Command, Commands},
    pick,
    wires::{Place, Wires},
    world::{ClockOffset, SimListener, sim_now, world},
};

/// Port for peers, on every machine.
pub const PEER_PORT: u16 = 7_400;
/// Port for clients, on every machine.
pub const HTTP_PORT: u16 = 8_080;
/// Bearer key of the shop.
pub const SHOP_KEY: &str = "sk_live_simulation";
/// Bearer key of the administrator.
pub const ADMIN_KEY: &str = "sk_admin_simulation";

/// What is the same on all machines.
pub struct Plan {
    /// Everything random comes from this.
    pub seed: u64,
    /// The first members.
    pub first: Vec<NodeId>,
    /// How unpaid orders live and so on.
    pub shop: ShopConfig,
    /// Timing and bounds of raft; ids and addresses are filled in.
    pub raft: RaftConfig,
}

/// One machine.
pub struct Machine {
    /// Whose it is.
    pub node: NodeId,
    /// How far its clock is off.
    pub offset: ClockOffset,
    plan: Arc<Plan>,
    wires: Wires,
    commands: Commands,
    state: Mutex<State>,
}

/// So long after a disk was hurt, mended, or begun to be used with what was done to it, its process may end of it: more than
/// any fault lasts.
const EXCUSED: Duration = Duration::from_secs(15);

#[derive(Default)]
struct State {
    disk: MemDisk,
    kept: Option<MemDisk>,
    life: u64,
    /// Times it was made a node of another cluster.
    refounded: u32,
    is_up: bool,
    is_paused: bool,
    /// What was done to its disk may end the process.
    hurt: Hurt,
    shop: Option<Shop>,
    stop: Option<oneshot::Sender<()>>,
}

/// What was done to a disk, which excuses the end of its process: not for ever, but as long as it may take to meet it.
#[derive(Clone, Copy, Debug, Default)]
struct Hurt {
    /// Until then, in simulated time.
    until: Option<Duration>,
}

impl Hurt {
    fn hurt(&mut self, now: Duration) {
        self.until = Some(now + EXCUSED);
    }

    /// What it comes of was done, or may be met, at this time.
    fn again(&mut self, now: Duration) {
        if self.excuses(now) {
            self.hurt(now);
        }
    }

    fn excuses(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now <= until)
    }
}

impl Machine {
    /// With an empty disk, not started.
    pub fn new(node: NodeId, plan: Arc<Plan>, wires: Wires, commands: Commands) -> Machine {
        Machine { node, offset: ClockOffset::default(), plan, wires, commands, state: Mutex::default() }
    }

    /// Its disk.
    pub fn disk(&self) -> MemDisk {
        self.state.lock().disk.clone()
    }

    /// Another disk in place of it.
    pub fn set_disk(&self, disk: MemDisk) {
        self.state.lock().disk = disk;
    }

    /// A copy of the disk is put aside.
    pub fn keep_disk(&self) {
        let mut state = self.state.lock();
        state.kept = Some(state.disk.fork());
    }

    /// The copy that was put aside.
    pub fn kept_disk(&self) -> Option<MemDisk> {
        self.state.lock().kept.as_ref().map(MemDisk::fork)
    }

    /// From its next start on it takes itself for a node of another cluster of the same name.
    pub fn refound(&self) {
        self.state.lock().refounded += 1;
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.state.lock().is_up
    }

    /// Whether its process stands still.
    pub fn is_paused(&self) -> bool {
        self.state.lock().is_paused
    }

    /// See [`Machine::is_paused`].
    pub fn set_paused(&self, paused: bool) {
        self.state.lock().is_paused = paused;
    }

    /// The process may end by what is done to its disk now.
    pub fn hurt_disk(&self) {
        self.state.lock().hurt.hurt(sim_now());
    }

    /// See [`Machine::hurt_disk`].
    pub fn is_disk_hurt(&self) -> bool {
        self.state.lock().hurt.excuses(sim_now())
    }

    /// Its disk works again; what it did to the process by now may still come out.
    pub fn mend_disk(&self) {
        let mut state = self.state.lock();
        state.disk.mend();
        state.hurt.again(sim_now());
    }

    /// The shop, while it runs.
    pub fn shop(&self) -> Option<Shop> {
        self.state.lock().shop.clone()
    }

    /// Starts of its process.
    pub fn life(&self) -> u64 {
        self.state.lock().life
    }

    /// Asks the process to end. False if it does not listen.
    pub fn ask_to_stop(&self) -> bool {
        self.state.lock().stop.take().is_some_and(|stop| stop.send(()).is_ok())
    }

    /// Called by the driver when a process begins.
    pub fn began(&self) {
        let mut state = self.state.lock();
        state.is_up = true;
        state.is_paused = false;
        state.life += 1;
        // What was done to the disk of a node that was down is met from now on.
        state.hurt.again(sim_now());
    }

    /// Called by the driver before the process's runtime is taken away. What the process holds must go with its runtime.
    pub fn ended(&self) -> Option<Shop> {
        let mut state = self.state.lock();
        state.is_up = false;
        state.is_paused = false;
        state.stop = None;
        state.shop.take()
    }

    /// The process. Does not return: the driver ends it.
    pub async fn live(self: Arc<Machine>) -> turmoil::Result {
        let (stop, stopped) = oneshot::channel();
        self.state.lock().stop = Some(stop);
        let why = self.run(stopped).await;
        self.commands.push(match why {
            Ended::Told => Command::Stopped(self.node),
            Ended::Fatally(why) => Command::Died { node: self.node, life: self.life(), why },
        });
        pending().await
    }

    async fn run(&self, stopped: oneshot::Receiver<()>) -> Ended {
        let world = world(self.plan.seed, self.node, self.life(), &self.wires, self.offset.clone(), self.disk());
        let mut stopped = std::pin::pin!(stopped);
        let started = tokio::select! {
            biased;
            started = Shop::start(world, self.raft(), self.boot(), self.plan.shop.clone()) => started,
            _ = &mut stopped => return Ended::Told,
        };
        let shop = match started {
            Ok(shop) => shop,
            Err(why) => return Ended::Fatally(format!("cannot start: {why}")),
        };
        let listener = match SimListener::bind(&self.wires, Place::Node(self.node), HTTP_PORT).await {
            Ok(listener) => listener,
            Err(why) => return Ended::Fatally(format!("cannot listen: {why}")),
        };
        self.state.lock().shop = Some(shop.clone());
        let config = ApiConfig {
            shop_key: SHOP_KEY.to_owned(),
            admin_key: ADMIN_KEY.to_owned(),
            request_timeout_ms: pick::request_timeout_ms(self.plan.seed),
            ..ApiConfig::default()
        };
        let serving = tokio::spawn(serve(listener, ApiState::new(shop.clone(), config)));
        tokio::select! {
            biased;
            reason = shop.cluster().fatal() => return Ended::Fatally(reason),
            _ = &mut stopped => {}
        }
        serving.abort();
        tokio::select! {
            biased;
            reason = shop.cluster().fatal() => Ended::Fatally(reason),
            () = shop.shutdown() => Ended::Told,
        }
    }

    fn raft(&self) -> RaftConfig {
        RaftConfig {
            node_id: self.node,
            cluster: "simulated".to_owned(),
            listen: format!("n{}:{PEER_PORT}", self.node),
            http_advertise: http_addr(self.node),
            peer_secret: [7; 32],
            seeds: self.plan.first.iter().filter(|node| **node != self.node).map(|node| member(*node)).collect(),
            ..self.plan.raft.clone()
        }
    }

    fn boot(&self) -> Boot {
        if self.plan.first.contains(&self.node) {
            let lineage = u128::from(self.plan.seed) << 8 | u128::from(1 + self.state.lock().refounded);
            Boot::Create { lineage, members: self.plan.first.iter().map(|node| member(*node)).collect() }
        } else {
            Boot::Join
        }
    }
}

enum Ended {
    Told,
    Fatally(String),
}

/// Where peers dial a node.
pub fn peer_addr(node: NodeId) -> String {
    format!("n{node}:{PEER_PORT}")
}

/// Where clients dial a node.
pub fn http_addr(node: NodeId) -> String {
    format!("n{node}:{HTTP_PORT}")
}

fn member(node: NodeId) -> Member {
    Member { id: node, peer_addr: peer_addr(node), http_addr: http_addr(node) }
}

/// The API over simulated sockets, with the bounds that the real one has.
async fn serve(listener: SimListener, state: ApiState) {
    let service = TowerToHyperService::new(agora_api::router(state));
    while let Ok((stream, _)) = listener.next().await {
        let service = service.clone();
        tokio::spawn(async move {
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .max_headers(100)
                .max_buf_size(64 * 1_024)
                .serve_connection(TokioIo::new(stream), service);
            // A client that went away is no news.
            let _ = serving.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_to_a_disk_long_ago_excuses_nothing() {
        let at = Duration::from_secs;
        let mut hurt = Hurt::default();
        hurt.again(at(1));
        assert!(!hurt.excuses(at(1)), "nothing was done");
        hurt.hurt(at(2));
        assert!(hurt.excuses(at(10)));
        // A node that was refused is started again and again.
        hurt.again(at(16));
        assert!(hurt.excuses(at(30)) && !hurt.excuses(at(32)));
        hurt.again(at(32));
        assert!(!hurt.excuses(at(33)));
    }
}
