//! What must be done between two steps of the simulation, by whoever drives it.

use std::{collections::BTreeSet, collections::VecDeque, sync::Arc};

use agora_history::NodeId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// One thing to be done.
#[derive(Debug)]
pub enum Command {
    /// Ends processes. Without power they are not heard ending, and their disks forget.
    End { nodes: BTreeSet<NodeId>, power_loss: bool, done: oneshot::Sender<()> },
    /// Starts a process; nothing happens if it runs.
    Start { node: NodeId, done: oneshot::Sender<()> },
    /// A new machine, started.
    Provision { node: NodeId, done: oneshot::Sender<()> },
    /// A process ended by itself, as it was told.
    Stopped(NodeId),
    /// A process ended by itself, and should not have, unless its disk was hurt.
    Died { node: NodeId, life: u64, why: String },
    /// A process is killed by a call that was counted down.
    Tripped { node: NodeId },
}

/// The queue of them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Commands(Arc<Mutex<VecDeque<Command>>>);

impl Commands {
    /// Puts one at the end.
    pub fn push(&self, command: Command) {
        self.0.lock().push_back(command);
    }

    /// Takes the first.
    pub fn pop(&self) -> Option<Command> {
        self.0.lock().pop_front()
    }
}
