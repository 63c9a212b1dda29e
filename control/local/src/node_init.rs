//! A node's PID 1.

use std::path::Path;
use std::process::ExitCode;

/// Runs `node-init SPEC`: makes the node of the spec file, reports on stdout that it runs, and
/// leaves its PID 1 behind.
#[must_use]
pub fn main(spec: &Path) -> ExitCode {
    let _ = spec;
    ExitCode::FAILURE
}
