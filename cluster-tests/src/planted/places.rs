//! Where each bug is looked for, in this order.

use agora_planted::Bug;

use super::look::{By, Look};

/// A scenario, and how often it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Seeds of the simulation under these attacks: `N1+N5`, `calm`, or `any`.
    Simulation {
        /// Which.
        scenario: &'static str,
        /// Seeds at most.
        seeds_max: u32,
    },
    /// Real processes under an attack, with the load of a scenario. Needs root.
    Processes {
        /// `N1+N5`.
        attacks: &'static str,
        /// Whose load.
        scenario: &'static str,
    },
    /// A test of the workspace: for what the adversary's clusters cannot be brought to.
    Test {
        /// Of this crate.
        package: &'static str,
        /// The file; `lib` for those beside the code.
        test: &'static str,
    },
}

/// Seeds of one scenario, at most.
const SEEDS_MAX: u32 = 20;
/// Real seconds one seed may take.
const SEED_SECONDS_MAX: u64 = 300;
/// Runs against real processes, at most, and how long each attacks, in seconds.
const ROUNDS_MAX: u32 = 4;
const ROUND_SECONDS: u64 = 40;
/// Real seconds one such run may take, healing and judging included.
const ROUND_SECONDS_MAX: u64 = 400;
/// Real seconds one test may take, with what must be compiled for it.
const TEST_SECONDS_MAX: u64 = 1_800;

impl Place {
    /// The kind of place, for choosing.
    pub fn kind(&self) -> &'static str {
        match self {
            Place::Simulation { .. } => "simulation",
            Place::Processes { .. } => "processes",
            Place::Test { .. } => "test",
        }
    }

    /// As in the table.
    pub fn name(&self) -> String {
        match self {
            Place::Simulation { scenario, .. } => format!("simulation, {scenario}"),
            Place::Processes { attacks, scenario } => format!("processes, {scenario} under {attacks}"),
            Place::Test { package, test } => format!("test, {package} {test}"),
        }
    }

    /// Looks at most.
    pub fn looks_max(&self) -> u32 {
        match self {
            Place::Simulation { seeds_max, .. } => *seeds_max,
            Place::Processes { .. } => ROUNDS_MAX,
            Place::Test { .. } => 1,
        }
    }

    /// The n-th look, from 0.
    pub fn look(&self, number: u32) -> Look {
        match self {
            Place::Simulation { scenario, .. } => {
                let seed = u64::from(number) + 1;
                Look {
                    name: format!("{} seed {seed}", self.name()),
                    by: By::Child,
                    args: ["planted-look", &seed.to_string(), scenario].map(str::to_owned).to_vec(),
                    seconds_max: SEED_SECONDS_MAX,
                }
            }
            Place::Processes { attacks, scenario } => {
                let (seed, attack) = ((number + 1).to_string(), attacks.replace('+', ","));
                let (seconds, name) = (ROUND_SECONDS.to_string(), format!("planted-{seed}"));
                let args = ["chaos", "--minutes", "1", "--batch-seconds", &seconds, "--seed", &seed];
                let whom = ["--nemesis", &attack, "--scenario", scenario, "--name", &name, "--dir", "target/planted"];
                Look {
                    name: format!("{} seed {seed}", self.name()),
                    by: By::Chaos,
                    args: args.iter().chain(&whom).map(|arg| (*arg).to_owned()).collect(),
                    seconds_max: ROUND_SECONDS_MAX,
                }
            }
            Place::Test { package, test } => Look {
                name: self.name(),
                by: By::Cargo,
                args: ["test", "-p", package, "--features", "agora-planted/on"]
                    .into_iter()
                    .chain(if *test == "lib" { vec!["--lib"] } else { vec!["--test", *test] })
                    .map(str::to_owned)
                    .collect(),
                seconds_max: TEST_SECONDS_MAX,
            },
        }
    }
}

/// Where to look for a bug.
pub fn places(bug: Bug) -> Vec<Place> {
    let scenarios: &[&str] = match bug {
        Bug::AckBeforePersist | Bug::LogWithoutFsync => &["acknowledged_survives", "N6", "N9"],
        Bug::VoteWithoutFsync => &["N9", "N7", "N6"],
        Bug::FsyncErrorIgnored => &["N8"],
        Bug::DeposedMeansNo => {
            return vec![
                Place::Simulation { scenario: "unknown_is_not_no@N1", seeds_max: SEEDS_MAX },
                Place::Processes { attacks: "N1", scenario: "unknown_is_not_no" },
            ];
        }
        Bug::LastAnswerWins => &["unknown_is_not_no", "one_key_one_effect"],
        Bug::ForwardedTimeoutAnsweredOk => &["unknown_is_not_no", "money_is_conserved", "N1+N2+N5"],
        Bug::PurgeBeyondSnapshot => &["feed_has_no_gaps", "rows_are_disposable", "N6"],
        Bug::ReadWithoutQuorumRound => &["reads_are_current", "reads_are_current@N1"],
        Bug::StaleReadTakenForBounded => &["reads_are_current@N1", "reads_are_current"],
        Bug::ReadBeforeFirstEntryOfTerm => &["reads_are_current@N5", "reads_are_current"],
        Bug::ReadDoesNotWaitForApply => &["reads_are_current@calm", "N3"],
        Bug::AcknowledgedNotWaitedFor => &["reads_are_current@calm"],
        Bug::LeadershipFenceRemoved => {
            // Where applying takes no time, a leader has applied everything before it hears from a majority.
            return vec![Place::Processes { attacks: "N6", scenario: "acknowledged_survives" }];
        }
        Bug::ActorStateKeptAcrossReigns => &["old_leaders_are_fenced", "never_oversell@N5"],
        Bug::ApplyNotAtomicOverKeyspaces | Bug::AppliedIndexWrittenFirst => &["N6", "feed_has_no_gaps"],
        Bug::SnapshotWithoutOutcomes | Bug::SnapshotMissesKeyspace | Bug::InstallNotFsynced => {
            &["rows_are_disposable", "replicas_are_equal", "rows_are_disposable@N13"]
        }
        Bug::SnapshotBlockChecksumUnchecked => {
            // Snapshot files are for operators: no node reads one.
            return vec![Place::Test { package: "agora-storage", test: "snapshot" }];
        }
        Bug::LineageUnchecked => {
            // What a node's peers remember of it refuses a stranger under its id as well.
            return vec![Place::Test { package: "agora-raft", test: "lib" }];
        }
        Bug::NodeIdReused | Bug::WipedNodeVotes => &["forgetful_stay_out", "N11"],
        Bug::ExpiryByLocalClock => &["time_is_the_logs", "N15"],
        Bug::PaidOrderExpires => &["money_is_conserved@N3", "unknown_is_not_no@N3", "never_oversell@N3"],
        Bug::AdminRouteOpen => &["N17"],
        Bug::FeedResumesOneTooFar | Bug::FeedFromUncommittedTail => &["feed_has_no_gaps@calm", "feed_has_no_gaps"],
        Bug::GiveBeforeCommit => &["never_oversell@calm", "money_is_conserved@calm", "never_oversell@N3"],
        Bug::CheckOutsideTheActor
        | Bug::FalseRefusalByOpenGrant
        | Bug::PartialTakeLeftAfterRefusal
        | Bug::ActorsReloadedInFlight => &["never_oversell@calm", "never_oversell@N3", "never_oversell"],
        Bug::SecondStatusChangeInFlight | Bug::RefundBeyondCapture | Bug::HoldLeftAfterCancel => {
            &["money_is_conserved@calm", "money_is_conserved@N3"]
        }
        Bug::UnorderedIterationInApply => &["replicas_are_equal@calm", "replicas_are_equal"],
        Bug::MoneyAsFloat => &["money_is_conserved@calm"],
        Bug::KeyForgotten | Bug::AlteredBodyAnswered => &["one_key_one_effect@calm", "one_key_one_effect"],
    };
    scenarios.iter().map(|scenario| Place::Simulation { scenario, seeds_max: SEEDS_MAX }).collect()
}
