//! Nodes: their pod ranges, their health, and what becomes of pods on nodes that are lost.

pub(crate) mod cidr;
pub(crate) mod eviction;
pub(crate) mod health;
