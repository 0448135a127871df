//! The binary as a user meets it: help, exit codes, and messages that say what to do. No node gets as far as to run.

use std::{
    path::Path,
    process::{Command, Output},
};

fn agora(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agora"));
    for name in ["AGORA_ENDPOINTS", "AGORA_SHOP_KEY", "AGORA_ADMIN_KEY", "AGORA_PEER_SECRET"] {
        command.env_remove(name);
    }
    command.args(words).output().expect("the binary runs")
}

/// The command ends with `code`, and standard error holds `words`.
#[track_caller]
fn fails(words: &[&str], code: i32, message: &str) {
    let output = agora(words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
    assert!(output.stdout.is_empty(), "standard output is for what was asked");
}

#[test]
fn every_command_explains_itself() {
    for words in [
        &["--help"][..],
        &["start", "--help"],
        &["init", "--help"],
        &["dev", "--help"],
        &["cluster", "add", "--help"],
        &["snapshot", "create", "--help"],
        &["bench", "--help"],
        &["bench", "orders", "--help"],
        &["bench", "pay", "--help"],
        &["bench", "reads", "--help"],
        &["bench", "mixed", "--help"],
        &["bench", "flash", "--help"],
        &["bench", "marketplace", "--help"],
    ] {
        let output = agora(words);
        assert!(output.status.success(), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: agora"), "{words:?}");
    }
}

#[test]
fn a_command_line_that_is_not_understood_ends_with_2() {
    fails(&["strat"], 2, "start");
    fails(&["start"], 2, "--config");
}

#[test]
fn placeholders_in_deploy_end_with_78_and_say_what_to_run() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/n1.toml");
    fails(&["start", "--config", &file.to_string_lossy()], 78, "n1.toml: 4 problems");
    fails(&["start", "--config", &file.to_string_lossy()], 78, "run `agora init`");
    fails(&["start", "--config", "no-such-file.toml"], 78, "`agora init` writes configuration files");
}

#[test]
fn init_writes_once() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("config");
    let target = target.to_string_lossy();
    let output = agora(&["init", "--dir", &target, "--hosts", "a,b,c", "--json"]);
    assert!(output.status.success());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["files"].as_array().map(Vec::len), Some(3));
    fails(&["init", "--dir", &target], 1, "is not overwritten");
    fails(&["init", "--dir", &target, "--cluster", "My Shop"], 78, "cluster.name is \"My Shop\"");
}

#[test]
fn a_cluster_that_nobody_named_or_that_does_not_answer_is_said_so() {
    fails(&["cluster", "status"], 1, "no node to ask: give --endpoints");
    fails(&["cluster", "status", "--endpoints", "127.0.0.1:1"], 1, "no key: give --admin-key");
    fails(&["bench", "orders", "--connections", "0"], 1, "--connections 0: give 1 to");
}

#[test]
fn a_data_directory_that_is_none_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().to_string_lossy();
    std::fs::write(dir.path().join("data"), "not a directory").unwrap();
    // Should somebody else have the port, that is one line and a failure too.
    assert!(agora(&["init", "--dir", &target, "--http-port", "29801", "--peer-port", "29811"]).status.success());
    let output = agora(&["start", "--config", &format!("{target}/n1.toml")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("agora: "), "{stderr}");
}
