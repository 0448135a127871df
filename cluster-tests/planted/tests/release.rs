//! Promise: no release build contains a planted bug. With optimisations the feature does not compile, and without the feature
//! nothing is compiled that has a name of a bug in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Compiles this crate by itself, as cargo would, and returns what the compiler said and where the object lies.
fn compile(feature: bool, release: bool, dir: &Path) -> (Output, PathBuf) {
    let object = dir.join(format!("planted-{feature}-{release}.o"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "obj", "--crate-name", "agora_planted"]);
    if feature {
        rustc.args(["--cfg", "feature=\"on\""]);
    }
    rustc.args(["-C", if release { "opt-level=3" } else { "opt-level=0" }]);
    rustc.args(["-C", if release { "debug-assertions=off" } else { "debug-assertions=on" }]);
    let output = rustc.arg("-o").arg(&object).arg(source).output().expect("a compiler that can be started");
    (output, object)
}

fn contains(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).expect("an object");
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_release_build_with_planted_bugs_does_not_compile() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (output, _) = compile(true, true, &dir);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "a release build took the feature");
    assert!(said.contains("planted bugs must never be in a release build"), "{said}");
}

#[test]
fn without_the_feature_no_bug_has_a_name() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for text in ["AGORA_PLANTED", "ack-before-persist", "admin-route-open", "planted bug reached"] {
        let (output, object) = compile(false, true, &dir);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!contains(&object, text), "{text} is in a release build");
        // The look itself can find something: with the feature, in a debug build, it does.
        let (output, object) = compile(true, false, &dir);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(contains(&object, text), "{text} is not even in a build with the feature");
    }
}
