//! The binary `agora` under another name: integration tests find it through `CARGO_BIN_EXE_agora-test-node`, so what
//! they start is always what was compiled with them.

use std::process::ExitCode;

fn main() -> ExitCode {
    agora_node::main()
}
