//! A verdict in the making: counts what was looked at and keeps the first findings.

use std::fmt::Display;

use crate::{Checked, FINDINGS_MAX, Finding};

/// Collects what one checker says.
#[derive(Debug)]
pub(crate) struct Report {
    checked: Checked,
    /// Findings beyond those that are listed.
    more: u64,
}

impl Report {
    /// For one checker.
    pub(crate) fn new(checker: &str, promise: &str) -> Report {
        let checked = Checked { checker: checker.to_owned(), promise: promise.to_owned(), ..Checked::default() };
        Report { checked, more: 0 }
    }

    /// So many more things were looked at.
    pub(crate) fn looked_at(&mut self, count: u64) {
        self.checked.checked += count;
    }

    /// One could not be decided.
    pub(crate) fn undecided(&mut self) {
        self.checked.undecided += 1;
    }

    /// Something worth a line.
    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        self.checked.figures.insert(name.to_owned(), value);
    }

    /// A broken promise.
    pub(crate) fn find(&mut self, what: impl Display, ops: &[u64], index: Option<u64>) {
        if self.checked.findings.len() < FINDINGS_MAX {
            self.checked.findings.push(Finding { what: what.to_string(), ops: ops.to_vec(), index });
        } else {
            self.more += 1;
        }
    }

    /// The verdict.
    pub(crate) fn done(mut self) -> Checked {
        if self.more > 0 {
            self.figure("findings_not_listed", self.more as f64);
        }
        self.checked
    }
}
