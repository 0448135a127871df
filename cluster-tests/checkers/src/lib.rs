//! Decides whether what clients saw under attack keeps the promises.
//!
//! Each checker reads a [`RunData`] and nothing else, shares no code with the product, and is itself tested with
//! histories that are known to be wrong.

use std::collections::BTreeMap;

use agora_history::RunData;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod agreement;
pub mod c01_model;
mod c02_keys;
mod c02_known;
pub mod c02_linearizable;
mod c02_objects;
mod c03_cycles;
pub mod c04_conservation;
pub mod c05_acknowledged;
pub mod c06_one_effect;
pub mod c07_transitions;
mod c08_sessions;
pub mod c09_digest;
pub mod c10_recovery;
pub mod c11_coverage;
mod c12_no_fault;
mod cycles;
mod model;
mod report;
mod second;
mod wgl;
mod witness;

#[doc(hidden)]
pub mod testing;
mod words;

/// A promise that was broken, told so that a person can find it in the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong, with the figures.
    pub what: String,
    /// Operations involved.
    pub ops: Vec<u64>,
    /// Log index, where it has one.
    pub index: Option<u64>,
}

/// What one checker says of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// `C1` … `C12`.
    pub checker: String,
    /// What it looks for, in a few words.
    pub promise: String,
    /// Operations (or events, or entities) it looked at.
    pub checked: u64,
    /// Of these, how many it could not decide within its bounds.
    pub undecided: u64,
    /// Broken promises; at most [`FINDINGS_MAX`], the first ones.
    pub findings: Vec<Finding>,
    /// Anything worth a line in the report, by name.
    pub figures: BTreeMap<String, f64>,
}

impl Checked {
    /// What nobody can say that it was right, if there is any: a verdict that is missing is not a good one.
    pub fn unsure(&self) -> Option<String> {
        (self.undecided > 0)
            .then(|| format!("{} of {} could not be decided within its bounds", self.undecided, self.checked))
    }
}

/// Findings one checker lists.
pub const FINDINGS_MAX: usize = 20;

/// A checker.
pub type Checker = fn(&RunData) -> Checked;

/// All checkers, C1 to C12.
pub fn all() -> Vec<Checker> {
    vec![
        c01_model::check,
        c02_linearizable::check,
        c03_cycles::check,
        c04_conservation::check,
        c05_acknowledged::check,
        c06_one_effect::check,
        c07_transitions::check,
        c08_sessions::check,
        c09_digest::check,
        c10_recovery::check,
        c11_coverage::check,
        c12_no_fault::check,
    ]
}
