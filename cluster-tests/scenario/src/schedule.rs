//! What a nemesis is given: the cluster, chance, a place to write its faults down, and when to stop.
//!
//! A nemesis runs beside the load until the time is over. It does one fault after the other: finds its targets and the
//! part they play, notes the beginning, acts, waits, heals, notes the end. It leaves nothing broken when it returns of
//! its own accord; the runner heals all once more afterwards in any case.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_history::{Micros, NodeId, Target};
use tokio::sync::watch;

use crate::{
    admin::Admin,
    cluster::{Act, BoxFuture, Cluster},
    recorder::{FaultId, Recorder},
    rng::Rng,
};

/// A schedule of faults.
pub trait Nemesis: Send + Sync + 'static {
    /// As in the reports: `N1` … `N18`, or several joined by `+`.
    fn name(&self) -> String;

    /// Whether this cluster can be attacked so. Asked before the run; a no fails it.
    fn fits(&self, cluster: &dyn Cluster) -> bool {
        let _ = cluster;
        true
    }

    /// Attacks until [`Context::is_over`]. An error fails the run: a fault that did not happen proves nothing.
    fn run<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<(), String>>;
}

/// No faults at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calm;

impl Nemesis for Calm {
    fn name(&self) -> String {
        "calm".to_owned()
    }

    fn run<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            while context.pause(Duration::from_secs(1)).await {}
            Ok(())
        })
    }
}

/// What a nemesis works with.
pub struct Context {
    cluster: Arc<dyn Cluster>,
    admin: Admin,
    recorder: Arc<Recorder>,
    rng: Rng,
    forks: AtomicU64,
    until: Micros,
    stop: watch::Receiver<bool>,
}

impl Context {
    /// For the time until `until`, or until `stop` is true.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        recorder: Arc<Recorder>,
        rng: Rng,
        until: Micros,
        stop: watch::Receiver<bool>,
    ) -> Context {
        let admin = Admin::new(cluster.clone());
        Context { cluster, admin, recorder, rng, forks: AtomicU64::new(0), until, stop }
    }

    /// A part of it with chance of its own, which ends at `until` at the latest: for nemeses that run others.
    pub fn part(&self, name: &str, until: Micros) -> Context {
        let (cluster, recorder) = (self.cluster.clone(), self.recorder.clone());
        Context::new(cluster, recorder, self.rng.fork(name), until.min(self.until), self.stop.clone())
    }

    /// What is attacked.
    pub fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.cluster
    }

    /// The operator's questions and acts.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// A stream of chance; the n-th call gives the n-th stream. One per nemesis is enough.
    pub fn rng(&self) -> Rng {
        self.rng.fork(&format!("stream {}", self.forks.fetch_add(1, Ordering::Relaxed)))
    }

    /// Now, on the run's clock.
    pub fn now(&self) -> Micros {
        self.cluster.now()
    }

    /// When chaos ends.
    pub fn until(&self) -> Micros {
        self.until
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        Duration::from_micros(self.until.saturating_sub(self.now()))
    }

    /// Whether to heal and return.
    pub fn is_over(&self) -> bool {
        *self.stop.borrow() || self.now() >= self.until
    }

    /// Waits, at most until it is over; says whether to go on.
    pub async fn pause(&self, time: Duration) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep(time.min(self.left())) => {}
        }
        !self.is_over()
    }

    /// Does something to the cluster.
    ///
    /// # Errors
    /// It was not done.
    pub async fn act(&self, act: Act) -> Result<(), String> {
        let what = format!("{act:?}");
        self.cluster.act(act).await.map_err(|error| format!("{what}: {error}"))
    }

    /// Who leads, if anyone says so.
    pub async fn leader(&self) -> Option<NodeId> {
        self.admin.leader().await
    }

    /// Who leads, waited for until it is over.
    pub async fn some_leader(&self) -> Option<NodeId> {
        self.admin.wait_for_leader(self.left()).await
    }

    /// Nodes with the part they play now.
    pub async fn targets(&self, nodes: &[NodeId]) -> Vec<Target> {
        self.admin.targets(nodes).await
    }

    /// A node id for [`Act::Provision`] that nobody else in this run was given.
    pub fn fresh_node(&self) -> NodeId {
        self.recorder.fresh_node(self.cluster.fresh_id())
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u64 {
        self.recorder.in_flight()
    }

    /// Waits, for a bounded time, until requests are under way, so that a fault hits some; says whether there are.
    pub async fn wait_for_load(&self) -> bool {
        for _ in 0..1_000 {
            if self.recorder.writes_in_flight() > 0 {
                return true;
            }
            if self.is_over() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    /// Notes that a fault begins now. Call it right before the act, with targets found before.
    pub fn begin_fault(&self, nemesis: &str, kind: &str, targets: Vec<Target>, detail: &str) -> FaultId {
        self.recorder.begin_fault(nemesis, kind, self.now(), targets, detail)
    }

    /// Notes that it is healed.
    pub fn end_fault(&self, fault: FaultId) {
        self.recorder.end_fault(fault, self.now());
    }
}
