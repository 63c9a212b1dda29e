//! The wire to the container runtime.

pub mod v1;
