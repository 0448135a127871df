//! Attacks by turns, until the time is over.

use std::{sync::Arc, time::Duration};

use super::{
    Attack, Turn, missing, named,
    recover::{Recovery, look, recover},
};
use crate::{
    cluster::{BoxFuture, Cluster},
    rng::Rng,
    schedule::{Context, Nemesis},
};

/// Calm between two rounds, in milliseconds: clients come back, and the next fault hits a busy cluster.
const CALM_MS: (u64, u64) = (100, 700);

/// One or several attacks, each with as many rounds as the others, in an order that a seed decides.
pub struct Campaign {
    attacks: Vec<Arc<dyn Attack>>,
    /// Turn of each attack's first round.
    first_turn: u64,
}

impl Campaign {
    /// Of the attacks with these names.
    ///
    /// # Errors
    /// A name that none has.
    pub fn of(names: &[&str]) -> Result<Campaign, String> {
        let find = |name: &&str| named(name).ok_or_else(|| format!("no attack is named {name:?}: give N1 to N18"));
        let attacks = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        if attacks.is_empty() {
            return Err("a campaign of no attack".to_owned());
        }
        Ok(Campaign { attacks, first_turn: 0 })
    }

    /// Of the same attacks without those that this cluster cannot be attacked with; nothing if none is left.
    pub fn that_fits(names: &[&str], cluster: &dyn Cluster) -> Option<Campaign> {
        let attacks: Vec<_> = names.iter().filter_map(|name| named(name)).collect();
        let attacks: Vec<_> = attacks.into_iter().filter(|attack| missing(&**attack, cluster).0.is_empty()).collect();
        (!attacks.is_empty()).then_some(Campaign { attacks, first_turn: 0 })
    }

    /// With another turn first: campaigns of few rounds each then hit leaders as often as followers.
    pub fn from_turn(self, first_turn: u64) -> Campaign {
        Campaign { first_turn, ..self }
    }

    /// The attacks.
    pub fn attacks(&self) -> &[Arc<dyn Attack>] {
        &self.attacks
    }

    async fn go(&self, context: &Context) -> Result<(), String> {
        let mut rng = context.rng();
        let mut turns = vec![self.first_turn; self.attacks.len()];
        let mut order: Vec<usize> = Vec::new();
        loop {
            let calm = rng.between(CALM_MS.0, CALM_MS.1);
            if !context.pause(Duration::from_millis(calm)).await {
                return Ok(());
            }
            let Some(next) = self.next(&mut order, &mut rng, context.left()) else {
                // Nothing that is begun now would end in time.
                context.pause(context.left()).await;
                return Ok(());
            };
            let Some(mut scene) = look(context).await else { continue };
            scene.turn = turns[next];
            turns[next] += 1;
            let attack = &self.attacks[next];
            let mut chance = rng.fork(&format!("{} round {}", attack.name(), scene.turn));
            let named = |error| format!("{} round {}: {error}", attack.name(), scene.turn + 1);
            attack.round(Turn { context, rng: &mut chance, scene: &scene }).await.map_err(named)?;
            match recover(context, true).await.map_err(named)? {
                Recovery::Whole => {}
                Recovery::Hopeless(nodes) => return Err(named(format!("nodes {nodes:?} do not stay up"))),
                Recovery::Over => return Ok(()),
            }
        }
    }

    /// Every attack once in an order by chance, then again; those that would take too long are passed over.
    fn next(&self, order: &mut Vec<usize>, rng: &mut Rng, left: Duration) -> Option<usize> {
        for _ in 0..2 {
            while let Some(next) = order.pop() {
                if self.attacks[next].longest() <= left {
                    return Some(next);
                }
            }
            order.extend(0..self.attacks.len());
            rng.shuffle(order);
        }
        None
    }
}

impl Nemesis for Campaign {
    fn name(&self) -> String {
        self.attacks.iter().map(|attack| attack.name()).collect::<Vec<_>>().join("+")
    }

    fn fits(&self, cluster: &dyn Cluster) -> bool {
        self.attacks.iter().all(|attack| missing(&**attack, cluster).0.is_empty())
    }

    fn run<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.go(context))
    }
}
