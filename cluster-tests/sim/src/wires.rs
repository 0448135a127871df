//! What is between the machines: the state of every link, as faults have left it.
//!
//! turmoil carries whole segments between hosts, a few milliseconds each, and never loses one here. What a fault does to a
//! link is done in front of it, by the sender's end of each stream ([`crate::stream`]), and as TCP would show it: a cut
//! link does not break a connection, it holds it up until it is healed or somebody loses patience; a lost packet is a
//! late one, with everything behind it; a machine without power does not refuse, it is silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agora_history::NodeId;
use agora_scenario::{cluster::Link, rng::Rng};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::stream::Fate;

/// First pause before a lost packet is sent again; doubled each time.
const RESEND_MS: u64 = 200;
/// Times a packet is lost in a row, at most.
const LOSSES_MAX: u32 = 5;

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// All clients, who share a machine.
    Clients,
    /// A node's machine.
    Node(NodeId),
}

impl Place {
    /// Its name in the simulated network.
    pub fn name(self) -> String {
        match self {
            Place::Clients => "clients".to_owned(),
            Place::Node(node) => format!("n{node}"),
        }
    }

    /// By its name.
    pub fn of(name: &str) -> Option<Place> {
        if name == "clients" {
            return Some(Place::Clients);
        }
        name.strip_prefix('n')?.parse().ok().map(Place::Node)
    }
}

/// All links. Cheap to clone.
#[derive(Clone)]
pub struct Wires {
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<Table>,
    /// Moves with every change, so that streams need not look at the table for every write.
    version: AtomicU64,
    changed: watch::Sender<u64>,
}

struct Table {
    links: BTreeMap<(Place, Place), Link>,
    /// Machines that do not answer at all: without power, standing still, or dying.
    silent: BTreeSet<Place>,
    /// Machines whose processes are gone without the others being told.
    dark: BTreeSet<Place>,
    streams: Vec<(Place, Place, Weak<Fate>)>,
    chance: Rng,
}

impl Wires {
    /// Everything is well.
    pub fn new(seed: u64) -> Wires {
        Wires {
            shared: Arc::new(Shared {
                table: Mutex::new(Table {
                    links: BTreeMap::new(),
                    silent: BTreeSet::new(),
                    dark: BTreeSet::new(),
                    streams: Vec::new(),
                    chance: Rng::new(seed).fork("wires"),
                }),
                version: AtomicU64::new(1),
                changed: watch::Sender::new(1),
            }),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let changed = change(&mut self.shared.table.lock());
        let version = self.shared.version.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.changed.send_replace(version);
        changed
    }

    /// Sets one direction between two places.
    pub fn set(&self, from: Place, to: Place, link: Link) {
        self.change(|table| {
            if link == Link::default() {
                table.links.remove(&(from, to));
            } else {
                table.links.insert((from, to), link);
            }
        });
    }

    /// All links as they were. Machines that are silent stay so.
    pub fn heal(&self) {
        self.change(|table| table.links.clear());
    }

    /// Nothing gets into or out of this machine any more, or it does again.
    pub fn set_silent(&self, place: Place, silent: bool) {
        self.change(|table| if silent { table.silent.insert(place) } else { table.silent.remove(&place) });
    }

    /// This machine is without power, or has it again. Streams to and from it are dead for good when it loses it.
    pub fn set_dark(&self, place: Place, dark: bool) {
        self.change(|table| if dark { table.dark.insert(place) } else { table.dark.remove(&place) });
    }

    /// Open streams between these places are reset.
    pub fn reset(&self, places: &BTreeSet<Place>) {
        let streams: Vec<_> = {
            let mut table = self.shared.table.lock();
            table.streams.retain(|(_, _, fate)| fate.strong_count() > 0);
            let hit = |(from, to, _): &&(Place, Place, Weak<Fate>)| places.contains(from) && places.contains(to);
            table.streams.iter().filter(hit).filter_map(|(_, _, fate)| fate.upgrade()).collect()
        };
        for fate in streams {
            fate.reset();
        }
    }

    pub(crate) fn enrol(&self, from: Place, to: Place, fate: &Arc<Fate>) {
        let mut table = self.shared.table.lock();
        if table.streams.len() >= 1_024 {
            table.streams.retain(|(_, _, fate)| fate.strong_count() > 0);
        }
        table.streams.push((from, to, Arc::downgrade(fate)));
    }

    /// Counts changes.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Relaxed)
    }

    /// Follows changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Nothing to hold up, delay or lose from here to there, or back.
    pub fn is_clean(&self, from: Place, to: Place) -> bool {
        let table = self.shared.table.lock();
        !table.is_mute(from)
            && !table.is_mute(to)
            && !table.links.contains_key(&(from, to))
            && !table.links.contains_key(&(to, from))
    }

    /// Whether nothing gets from here to there.
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        let table = self.shared.table.lock();
        table.is_mute(from) || table.is_mute(to) || table.links.get(&(from, to)).is_some_and(|link| link.loss >= 1.0)
    }

    /// Machines to which no word of this one's end may get when its process ends now.
    pub fn out_of_reach(&self, from: Place, others: &[Place]) -> Vec<Place> {
        others.iter().copied().filter(|to| *to != from && self.is_cut(from, *to)).collect()
    }

    /// How long a packet takes from here to there beyond what the network takes, with the resends it needs.
    pub fn delay(&self, from: Place, to: Place, bytes: usize) -> Duration {
        let mut table = self.shared.table.lock();
        let Some(link) = table.links.get(&(from, to)).copied() else { return Duration::ZERO };
        let mut delay = Duration::from_millis(link.delay_ms);
        if link.jitter_ms > 0 {
            delay += Duration::from_millis(table.chance.below(link.jitter_ms + 1));
        }
        if let Some(passing_us) = (bytes as u64 * 1_000_000).checked_div(link.rate_bytes) {
            delay += Duration::from_micros(passing_us);
        }
        let lost_per_mille = (link.loss.clamp(0.0, 1.0) * 1_000.0) as u64;
        for resend in 0..LOSSES_MAX {
            if lost_per_mille >= 1_000 || !table.chance.per_mille(lost_per_mille) {
                break;
            }
            delay += Duration::from_millis(RESEND_MS << resend);
        }
        delay
    }

    /// Waits until a connection can be made: a packet must get there and another one back.
    pub async fn reachable(&self, from: Place, to: Place) {
        let mut changed = self.watch();
        while self.is_cut(from, to) || self.is_cut(to, from) {
            if changed.changed().await.is_err() {
                return;
            }
        }
        if !self.is_clean(from, to) {
            let delay = self.delay(from, to, 60) + self.delay(to, from, 60);
            tokio::time::sleep(delay).await;
        }
    }
}

impl Table {
    fn is_mute(&self, place: Place) -> bool {
        self.silent.contains(&place) || self.dark.contains(&place)
    }
}
