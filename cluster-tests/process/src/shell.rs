//! Runs the system's tools.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

/// Runs a command to its end; gives what it printed.
///
/// # Errors
/// It cannot be started, or failed: the command and what it said.
pub fn run(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}: {}", words.join(" "), output.status, said.trim()))
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
