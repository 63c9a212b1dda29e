//! Bowline's CNI plugin: a pod's link, its addresses and its routes, set up alone and at once.
//!
//! The runtime runs the binary once per act (`ADD`, `DEL`, `CHECK`, `STATUS`, `GC`, `VERSION`; CNI
//! specification 1.1), with the request in the environment and the network configuration on stdin.
//! Nothing here talks to an agent: a pod starts while every other part of Bowline is down, and is
//! reached by plain routing. The agent learns of the pod from the state directory.
//!
//! ```text
//!   pod netns                         node netns
//!   eth0 10.244.1.5/32 <- veth pair -> bwl0123456789a   route 10.244.1.5/32 -> bwl...
//!     default via 169.254.1.1            permanent neighbour 10.244.1.5 -> eth0's MAC
//!     permanent neighbour 169.254.1.1 -> the node side's MAC
//! ```
//!
//! Both neighbours are permanent, so that neither ARP, `proxy_arp` nor anything that filters them
//! stands between a pod and its node. IPv6 is the same with `fe80::1`.
//!
//! Layers, top to bottom: [`plugin`] (the acts) -> [`state`] (what is remembered), [`ipam`] (pure
//! choice of addresses), [`link`] (the kernel) -> [`config`], [`request`], [`result`], [`error`]
//! (the protocol).

pub mod config;
pub mod error;
pub mod ipam;
pub mod link;
pub mod plugin;
pub mod request;
pub mod result;
pub mod state;
pub mod undo;
