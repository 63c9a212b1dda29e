//! `bowline server`, `bowline agent` and `bowline local`: the parts of a Kubernetes put together.
//!
//! The parts themselves know nothing of one another; what they are given (certificates, addresses,
//! kubeconfigs, sockets) is made here.

pub mod addresses;
pub mod agent;
pub mod console;
pub mod durable;
pub mod huge_pages;
pub mod join;
pub mod kubeconfig;
pub mod local;
pub mod manifests;
pub mod notify;
pub mod pki;
pub mod resolver;
pub mod server;
pub mod status;
pub mod token;

/// What was asked for can't be done as it was said: trying again as it is changes nothing. The
/// command then ends with [`USAGE`], as for a flag that it does not know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code of a command that was called wrongly.
pub const USAGE: u8 = 2;
