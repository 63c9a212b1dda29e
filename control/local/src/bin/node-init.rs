//! PID 1 of a node as a program: `bowline-node-init SPEC`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(spec) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: bowline-node-init SPEC (bowline local starts it; it is not run by hand)");
        return ExitCode::from(2);
    };
    bowline_local::node_init::main(&spec)
}
