//! What the end-to-end tests are made of.
//!
//! - [`kit`]: the program inside the test pods (servers, load generators), also run from the host as
//!   the client outside the cluster;
//! - [`bench`]: what `bowline-bench` measures;
//! - [`harness`]: a real cluster, kubectl, and waiting for conditions.

pub mod bench;
pub mod harness;
pub mod kit;
