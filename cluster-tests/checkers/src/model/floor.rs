//! Real time: what everybody could know before an operation began.
//!
//! Whoever was answered at index i before another one asks has shown that entry i is there; so a write that is asked
//! later lies behind it, a linearizable read sees it, and a refusal is decided with it in sight. Answers count that
//! promise as much: those of writes, and of linearizable reads.

use agora_history::{Call, Level, Micros, Reply};

/// Whether an answer binds everybody who asks later.
pub(crate) fn binds(call: &Call) -> bool {
    match (&call.reply, call.request.is_write()) {
        (Reply::Yes { .. } | Reply::Refused { .. }, true) => true,
        (Reply::Yes { .. }, false) => call.level == Some(Level::Linearizable),
        _ => false,
    }
}

/// The highest index told to anybody by any time.
#[derive(Debug)]
pub(crate) struct Floor {
    /// When it rose, to which index, by which operation.
    rises: Vec<(Micros, u64, u64)>,
}

impl Floor {
    /// From all answers of a run.
    pub(crate) fn new(calls: &[Call]) -> Floor {
        let told = |call: &Call| Some((call.returned, call.index?, call.op));
        let mut rises: Vec<_> = calls.iter().filter(|call| binds(call)).filter_map(told).collect();
        rises.sort_unstable();
        let mut highest = 0;
        rises.retain(|(_, index, _)| {
            let rises = *index > highest;
            highest = highest.max(*index);
            rises
        });
        Floor { rises }
    }

    /// The highest index told before a moment, and by which operation.
    pub(crate) fn before(&self, moment: Micros) -> (u64, Option<u64>) {
        let after = self.rises.partition_point(|(returned, ..)| *returned < moment);
        after.checked_sub(1).map_or((0, None), |at| (self.rises[at].1, Some(self.rises[at].2)))
    }
}
