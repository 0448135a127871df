//! What becomes of a packet: it passes, is lost, comes late, comes twice. Pure, so that it can be tested without a network.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use agora_history::NodeId;
use agora_scenario::cluster::Link;

/// Time a packet may wait for a slow link before it is dropped, as a router with a short queue would.
const QUEUE_MAX: Duration = Duration::from_secs(1);

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    /// Delivered once after each of these times.
    Arrives {
        after: Duration,
        again: Option<Duration>,
    },
}

impl Fate {
    const AT_ONCE: Fate = Fate::Arrives { after: Duration::ZERO, again: None };
}

/// The links that are not perfect, by direction, and the nodes that are without power.
pub struct Links {
    impaired: BTreeMap<(NodeId, NodeId), State>,
    dark: BTreeSet<NodeId>,
    chance: u64,
}

struct State {
    link: Link,
    /// When the link will have sent what it has taken.
    busy_until: Option<Instant>,
}

impl Links {
    /// All perfect.
    pub fn new(seed: u64) -> Links {
        Links { impaired: BTreeMap::new(), dark: BTreeSet::new(), chance: seed }
    }

    /// Makes one direction so.
    pub fn set(&mut self, from: NodeId, to: NodeId, link: Link) {
        if link == Link::default() {
            self.impaired.remove(&(from, to));
        } else {
            self.impaired.insert((from, to), State { link, busy_until: None });
        }
    }

    /// All perfect again; who is without power stays so.
    pub fn heal(&mut self) {
        self.impaired.clear();
    }

    /// Nothing comes from or reaches a machine without power: not even a reset.
    pub fn set_dark(&mut self, node: NodeId, dark: bool) {
        if dark {
            self.dark.insert(node);
        } else {
            self.dark.remove(&node);
        }
    }

    /// Decides over one packet.
    pub fn fate(&mut self, from: NodeId, to: NodeId, bytes: usize, now: Instant) -> Fate {
        if self.dark.contains(&from) || self.dark.contains(&to) {
            return Fate::Lost;
        }
        if self.impaired.is_empty() {
            return Fate::AT_ONCE;
        }
        let (lost, late, twice, late_again) = (self.draw(), self.draw(), self.draw(), self.draw());
        let Some(state) = self.impaired.get_mut(&(from, to)) else { return Fate::AT_ONCE };
        let link = state.link;
        if lost < link.loss {
            return Fate::Lost;
        }
        let mut sent = now;
        if link.rate_bytes > 0 {
            let taken = state.busy_until.map_or(now, |until| until.max(now));
            if taken.saturating_duration_since(now) > QUEUE_MAX {
                return Fate::Lost;
            }
            sent = taken + Duration::from_secs_f64(bytes as f64 / link.rate_bytes as f64);
            state.busy_until = Some(sent);
        }
        let base = sent.saturating_duration_since(now) + Duration::from_millis(link.delay_ms);
        let jitter = |part: f64| Duration::from_secs_f64(link.jitter_ms as f64 * part / 1_000.0);
        let again = (twice < link.duplicate).then(|| base + jitter(late_again));
        Fate::Arrives { after: base + jitter(late), again }
    }

    /// A number from 0 up to, but not, 1 (splitmix64).
    fn draw(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.chance;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(link: Link, packets: usize) -> Vec<Fate> {
        let mut links = Links::new(7);
        links.set(1, 2, link);
        let now = Instant::now();
        (0..packets).map(|_| links.fate(1, 2, 1_000, now)).collect()
    }

    #[test]
    fn a_cut_is_one_way_and_total() {
        let mut links = Links::new(1);
        links.set(1, 2, Link::CUT);
        let now = Instant::now();
        assert!((0..10_000).all(|_| links.fate(1, 2, 100, now) == Fate::Lost));
        assert_eq!(links.fate(2, 1, 100, now), Fate::AT_ONCE);
        assert_eq!(links.fate(1, 3, 100, now), Fate::AT_ONCE);
        links.heal();
        assert_eq!(links.fate(1, 2, 100, now), Fate::AT_ONCE);
    }

    #[test]
    fn a_machine_without_power_is_silent_even_when_the_network_heals() {
        let mut links = Links::new(1);
        links.set_dark(2, true);
        links.heal();
        let now = Instant::now();
        assert_eq!(links.fate(1, 2, 100, now), Fate::Lost);
        assert_eq!(links.fate(2, 3, 100, now), Fate::Lost);
        links.set_dark(2, false);
        assert_eq!(links.fate(2, 3, 100, now), Fate::AT_ONCE);
    }

    #[test]
    fn so_many_are_lost_and_so_many_come_twice() {
        let fates = many(Link { loss: 0.3, duplicate: 0.2, ..Link::default() }, 20_000);
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        let twice = fates.iter().filter(|fate| matches!(fate, Fate::Arrives { again: Some(_), .. })).count();
        assert!((5_500..6_500).contains(&lost), "{lost} of 20000 lost, wanted about 6000");
        assert!((2_500..3_100).contains(&twice), "{twice} of 20000 doubled, wanted about 2800");
    }

    #[test]
    fn jitter_lets_packets_overtake_each_other() {
        let fates = many(Link { delay_ms: 50, jitter_ms: 40, ..Link::default() }, 1_000);
        let after: Vec<Duration> = fates
            .iter()
            .map(|fate| match fate {
                Fate::Arrives { after, again: None } => *after,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(after.iter().all(|time| (50..90).contains(&time.as_millis())));
        assert!(after.windows(2).any(|pair| pair[1] < pair[0]));
    }

    #[test]
    fn a_slow_link_sends_at_its_rate_and_drops_what_waits_too_long() {
        // 1,000 bytes at 10,000 bytes a second: ten a second, and a queue of one second.
        let fates = many(Link { rate_bytes: 10_000, ..Link::default() }, 30);
        let arrived = fates.iter().filter(|fate| **fate != Fate::Lost).count();
        assert_eq!(fates[0], Fate::Arrives { after: Duration::from_millis(100), again: None });
        assert_eq!(fates[9], Fate::Arrives { after: Duration::from_secs(1), again: None });
        assert_eq!(arrived, 11);
        assert_eq!(fates[29], Fate::Lost);
    }
}
