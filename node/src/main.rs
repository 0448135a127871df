//! The binary `agora`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agora_node::main()
}
