//! One fault as data: what is done, how long it lasts, how it is undone.
//!
//! A round is planned before anything is done, from chance and what was seen of the cluster. So the same seed and the
//! same sight give the same round, what was done can be written down whole, and several rounds can be laid over each
//! other and healed part by part (N18).

use std::{collections::BTreeSet, time::Duration};

use agora_history::NodeId;

use crate::{
    cluster::{Act, Link},
    recorder::FaultId,
    schedule::Context,
};

/// How often it is looked whether a node has died.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of a round's description that are kept.
const DETAIL_MAX: usize = 2_000;

/// One thing after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// To the cluster.
    Do(Act),
    /// Nothing, for so many milliseconds.
    Wait(u64),
    /// Until the node has died by itself, but no longer than so many milliseconds.
    UntilDown(NodeId, u64),
    /// Until the node has died by itself; one that lives on for so many milliseconds fails the round.
    MustDie(NodeId, u64),
    /// An operator's request. It may well fail under attack; a refusal is no failure of the round.
    Ask(Wish),
}

/// What an operator may ask for in the middle of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Leadership to this node, asked of another.
    Transfer { via: NodeId, to: NodeId },
    /// A snapshot file.
    Snapshot { of: NodeId },
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// In a few words, as the report shows it.
    pub kind: String,
    /// Whom it hits.
    pub targets: Vec<NodeId>,
    /// What is done.
    pub strike: Vec<Step>,
    /// How long it lasts from then on, in milliseconds.
    pub hold_ms: u64,
    /// What undoes it. What died is started again by whoever runs the round.
    pub heal: Vec<Step>,
}

impl Round {
    /// A round that hits these nodes.
    pub fn new(kind: impl Into<String>, targets: impl IntoIterator<Item = NodeId>) -> Round {
        Round {
            kind: kind.into(),
            targets: targets.into_iter().collect(),
            strike: Vec::new(),
            hold_ms: 0,
            heal: Vec::new(),
        }
    }

    /// Does this next.
    pub fn act(mut self, act: Act) -> Round {
        self.strike.push(Step::Do(act));
        self
    }

    /// Takes this step next.
    pub fn step(mut self, step: Step) -> Round {
        self.strike.push(step);
        self
    }

    /// Lasts so long.
    pub fn hold(mut self, hold_ms: u64) -> Round {
        self.hold_ms = hold_ms;
        self
    }

    /// Is undone by this, after what was given before.
    pub fn heal(mut self, act: Act) -> Round {
        self.heal.push(Step::Do(act));
        self
    }

    /// Is undone by this step, after what was given before.
    pub fn heal_step(mut self, step: Step) -> Round {
        self.heal.push(step);
        self
    }

    /// Cuts traffic between two groups, both ways.
    pub fn cut(self, one: &BTreeSet<NodeId>, other: &BTreeSet<NodeId>) -> Round {
        self.link(one, other, Link::CUT).link(other, one, Link::CUT)
    }

    /// Sets the links from each of one group to each of another.
    pub fn link(self, from: &BTreeSet<NodeId>, to: &BTreeSet<NodeId>, link: Link) -> Round {
        self.act(Act::SetLinks { from: from.clone(), to: to.clone(), link })
    }

    /// All that is needed to do it again.
    pub fn detail(&self) -> String {
        let mut text = format!("strike {:?}, hold {} ms, heal {:?}", self.strike, self.hold_ms, self.heal);
        if text.len() > DETAIL_MAX {
            let end = (0..=DETAIL_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        text
    }
}

/// Takes steps. Waits end early when the time of the attack is over; acts are done in any case, so that what heals
/// heals.
///
/// # Errors
/// An act that was not done.
pub async fn take(context: &Context, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        match step {
            Step::Do(act) => act_if_there(context, act.clone()).await?,
            Step::Wait(ms) => {
                context.pause(Duration::from_millis(*ms)).await;
            }
            Step::UntilDown(node, ms) | Step::MustDie(node, ms) => {
                let until = tokio::time::Instant::now() + Duration::from_millis(*ms);
                while context.cluster().is_up(*node) && tokio::time::Instant::now() < until {
                    if !context.pause(LOOK).await {
                        break;
                    }
                }
                let lives = context.cluster().is_up(*node) && !context.is_over();
                if lives && matches!(step, Step::MustDie(..)) {
                    return Err(format!("node {node} lives on, {ms} ms after what it must die of"));
                }
            }
            Step::Ask(wish) => ask(context, wish).await,
        }
    }
    Ok(())
}

/// Does something to nodes, unless an operator took one of them away meanwhile.
///
/// # Errors
/// It was not done though all its nodes are there.
pub async fn act_if_there(context: &Context, act: Act) -> Result<(), String> {
    let concerned = nodes_of(&act);
    let done = context.act(act).await;
    let there = context.cluster().nodes();
    if concerned.iter().all(|node| there.contains(node)) { done } else { Ok(()) }
}

/// Whom an act concerns.
fn nodes_of(act: &Act) -> BTreeSet<NodeId> {
    match act {
        Act::SetLinks { from, to, .. } => from.union(to).copied().collect(),
        Act::SetClientLinks { nodes, .. } | Act::ResetConnections { nodes } => nodes.clone(),
        Act::HealNetwork => BTreeSet::new(),
        Act::Kill(nodes) | Act::PowerLoss(nodes) => nodes.clone(),
        Act::Stop(node)
        | Act::Start(node)
        | Act::Pause(node)
        | Act::Resume(node)
        | Act::MendDisk(node)
        | Act::KeepDirectory(node)
        | Act::RestoreDirectory(node)
        | Act::Wipe(node)
        | Act::Provision(node)
        | Act::Retire(node)
        | Act::Refound(node)
        | Act::SwapBinary(node)
        | Act::ClockOffset { node, .. }
        | Act::BreakDisk { node, .. }
        | Act::CrashAt { node, .. }
        | Act::Corrupt { node, .. }
        | Act::RawConnections { node, .. } => BTreeSet::from([*node]),
    }
}

async fn ask(context: &Context, wish: &Wish) {
    // An answer is not waited for: the node may be about to die of it.
    let admin = context.admin().clone();
    let wish = wish.clone();
    tokio::spawn(async move {
        let _ = match wish {
            Wish::Transfer { via, to } => admin.transfer(via, Some(to)).await,
            Wish::Snapshot { of } => admin.snapshot(of).await.map(drop),
        };
    });
}

/// Notes the beginning of a fault that hits these nodes, once they have requests under way: with what part each plays then.
pub async fn begin(context: &Context, name: &str, kind: &str, nodes: &[NodeId], detail: &str) -> FaultId {
    context.wait_for_load().await;
    let targets = context.targets(nodes).await;
    context.begin_fault(name, kind, targets, detail)
}

/// Does a round: notes its beginning, strikes, holds, heals, notes its end.
///
/// # Errors
/// An act that was not done.
pub async fn perform(context: &Context, name: &str, round: &Round) -> Result<(), String> {
    let fault = begin(context, name, &round.kind, &round.targets, &round.detail()).await;
    take(context, &round.strike).await?;
    context.pause(Duration::from_millis(round.hold_ms)).await;
    take(context, &round.heal).await?;
    context.end_fault(fault);
    Ok(())
}
