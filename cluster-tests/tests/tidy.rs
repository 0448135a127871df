//! Promise: the house stays in order (invariant 1): imports point one way, the rules of commerce and
//! their application are pure, one module knows the codec and one crate the consensus engine, every module says what it
//! is for, no file grew into a second subject, and nothing is left half done or hidden.
//!
//! The tests read the workspace's own sources; they need no node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Lines one source file may have.
const LINES_MAX: usize = 900;

/// Crates by folder, and what of the workspace each may use: the picture of the architecture.
const ONE_WAY: &[(&str, &str, &[&str])] = &[
    // Bugs planted on purpose: a name in every crate that holds one, and nothing at all in a release build.
    ("cluster-tests/planted", PLANTED, &[]),
    ("actors/domain", "agora-domain", &[PLANTED]),
    ("storage", "agora-storage", &[PLANTED]),
    ("actors/apply", "agora-apply", &[PLANTED, "agora-domain", "agora-storage"]),
    ("raft", "agora-raft", &[PLANTED, "agora-storage"]),
    ("actors", "agora-actors", &[PLANTED, "agora-domain", "agora-apply", "agora-raft", "agora-storage"]),
    ("api", "agora-api", &[PLANTED, "agora-domain", "agora-apply", "agora-raft", "agora-storage", "agora-actors"]),
    (
        "node",
        "agora-node",
        &[PLANTED, "agora-domain", "agora-apply", "agora-raft", "agora-storage", "agora-actors", "agora-api"],
    ),
    // What measures single parts of an order's path makes its input itself.
    ("cluster-tests/bench", "agora-bench", &["agora-domain", "agora-apply", "agora-storage"]),
    // The adversary's judges know nothing of the product, its scenarios nothing but HTTP (their tests run against the API).
    ("cluster-tests/history", "agora-history", &[]),
    ("cluster-tests/checkers", "agora-checkers", &["agora-history"]),
    (
        "cluster-tests/scenario",
        "agora-scenario",
        &["agora-history", "agora-checkers", "agora-actors", "agora-api", "agora-raft", "agora-storage"],
    ),
    (
        "cluster-tests/sim",
        "agora-sim",
        &[
            PLANTED,
            "agora-history",
            "agora-checkers",
            "agora-scenario",
            "agora-domain",
            "agora-raft",
            "agora-storage",
            "agora-actors",
            "agora-api",
        ],
    ),
    ("cluster-tests/process", "agora-process", &["agora-history", "agora-checkers", "agora-scenario"]),
    (
        "cluster-tests",
        "agora-cluster-tests",
        &[
            PLANTED,
            "agora-history",
            "agora-checkers",
            "agora-scenario",
            "agora-sim",
            "agora-process",
            "agora-bench",
            "agora-domain",
            "agora-raft",
            "agora-storage",
            "agora-actors",
            "agora-api",
            "agora-node",
        ],
    ),
];

/// The crate of planted bugs.
const PLANTED: &str = "agora-planted";

/// Modules that must be unsafe, each for the one reason it opens with; their crates deny it everywhere else.
const UNSAFE: &[(&str, &[&str])] = &[
    ("cluster-tests/sim", &["cluster-tests/sim/src/entropy.rs"]),
    ("cluster-tests/process", &["cluster-tests/process/src/kernel.rs"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names in a section of dependencies, as the registry knows them.
fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// All Rust sources of a crate, nested crates left out.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let base = root().join(folder);
    let mut found = Vec::new();
    for part in ["src", "tests", "benches", "examples"] {
        walk(&base.join(part), &mut found);
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push((path.strip_prefix(root()).expect("inside the workspace").to_owned(), text));
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ONE_WAY.iter().flat_map(|(folder, ..)| sources(folder)).collect()
}

/// A source without comments and string literals: what the compiler sees as names.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let bare = line.trim_start();
        if bare.starts_with("//") {
            code.push('\n');
            continue;
        }
        let mut in_text = false;
        let mut previous = ' ';
        for letter in line.chars() {
            match letter {
                '"' if previous != '\\' && previous != '\'' => in_text = !in_text,
                _ if in_text => {}
                '/' if previous == '/' => break,
                _ => code.push(letter),
            }
            previous = letter;
        }
        code.push('\n');
    }
    code
}

/// Whether a name stands in code as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let part_of_name = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    code.match_indices(word).any(|(at, _)| {
        !part_of_name(code[..at].chars().next_back()) && !part_of_name(code[at + word.len()..].chars().next())
    })
}

#[test]
fn imports_point_one_way() {
    let members = manifest("")["workspace"]["members"].clone();
    let members: BTreeSet<String> =
        members.as_array().expect("members").iter().map(|member| member.as_str().expect("a path").to_owned()).collect();
    let known: BTreeSet<String> = ONE_WAY.iter().map(|(folder, ..)| (*folder).to_owned()).collect();
    assert_eq!(members, known, "a crate that the picture of the architecture does not show");
    for (folder, name, allowed) in ONE_WAY {
        let manifest = manifest(folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(*name));
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for used in dependencies(&manifest, section).iter().filter(|used| used.starts_with("agora-")) {
                assert!(allowed.contains(&used.as_str()), "{name} must not use {used}");
            }
        }
        assert!(!manifest.contains_key("target"), "{name} hides dependencies behind a target");
    }
}

/// The one map without an order: apply's cache of rows, in which nothing may be walked through.
fn looks_up_only(path: &Path, code: &str) -> bool {
    if path != Path::new("actors/apply/src/table.rs") {
        return false;
    }
    let walks =
        [".iter()", ".iter_mut()", ".keys()", ".values()", ".values_mut()", ".drain()", ".into_iter()", ".retain("];
    for walk in walks {
        assert!(!code.contains(&format!("slots{walk}")), "{} walks through a map without an order", path.display());
    }
    assert!(!code.contains("in &self.slots") && !code.contains("in &mut self.slots"), "{} walks", path.display());
    true
}

#[test]
fn domain_and_apply_are_pure() {
    let forbidden = [
        "std::time",
        "std::net",
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "SystemTime",
        "Instant",
        "tokio",
        "rand",
        "getrandom",
        "async",
        "await",
        "HashMap",
        "HashSet",
        "RandomState",
        "thread_local",
        "f32",
        "f64",
    ];
    for folder in ["actors/domain", "actors/apply"] {
        // Tests may measure and draw: what runs in a node ends where they begin.
        let of_node = |path: &Path| path.starts_with(Path::new(folder).join("src"));
        for (path, text) in sources(folder).into_iter().filter(|(path, _)| of_node(path)) {
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code(text);
            let looks_up_only = looks_up_only(&path, &code);
            for word in forbidden.iter().filter(|word| !(looks_up_only && **word == "HashMap")) {
                // An import list may name a part on a line of its own: `use std::{collections::…, time::…}`.
                let nested = word.strip_prefix("std::").is_some_and(|part| {
                    code.split("use std::{").skip(1).any(|list| names(list.split(';').next().unwrap_or_default(), part))
                });
                assert!(!names(&code, word) && !nested, "{} names {word}", path.display());
            }
        }
        let used = dependencies(&manifest(folder), "dependencies");
        for impure in
            ["tokio", "ractor", "rand", "getrandom", "hyper", "axum", "openraft", "fjall", "redb", "uuid", "jiff"]
        {
            assert!(!used.contains(impure), "{folder} uses {impure}");
        }
    }
}

#[test]
fn the_codec_and_the_engines_have_one_home_each() {
    let homes: BTreeMap<&str, (&[&str], &str)> = BTreeMap::from([
        ("bincode", (&["storage/src/codec.rs"][..], "storage")),
        ("openraft", (&["raft/"][..], "raft")),
        ("fjall", (&["storage/"][..], "storage")),
        ("redb", (&["storage/"][..], "storage")),
        ("ractor", (&["actors/src/", "cluster-tests/examples/"][..], "actors")),
        ("axum", (&["api/", "cluster-tests/sim/src/", "cluster-tests/scenario/tests/"][..], "api")),
    ]);
    for (word, (paths, folder)) in &homes {
        let mut users = 0;
        for (path, text) in all_sources() {
            if names(&code(&text), word) {
                let at_home = paths.iter().any(|home| path.to_string_lossy().starts_with(home));
                assert!(at_home, "{} names {word}, whose home is {paths:?}", path.display());
                users += 1;
            }
        }
        assert!(users > 0, "nobody names {word}: this test looks in the wrong place");
        for (other, ..) in ONE_WAY.iter().filter(|(other, ..)| other != folder) {
            assert!(!dependencies(&manifest(other), "dependencies").contains(*word), "{other} depends on {word}");
        }
    }
}

#[test]
fn no_type_of_the_consensus_engine_leaves_its_crate() {
    let lib = sources("raft").into_iter().find(|(path, _)| path.ends_with("src/lib.rs")).expect("raft/src/lib.rs").1;
    // A module that names the engine is private, so what it holds leaves only by name.
    for (path, text) in sources("raft") {
        let Ok(inside) = path.strip_prefix("raft/src") else { continue };
        if !names(&code(&text), "openraft") || inside == Path::new("lib.rs") {
            continue;
        }
        let module = inside.components().next().expect("a module").as_os_str().to_string_lossy().into_owned();
        let module = module.trim_end_matches(".rs");
        assert!(!lib.contains(&format!("pub mod {module};")), "{} names openraft and is public", path.display());
    }
    let exported: String =
        code(&lib).split("pub use ").skip(1).map(|list| list.split(';').next().unwrap_or("")).collect();
    for word in ["openraft", "TypeConfig", "LogId", "StoredMembership", "Entry", "Vote", "TermId"] {
        assert!(!names(&exported, word), "raft exports {word}");
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (path, text) in all_sources() {
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > 20, "{} does not open with its purpose", path.display());
        assert!(!text.contains("placeholder\n"), "{} is a placeholder", path.display());
    }
}

#[test]
fn no_file_grew_into_a_second_subject() {
    for (path, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines, more than {LINES_MAX}", path.display());
    }
}

#[test]
fn nothing_is_half_done_or_hidden() {
    // Put together here, so that this file does not find itself.
    let words = [
        ["to", "do!"],
        ["unimple", "mented!"],
        ["#[ig", "nore"],
        ["db", "g!("],
        ["debug_", "assert!("],
        ["debug_", "assert_"],
    ]
    .map(|part| part.concat());
    for (path, text) in all_sources() {
        for word in &words {
            assert!(!code(&text).contains(word.as_str()), "{} holds {word}", path.display());
        }
        let may = UNSAFE.iter().any(|(_, files)| files.iter().any(|file| path == Path::new(file)));
        assert!(may || !code(&text).contains("unsafe "), "{} holds unsafe code", path.display());
    }
}

#[test]
fn every_crate_obeys_the_workspace_lints() {
    for (folder, name, _) in ONE_WAY {
        let manifest = manifest(folder);
        let lints = manifest.get("lints").expect("lints");
        if UNSAFE.iter().any(|(unsafe_one, _)| unsafe_one == folder) && lints.get("workspace").is_none() {
            assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("deny"), "{name} must deny what one module needs");
            continue;
        }
        assert_eq!(lints.get("workspace").and_then(toml::Value::as_bool), Some(true), "{name} has lints of its own");
    }
    let lints = manifest("")["workspace"]["lints"].clone();
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("forbid"));
}

#[test]
fn what_must_be_pinned_is_pinned() {
    let workspace = manifest("")["workspace"]["dependencies"].clone();
    for name in ["openraft", "openraft-rt-tokio", "fjall", "ractor", "bincode"] {
        let version = workspace[name]["version"].as_str().unwrap_or_default();
        assert!(version.starts_with('='), "{name} floats: {version:?}");
    }
    assert!(root().join("Cargo.lock").exists(), "the lock file is part of the repository");
}
