//! Runs the system's tools, each within a bound: a tool that hangs on a frozen disk must not hold up an attack for ever.

use std::{
    ffi::OsStr,
    process::{Command, ExitStatus},
    time::Duration,
};

use agora_scenario::child;

/// A tool that takes longer hangs. The slowest copies the data of a node on a busy machine.
const TOOL_MAX: Duration = Duration::from_secs(60);

/// Runs a command to its end; gives what it printed.
///
/// # Errors
/// It cannot be started, failed, or hangs: the command and what it said.
pub fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String, String> {
    run_within(TOOL_MAX, program, args)
}

fn run_within(
    deadline: Duration,
    program: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args);
    let ended = child::run(&mut command, deadline, "")?;
    if ended.status.is_some_and(|status| status.success()) {
        return Ok(ended.out);
    }
    let how = |status: ExitStatus| status.to_string();
    let how = ended.status.map_or_else(|| format!("not done within {deadline:?}, killed"), how);
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    Err(format!("{program} {}: {how}: {}", words.join(" "), ended.err.trim()))
}

/// Runs a command given as words.
///
/// # Errors
/// As [`run`].
pub fn words(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    run(program, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_hangs_is_ended_and_told() {
        let error = run_within(Duration::from_millis(50), "sleep", ["600"]).unwrap_err();
        assert!(error.contains("sleep 600: not done within 50ms, killed"), "{error}");
        let error = run("sh", ["-c", "echo why >&2; exit 2"]).unwrap_err();
        assert!(error.contains("exit status: 2: why"), "{error}");
    }
}
