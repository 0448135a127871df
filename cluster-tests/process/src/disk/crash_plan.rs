//! Where a node is made to die: every phase of its life that writes, call by call.

use std::{fmt, path::Path};

use agora_scenario::rng::Rng;
use serde::{Deserialize, Serialize};

use super::inject::Hit;

/// What a node is doing when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Entries on their way into the log.
    Append,
    /// A vote.
    Vote,
    /// Rows written by entries, synced and rotated behind the writer's back.
    Apply,
    /// What the engine calls building a snapshot: rows made durable, and that written down.
    SnapshotBuild,
    /// A snapshot file for operators.
    SnapshotFile,
    /// The beginning of the log removed.
    Purge,
    /// A leader's snapshot received and made the current rows.
    Install,
    /// Lost rows fetched from a peer before the engine starts.
    Rebuild,
    /// The directory opened: identity, journals cut, tables looked at.
    Open,
}

/// Whose life it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Follower,
}

/// Kinds of calls that can be the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Write,
    Sync,
    Rename,
    /// A file or directory removed, made, cut or lengthened.
    Name,
}

impl Kind {
    /// The kernel's names.
    pub fn calls(self) -> Vec<&'static str> {
        match self {
            Kind::Write => vec!["write", "pwrite64", "writev"],
            Kind::Sync => vec!["fsync", "fdatasync"],
            Kind::Rename => vec!["rename", "renameat", "renameat2"],
            Kind::Name => vec!["unlink", "unlinkat", "rmdir", "mkdir", "ftruncate", "fallocate"],
        }
    }
}

/// One place to die at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    pub phase: Phase,
    pub role: Role,
    pub kind: Kind,
    pub n: u64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let name = |value: Result<serde_json::Value, _>| word(value.unwrap_or_default());
        let (phase, role) = (name(serde_json::to_value(self.phase)), name(serde_json::to_value(self.role)));
        write!(f, "{phase}/{role}/{}/{}", name(serde_json::to_value(self.kind)), self.n)
    }
}

impl std::str::FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let [phase, role, kind, n] = parts[..] else {
            return Err(format!("{text} is no crash point: phase/role/kind/n, such as append/leader/write/3"));
        };
        let wrong = |error: serde_json::Error| format!("{text}: {error}");
        Ok(Point {
            phase: serde_json::from_value(phase.into()).map_err(wrong)?,
            role: serde_json::from_value(role.into()).map_err(wrong)?,
            kind: serde_json::from_value(kind.into()).map_err(wrong)?,
            n: n.parse().map_err(|error| format!("{text}: {error}"))?,
        })
    }
}

/// Up to which N each phase is walked, by kind of call. One commit of the log is 6 to 10 writes and one sync.
const REACH: [(Phase, Kind, u64, &[Role]); 25] = {
    const BOTH: &[Role] = &[Role::Leader, Role::Follower];
    const ONE: &[Role] = &[Role::Follower];
    [
        (Phase::Append, Kind::Write, 16, BOTH),
        (Phase::Append, Kind::Sync, 4, BOTH),
        (Phase::Vote, Kind::Write, 12, BOTH),
        (Phase::Vote, Kind::Sync, 3, BOTH),
        (Phase::Apply, Kind::Write, 6, BOTH),
        (Phase::Apply, Kind::Sync, 4, BOTH),
        (Phase::SnapshotBuild, Kind::Write, 10, BOTH),
        (Phase::SnapshotBuild, Kind::Sync, 3, BOTH),
        (Phase::Purge, Kind::Write, 20, BOTH),
        (Phase::Purge, Kind::Sync, 4, BOTH),
        (Phase::Purge, Kind::Name, 1, BOTH),
        (Phase::SnapshotFile, Kind::Write, 4, BOTH),
        (Phase::SnapshotFile, Kind::Sync, 2, BOTH),
        (Phase::SnapshotFile, Kind::Rename, 1, BOTH),
        (Phase::Install, Kind::Write, 12, ONE),
        (Phase::Install, Kind::Sync, 30, ONE),
        (Phase::Install, Kind::Rename, 4, ONE),
        (Phase::Install, Kind::Name, 8, ONE),
        (Phase::Rebuild, Kind::Write, 12, ONE),
        (Phase::Rebuild, Kind::Sync, 30, ONE),
        (Phase::Rebuild, Kind::Rename, 4, ONE),
        (Phase::Rebuild, Kind::Name, 8, ONE),
        (Phase::Open, Kind::Write, 12, ONE),
        (Phase::Open, Kind::Sync, 6, ONE),
        (Phase::Open, Kind::Name, 4, ONE),
    ]
};

impl Phase {
    /// Whether a node meets it when it starts: it can then die at one point after the other without living in between.
    pub fn is_at_start(self) -> bool {
        matches!(self, Phase::Install | Phase::Rebuild | Phase::Open)
    }
}

/// All points, in an order by the seed; those of one start-up phase and kind stand together in [`CHAIN`]s.
pub fn plan(seed: u64) -> Vec<Vec<Point>> {
    let mut chains: Vec<Vec<Point>> = Vec::new();
    for (phase, kind, reach, roles) in REACH {
        for role in roles {
            let points: Vec<Point> = (1..=reach).map(|n| Point { phase, role: *role, kind, n }).collect();
            let size = if phase.is_at_start() { CHAIN } else { 1 };
            chains.extend(points.chunks(size).map(<[Point]>::to_vec));
        }
    }
    let mut rng = Rng::new(seed).fork("crash points");
    for last in (1..chains.len()).rev() {
        chains.swap(last, rng.below(last as u64 + 1) as usize);
    }
    chains
}

/// Chosen points, those of a start together as long as they follow one another.
pub fn chains(points: &[Point]) -> Vec<Vec<Point>> {
    let together = |one: &Point, next: &Point| {
        one.phase.is_at_start() && (one.phase, one.role, one.kind) == (next.phase, next.role, next.kind)
    };
    points.chunk_by(together).map(<[Point]>::to_vec).collect()
}

/// Points of one chain, at most.
pub const CHAIN: usize = 10;

/// Which phase a call belongs to, by what the node was driven to do and by what was seen.
pub fn phase_met(driven: Phase, hit: &Hit, rows_synced: bool, purging: bool) -> Phase {
    match hit.thread.as_str() {
        "agora-apply" | "rows-sync" => Phase::Apply,
        "agora-snap-file" => Phase::SnapshotFile,
        "agora-snap-in" if driven.is_at_start() && driven != Phase::Rebuild => Phase::Install,
        "agora-snap-in" => Phase::Rebuild,
        "agora-log" => match driven {
            Phase::Append | Phase::Apply | Phase::SnapshotBuild | Phase::Purge | Phase::SnapshotFile if purging => {
                Phase::Purge
            }
            Phase::Append | Phase::Apply | Phase::SnapshotBuild | Phase::Purge | Phase::SnapshotFile if rows_synced => {
                Phase::SnapshotBuild
            }
            Phase::Vote => Phase::Vote,
            Phase::Install | Phase::Rebuild => driven,
            _ => Phase::Append,
        },
        _ if driven == Phase::Append || driven == Phase::Vote => Phase::SnapshotBuild,
        _ => driven,
    }
}

/// What kind of file a path names.
pub fn file_kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with("log.redb") {
        "log"
    } else if name.ends_with(".jnl") {
        "journal"
    } else if text.contains("/tables/") {
        "table"
    } else if text.contains("/snapshots") {
        "snapshot"
    } else if text.contains("/keyspaces") || name == "version" {
        "version"
    } else if text.starts_with("anon_inode") || text.starts_with("socket") || text.starts_with("pipe") {
        "no file"
    } else {
        "directory"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_decided_by_its_seed_and_leaves_nothing_out() {
        let all = |seed| {
            let mut points: Vec<Point> = plan(seed).into_iter().flatten().collect();
            points.sort_unstable();
            points
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        assert_eq!(all(7), all(8));
        let mut points = all(7);
        assert!(points.len() >= 300, "{}", points.len());
        points.dedup();
        assert_eq!(points.len(), all(7).len(), "no point twice");
    }

    #[test]
    fn chosen_points_of_one_start_stay_together() {
        let points = |text: &str| -> Vec<Point> { text.split(',').map(|name| name.parse().unwrap()).collect() };
        let chosen = points("open/follower/sync/1,open/follower/sync/2,append/leader/write/1,append/leader/write/2");
        let sizes: Vec<usize> = chains(&chosen).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1]);
    }

    #[test]
    fn a_point_is_named_as_it_is_read() {
        for point in plan(1).into_iter().flatten() {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        let point = Point { phase: Phase::SnapshotBuild, role: Role::Leader, kind: Kind::Sync, n: 2 };
        assert_eq!(point.to_string(), "snapshot_build/leader/sync/2");
        for wrong in ["", "append/leader/write", "append/leader/write/x", "append/king/write/1"] {
            assert!(wrong.parse::<Point>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_call_of_the_log_belongs_to_what_went_before_it() {
        let hit = |thread: &str| Hit { thread: thread.into(), call: "pwrite64".into(), path: "/d/log.redb".into() };
        let log = hit("agora-log");
        assert_eq!(phase_met(Phase::Purge, &log, false, false), Phase::Append);
        assert_eq!(phase_met(Phase::Purge, &log, true, false), Phase::SnapshotBuild);
        assert_eq!(phase_met(Phase::SnapshotBuild, &log, true, true), Phase::Purge);
        assert_eq!(phase_met(Phase::Vote, &log, true, false), Phase::Vote);
        assert_eq!(phase_met(Phase::Open, &hit("agora-raft"), false, false), Phase::Open);
        assert_eq!(phase_met(Phase::Append, &hit("agora-apply"), false, false), Phase::Apply);
    }

    #[test]
    fn files_are_told_apart_by_their_paths() {
        for (path, kind) in [
            ("/d/log.redb", "log"),
            ("/d/log.redb.new", "log"),
            ("/d/rows-1/0.jnl", "journal"),
            ("/d/rows-1/keyspaces/3/tables/7", "table"),
            ("/d/rows-1/keyspaces/3/v2", "version"),
            ("/d/snapshots/s-1.new", "snapshot"),
            ("/d/rows-1", "directory"),
            ("anon_inode:[eventfd]", "no file"),
        ] {
            assert_eq!(file_kind(Path::new(path)), kind, "{path}");
        }
    }
}
