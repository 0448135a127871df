//! The attacks N1 to N18: what is done to a cluster while clients use it.
//!
//! Each has a file, and each is a generator of rounds: from chance and from what is seen of the cluster it plans one
//! fault, does it, lets it last, undoes it. A [`Campaign`] runs one or several of them, round after round, until the
//! time is over, and sees to it that the cluster is whole again before the next round: a cluster that does not heal
//! when nothing is broken any more fails the run.
//!
//! What destroys a log (a wiped or a damaged directory, an old copy put back) is repaired by the attack itself by what
//! the README tells an operator to do: remove the node, add a new one under a new id, promote it. The logs of a majority
//! are never destroyed: no promise speaks of that.

mod campaign;
#[cfg(test)]
mod fake;
mod n01_partition;
mod n02_one_way;
mod n03_bad_link;
mod n04_pause;
mod n05_kill;
mod n06_power_loss;
mod n07_crash_point;
mod n08_disk;
mod n09_quick_return;
mod n10_rot;
mod n11_forgetful;
mod n12_churn;
mod n13_snapshot;
mod n14_versions;
mod n15_clock;
mod n16_old_copy;
mod n17_strangers;
mod n18_overlap;
mod recover;
mod round;
mod scene;
#[cfg(test)]
mod tests;
mod watch;

use std::{sync::Arc, time::Duration};

pub use campaign::Campaign;
pub use recover::{Recovery, mend_all, recover};
pub use round::{Round, Step, Wish};
pub use scene::Scene;

use crate::{
    cluster::{Act, BoxFuture, Cluster},
    rng::Rng,
    schedule::Context,
};

/// What a round of an attack is given.
pub struct Turn<'a> {
    /// What it acts with.
    pub context: &'a Context,
    /// Its own chance.
    pub rng: &'a mut Rng,
    /// The cluster as it was found.
    pub scene: &'a Scene,
}

/// A round on its way to its end.
pub type Done<'a> = BoxFuture<'a, Result<(), String>>;

/// One kind of attack.
pub trait Attack: Send + Sync + 'static {
    /// `N1` … `N18`.
    fn name(&self) -> &'static str;

    /// What it does, in a few words, for lists.
    fn about(&self) -> &'static str;

    /// One sample of each kind of act it cannot do without.
    fn needs(&self) -> Vec<Act>;

    /// One sample of each kind of act that some of its variants use; those are left out where a harness cannot do them.
    fn wants(&self) -> Vec<Act> {
        Vec::new()
    }

    /// A round is not begun with less time left than this.
    fn longest(&self) -> Duration {
        Duration::from_secs(4)
    }

    /// Whether a round takes something away that no healing gives back, so that it must not be laid over others.
    fn is_destroying(&self) -> bool {
        false
    }

    /// The next round as data, where it can be planned ahead.
    fn plan(&self, rng: &mut Rng, scene: &Scene) -> Option<Round> {
        let _ = (rng, scene);
        None
    }

    /// Does the next round, to its end.
    fn round<'a>(&'a self, turn: Turn<'a>) -> Done<'a> {
        Box::pin(async move {
            let Turn { context, rng, scene } = turn;
            match self.plan(rng, scene) {
                Some(round) => round::perform(context, self.name(), &round).await,
                None => Ok(()),
            }
        })
    }
}

/// All attacks, in the order of their numbers.
pub fn all() -> Vec<Arc<dyn Attack>> {
    vec![
        Arc::new(n01_partition::Partition),
        Arc::new(n02_one_way::OneWay),
        Arc::new(n03_bad_link::BadLink),
        Arc::new(n04_pause::Pause),
        Arc::new(n05_kill::Kill),
        Arc::new(n06_power_loss::PowerLoss),
        Arc::new(n07_crash_point::CrashPoint),
        Arc::new(n08_disk::Disk),
        Arc::new(n09_quick_return::QuickReturn),
        Arc::new(n10_rot::Rot),
        Arc::new(n11_forgetful::Forgetful),
        Arc::new(n12_churn::Churn),
        Arc::new(n13_snapshot::Snapshot),
        Arc::new(n14_versions::Versions),
        Arc::new(n15_clock::Clock),
        Arc::new(n16_old_copy::OldCopy),
        Arc::new(n17_strangers::Strangers),
        Arc::new(n18_overlap::Overlap),
    ]
}

/// The attack of that name (`N6`, in either case).
pub fn named(name: &str) -> Option<Arc<dyn Attack>> {
    all().into_iter().find(|attack| attack.name().eq_ignore_ascii_case(name.trim()))
}

/// What this cluster cannot be attacked with: acts an attack cannot do without, and acts only some variants need.
pub fn missing(attack: &dyn Attack, cluster: &dyn Cluster) -> (Vec<Act>, Vec<Act>) {
    let unsupported = |acts: Vec<Act>| acts.into_iter().filter(|act| !cluster.supports(act)).collect();
    (unsupported(attack.needs()), unsupported(attack.wants()))
}
