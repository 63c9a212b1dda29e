//! The wire to the container runtime: CRI's messages and calls, containerd's events.

pub mod client;
pub mod events;
pub mod v1;
