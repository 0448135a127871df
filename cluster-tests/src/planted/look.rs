//! One look for a planted bug: a child process with a deadline, and what it told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use agora_planted::VARIABLE;
use agora_scenario::child;
use serde::{Deserialize, Serialize};

/// Bytes of a child's last words that are kept.
const WORDS_MAX: usize = 2_000;
/// What a child prints before its report.
pub const REPORT: &str = "report: ";
/// What a process says when it first runs into its planted bug.
const REACHED: &str = "planted bug reached";

/// Who runs a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// This program, which reports what it found.
    Child,
    /// This program attacking real processes, which tells broken promises line by line.
    Chaos,
    /// Cargo, a test.
    Cargo,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Look {
    /// What it is called while it runs.
    pub name: String,
    /// Who runs it.
    pub by: By,
    /// His arguments.
    pub args: Vec<String>,
    /// A child that takes longer is killed, and that is a finding.
    pub seconds_max: u64,
}

impl Look {
    /// A line to see it again.
    pub fn reproduce(&self, bug: &str) -> String {
        let args = self.args.join(" ");
        let run = if self.by == By::Cargo { "" } else { "run -p agora-cluster-tests --features planted -- " };
        format!("{VARIABLE}={bug} cargo {run}{args}")
    }
}

/// Something wrong that a look has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Who found it: `C1` … `C12`, or the part of the run that failed.
    pub by: String,
    /// What.
    pub what: String,
}

/// What a child reports, on a line of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What must not be.
    pub findings: Vec<Found>,
}

impl Report {
    /// Tells the parent.
    pub fn print(&self) {
        println!("{REPORT}{}", serde_json::to_string(self).expect("a report can be written"));
    }
}

/// What came of a look.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What must not be.
    pub findings: Vec<Found>,
    /// The wrong code ran.
    pub reached: bool,
    /// Real time.
    pub seconds: f64,
}

impl Seen {
    /// Whether what was found may be laid to the planted bug: its code ran, or it cannot be heard.
    pub fn counts(&self, by: By) -> bool {
        self.reached || by != By::Child
    }

    /// In a few words.
    pub fn brief(&self) -> String {
        let reached = if self.reached { "" } else { ", not reached" };
        match self.findings.first() {
            None => format!("nothing in {:.1} s{reached}", self.seconds),
            Some(first) => {
                let what: String = first.what.chars().take(160).collect();
                let many = self.findings.len();
                format!("{}: {} ({many} findings) in {:.1} s{reached}", first.by, what.replace('\n', " "), self.seconds)
            }
        }
    }
}

/// How looks are taken.
pub struct Tools {
    program: PathBuf,
    /// Who finds something in a look where nothing is planted.
    alarmed: Mutex<BTreeMap<Look, BTreeSet<String>>>,
}

impl Tools {
    /// By children of this program.
    pub fn new(program: PathBuf) -> Tools {
        Tools { program, alarmed: Mutex::default() }
    }

    /// Who finds something in a look where nothing is planted. Nobody should.
    ///
    /// # Errors
    /// A child that cannot be started.
    pub fn alarmed(&self, look: &Look) -> Result<BTreeSet<String>, String> {
        if let Some(known) = self.alarmed.lock().expect("not poisoned").get(look) {
            return Ok(known.clone());
        }
        let seen = self.take(look, None)?;
        let alarmed: BTreeSet<String> = seen.findings.iter().map(|finding| finding.by.clone()).collect();
        if !alarmed.is_empty() {
            println!("  {} is not clean without any bug: {}", look.name, seen.brief());
        }
        self.alarmed.lock().expect("not poisoned").insert(look.clone(), alarmed.clone());
        Ok(alarmed)
    }

    /// Takes a look, with a bug planted or without.
    ///
    /// # Errors
    /// A child that cannot be started.
    pub fn take(&self, look: &Look, bug: Option<&str>) -> Result<Seen, String> {
        let begun = Instant::now();
        let cargo = || std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(if look.by == By::Cargo { cargo() } else { self.program.clone().into() });
        command.args(&look.args).env_remove(VARIABLE);
        if let Some(bug) = bug {
            command.env(VARIABLE, bug);
        }
        let child::Ended { status: ended, out, err } =
            child::run(&mut command, Duration::from_secs(look.seconds_max), REACHED)?;
        let report = out.lines().rev().find_map(|line| line.strip_prefix(REPORT));
        let report: Option<Report> = report.and_then(|report| serde_json::from_str(report).ok());
        let findings = match (ended, report, look.by) {
            (None, ..) => {
                let what = format!("not done within {} s: {}", look.seconds_max, end_of(&err));
                vec![Found { by: "bound".to_owned(), what }]
            }
            (Some(_), Some(report), _) => report.findings,
            (Some(status), None, By::Cargo | By::Chaos) if status.success() => Vec::new(),
            (Some(_), None, By::Cargo) => vec![failed_test(&out)],
            (Some(status), None, _) => match broken(&out) {
                none if none.is_empty() => {
                    vec![Found { by: "process".to_owned(), what: format!("{status}: {}", end_of(&err)) }]
                }
                broken => broken,
            },
        };
        let reached = out.contains(REACHED) || err.contains(REACHED);
        Ok(Seen { findings, reached, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// The lines in which chaos tells a broken promise: `BROKEN  C1 (seed 5): …`.
fn broken(out: &str) -> Vec<Found> {
    let told = out.lines().filter_map(|line| line.strip_prefix("BROKEN")?.trim().split_once(' '));
    told.map(|(by, what)| Found { by: by.trim_end_matches(':').to_owned(), what: what.to_owned() }).collect()
}

/// Which tests failed, by cargo's words.
fn failed_test(out: &str) -> Found {
    let failed = |line: &'_ str| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned);
    let names: Vec<String> = out.lines().filter_map(failed).collect();
    Found { by: "test".to_owned(), what: if names.is_empty() { end_of(out) } else { names.join(", ") } }
}

fn end_of(words: &str) -> String {
    let from = words.len().saturating_sub(WORDS_MAX);
    let from = (from..words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(words.len());
    words[from..].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catch_without_the_bug_is_none() {
        let (heard, not) = (Seen { reached: true, ..Seen::default() }, Seen::default());
        assert!(heard.counts(By::Child) && !not.counts(By::Child));
        assert!(not.counts(By::Chaos) && not.counts(By::Cargo));
    }
}
