//! A fingerprint of everything that happened: two runs of a seed are the same run if theirs are equal.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::world::sim_now;

/// The fingerprint so far. Cheap to clone.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    hash: u64,
    events: u64,
    /// Every event as a line, where two runs are to be compared.
    lines: Option<Vec<String>>,
}

/// Lines kept for comparing, at most.
const LINES_MAX: usize = 2_000_000;

impl Trace {
    /// Nothing yet.
    pub fn new(keep_lines: bool) -> Trace {
        Trace(Arc::new(Mutex::new(Inner { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: keep_lines.then(Vec::new) })))
    }

    /// Something happened now.
    pub fn note(&self, what: &str, values: &[u64]) {
        let now = u64::try_from(sim_now().as_micros()).unwrap_or(u64::MAX);
        let mut inner = self.0.lock();
        let mut hash = fold(inner.hash, &now.to_le_bytes());
        hash = fold(hash, what.as_bytes());
        for value in values {
            hash = fold(hash, &value.to_le_bytes());
        }
        inner.hash = hash;
        inner.events += 1;
        if let Some(lines) = inner.lines.as_mut().filter(|lines| lines.len() < LINES_MAX) {
            lines.push(format!("{now} {what} {values:?}"));
        }
    }

    /// The fingerprint.
    pub fn hash(&self) -> u64 {
        self.0.lock().hash
    }

    /// Events in it.
    pub fn events(&self) -> u64 {
        self.0.lock().events
    }

    /// The events, if they were kept.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone().unwrap_or_default()
    }
}

/// FNV-1a, eight bytes at a time where it can.
fn fold(mut hash: u64, bytes: &[u8]) -> u64 {
    for part in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}

/// A fingerprint of bytes.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    fold(0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64, bytes)
}
