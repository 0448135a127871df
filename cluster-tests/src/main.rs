//! The adversary's command line: `cargo run -p agora-cluster-tests -- chaos --minutes 5`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agora_cluster_tests::adversary::main()
}
