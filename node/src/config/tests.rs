//! What is accepted, and what is refused with which words.

use std::path::Path;

use super::*;
use crate::init::{self, Plan};

const STRONG_A: &str = "sk_live_0123456789abcdefghijklmnopqrstuv";
const STRONG_B: &str = "sk_admin_0123456789abcdefghijklmnopqrstu";

fn good() -> String {
    let peer: String = (0..32).map(|byte: u8| format!("{byte:02x}")).collect();
    format!(
        "[node]\nid = 1\ndata_dir = 'data'\n[cluster]\nname = 'shop'\nlineage = '{}'\n\
         [[cluster.members]]\nid = 1\npeer = '127.0.0.1:7401'\nhttp = '127.0.0.1:8081'\n\
         [http]\nlisten = '127.0.0.1:8081'\n[peer]\nlisten = '127.0.0.1:7401'\n\
         [keys]\nshop = '{STRONG_A}'\nadmin = '{STRONG_B}'\npeer = '{peer}'\n",
        "9f".repeat(16)
    )
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(Path::new("conf/n1.toml"), text, &|_| None).map_err(|error| error.problems().to_vec())
}

/// `text` is refused for exactly these reasons.
#[track_caller]
fn refused(text: &str, problems: &[&str]) {
    match parse(text) {
        Ok(_) => panic!("accepted"),
        Err(found) => assert_eq!(found, problems),
    }
}

#[test]
fn the_shortest_good_file_has_the_defaults() {
    let config = parse(&good()).unwrap();
    assert_eq!(config.data_dir, Path::new("conf/data"), "relative to the file");
    assert_eq!((config.worker_threads, config.shop.order_ttl_ms, config.raft.election_max_ms), (2, 900_000, 500));
    assert_eq!(config.http.advertise.to_string(), "127.0.0.1:8081");
    assert_eq!(config.own_member().map(|own| own.id), Some(1));
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    refused(
        &good().replace("[http]\n", "[http]\nlisten_on = 'x'\n"),
        &["unknown key http.listen_on: did you mean http.listen"],
    );
    refused(&format!("{}[raf]\n", good()), &["unknown section [raf]: did you mean [raft]"]);
    refused(
        &format!("{}[log]\ncolour_of_the_sky = 1\n", good()),
        &["unknown key log.colour_of_the_sky: known are format, level"],
    );
    refused(
        &good().replace("id = 1\npeer", "id = 1\npear = 2\npeer"),
        &["unknown key cluster.members[0].pear: did you mean cluster.members[0].peer"],
    );
}

#[test]
fn all_problems_are_listed_at_once() {
    let text = good()
        .replace("data_dir = 'data'", "")
        .replace("listen = '127.0.0.1:7401'", "listen = '7401'")
        .replace(STRONG_A, "secret")
        .replace("name = 'shop'", "name = 'My Shop'");
    refused(
        &format!("{text}[raft]\nheartbeat_ms = 200\nelection_max_ms = -5\n[shop]\nhosts = 0\n"),
        &[
            "node.data_dir is missing: directory for everything this node keeps. Relative to this file",
            "cluster.name is \"My Shop\": give 1 to 64 of a-z, 0-9 and '-'",
            "peer.listen is \"7401\": not host:port with a port from 1 to 65535, such as 10.0.0.1:8081 or [::1]:8081",
            "keys.shop has 6 characters, 32 to 512 are needed: run `agora init` to make a strong one",
            "shop.hosts is 0: give a whole number from 1 to 64 actors",
            "raft.election_max_ms is -5: give a whole number from 30 to 240000 ms",
        ],
    );
}

#[test]
fn figures_that_contradict_each_other_are_refused() {
    refused(
        &format!("{}[raft]\nheartbeat_ms = 200\nelection_max_ms = 300\nlog_bytes_max = 1048576\n", good()),
        &[
            "raft.election_min_ms is 300: give at least twice raft.heartbeat_ms, 400",
            "raft.election_max_ms is 300: give more than raft.election_min_ms, 300",
            "raft.snapshot_log_bytes is 67108864: give at most raft.log_bytes_max, 1048576",
        ],
    );
}

#[test]
fn weak_secrets_are_refused_without_being_shown() {
    let long = "a".repeat(40);
    refused(
        &good().replace(STRONG_A, &long),
        &["keys.shop has 1 different characters, 10 are needed: run `agora init` to make a strong one"],
    );
    refused(
        &good().replace(STRONG_A, STRONG_B),
        &["keys.shop and keys.admin are equal: give each its own, `agora init` makes strong ones"],
    );
    refused(
        &good()
            .replace("000102030405", "000000000000")
            .replace("060708090a0b0c0d0e0f10111213141516171819", &"0".repeat(40)),
        &["keys.peer is not 64 random hex digits: run `agora init` to make a strong one"],
    );
    assert!(!format!("{:?}", parse(&good()).unwrap()).contains(STRONG_A));
}

#[test]
fn a_secret_on_a_line_that_is_no_toml_is_not_shown() {
    for broken in [
        format!("[keys]\nshop = \"{STRONG_A}\n"),
        format!("[keys]\nshop = {STRONG_A}\n"),
        format!("[keys]\nshop = \"{STRONG_A}\"\nshop = \"{STRONG_A}\"\n"),
        format!("[keys]\nshop = \"{STRONG_A}\" \"\n"),
        format!("[keys]\n{STRONG_A}\n"),
    ] {
        let problems = parse(&broken).unwrap_err().join("\n");
        assert!(problems.contains("is not TOML: line ") && !problems.contains(STRONG_A), "{problems}");
    }
}

#[test]
fn members_must_be_distinct_and_agree_with_the_node() {
    let twice = good()
        .replace("[http]", "[[cluster.members]]\nid = 1\npeer = '127.0.0.1:7401'\nhttp = '127.0.0.1:8082'\n[http]");
    refused(
        &twice,
        &[
            "cluster.members names node 1 twice: every node has its own id",
            "cluster.members names 127.0.0.1:7401 twice: every port has its own address",
        ],
    );
    refused(
        &good().replace("[http]\n", "[http]\nadvertise = 'shop:80'\n"),
        &["http.advertise is shop:80, but cluster.members says 127.0.0.1:8081: make them equal, or leave it empty"],
    );
    refused(
        &good()
            .replace("[node]\nid = 1", "[node]\nid = 4")
            .replace("[http]\nlisten = '127.0.0.1:8081'", "[http]\nlisten = '0.0.0.0:8081'"),
        &[
            "http.advertise is empty and http.listen is 0.0.0.0:8081, which nobody can dial: say where others reach this node",
        ],
    );
}

#[test]
fn what_is_no_toml_says_where() {
    let problems = parse("[node]\nid = = 1\n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("is not TOML: ") && problems[0].contains("line 2"), "{problems:?}");
}

#[test]
fn secrets_may_come_from_the_environment() {
    let text = good().replace(&format!("shop = '{STRONG_A}'\n"), "");
    let env = |name: &str| (name == "AGORA_SHOP_KEY").then(|| STRONG_A.to_owned());
    let config = Config::parse(Path::new("n1.toml"), &text, &env).unwrap();
    assert_eq!(config.shop_key.reveal(), STRONG_A);
    let weak = |name: &str| (name == "AGORA_SHOP_KEY").then(|| "weak".to_owned());
    let error = Config::parse(Path::new("n1.toml"), &text, &weak).unwrap_err();
    assert!(error.problems()[0].starts_with("AGORA_SHOP_KEY (environment) has 4 characters"), "{error}");
}

/// The files in `deploy`, with the text they must have. `AGORA_UPDATE_DEPLOY=1` writes them.
fn deploy_files() -> Vec<(std::path::PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut plan = Plan::new(3);
    plan.hosts = vec!["n1".to_owned(), "n2".to_owned(), "n3".to_owned()];
    plan.data_dir = Some("/var/lib/agora".to_owned());
    plan.header =
        "Example of a configuration: three nodes on hosts n1, n2, n3. The secrets are placeholders and are refused; \
                   `agora init --hosts n1,n2,n3` writes files like these with fresh ones."
            .to_owned();
    let secrets = init::Secrets {
        shop_key: PLACEHOLDER.to_owned(),
        admin_key: PLACEHOLDER.to_owned(),
        peer_secret: PLACEHOLDER.to_owned(),
        lineage: PLACEHOLDER.to_owned(),
    };
    let drafts = plan.drafts(&secrets).unwrap();
    drafts.iter().map(|draft| (folder.join(format!("n{}.toml", draft.node_id)), draft.render())).collect()
}

#[test]
fn files_in_deploy_have_every_key_its_comment_and_its_default() {
    for (path, wanted) in deploy_files() {
        if std::env::var("AGORA_UPDATE_DEPLOY").is_ok_and(|value| value == "1") {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap();
        assert!(
            found == wanted,
            "{} differs from the table of keys: AGORA_UPDATE_DEPLOY=1 writes it anew",
            path.display()
        );
        let table: toml::Table = found.parse().unwrap();
        for key in keys::KEYS.iter().filter(|key| key.section != "cluster.members") {
            let value = table[key.section].as_table().and_then(|section| section.get(key.name));
            let value = value.unwrap_or_else(|| panic!("{}: no {}.{}", path.display(), key.section, key.name));
            match key.rule {
                keys::Rule::Number { default, .. } => assert_eq!(value.as_integer(), i64::try_from(default).ok()),
                keys::Rule::Choice { default, .. } | keys::Rule::Text { default } => {
                    assert_eq!(value.as_str(), Some(default))
                }
                _ => {}
            }
        }
    }
}

#[test]
fn placeholders_are_refused_with_what_to_do() {
    let (path, text) = deploy_files().remove(0);
    let error = Config::parse(&path, &text, &|_| None).unwrap_err();
    assert_eq!(
        error.problems(),
        [
            "cluster.lineage is still the placeholder: run `agora init` to make a configuration of your own",
            "keys.shop is still the placeholder: run `agora init` to make a strong one",
            "keys.admin is still the placeholder: run `agora init` to make a strong one",
            "keys.peer is still the placeholder: run `agora init` to make a strong one",
        ]
    );
}
