//! What the system lets this process have: open files, of which every connection is one.
//!
//! Most systems start a program with 1,024 and let it ask for more, so it asks.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Files a process keeps open besides its connections.
const OTHER_FILES: u64 = 1_024;

/// Asks for as many open files as the connections need, up to what the system allows to ask for, and warns when that is
/// less.
pub fn raise_open_files(connections_max: u64) {
    let needed = connections_max + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    if limit.current.is_some_and(|current| current < allowed) {
        limit.current = Some(allowed);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    let current = getrlimit(Resource::Nofile).current;
    if current.is_some_and(|current| current < needed) {
        tracing::warn!(
            files = current,
            needed,
            "fewer open files are allowed than the connections need: raise the limit (LimitNOFILE, ulimit -n)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_high_enough_is_left_alone() {
        let before = getrlimit(Resource::Nofile);
        raise_open_files(0);
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        assert!(after.current >= before.current);
    }
}
