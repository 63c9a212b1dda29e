//! Bowline's cluster DNS server (Kubernetes DNS-based service discovery 1.1.0).
//!
//! ```text
//! apiserver -> source -> model -> ArcSwap<ZoneView>          (off the path, batched)
//!                                       |
//! socket -> wire -> name::parse -> answer (pure) -> wire -> socket
//!                                       \-> forward (names that are not the cluster's)
//! ```
//!
//! A query takes no lock and waits for nothing, unless it has to go upstream. Two processes serve:
//! [`supervisor`] owns the sockets and does nothing else, [`worker`] answers. Queries wait in the
//! socket's buffer while a worker is replaced; a worker takes a query out of it only when it has
//! answered it (or has noted it down in the [`journal`]), so that a worker killed at any moment
//! loses none.

pub mod answer;
pub mod cache;
pub mod config;
pub mod forward;
pub mod journal;
pub mod metrics;
pub mod model;
pub mod name;
pub mod objects;
pub mod query;
pub mod resolver;
pub mod server;
pub mod snapshot;
pub mod source;
pub mod supervisor;
pub mod upstream;
pub mod view;
pub mod wire;
pub mod worker;
pub mod zone;
