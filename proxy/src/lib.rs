//! The service load balancer of a node: it watches Services and EndpointSlices and keeps the pinned
//! BPF maps, which the kernel programs read, equal to them.
//!
//! Data flows one way: [`reflector`] (watch, convert) -> [`writer`] (one transaction, [`select`]s the
//! backends) -> [`table`] (rows with a revision and a status) -> [`reconciler`] -> [`maps`] (the
//! kernel, or a fake one). A source of data never sees a map, and a failing map operation never
//! reaches a source: it is the status of its row, tried again later.

pub mod agent;
pub mod dataplane;
pub mod health;
pub mod http;
pub mod install_cni;
pub mod loader;
pub mod maps;
pub mod metrics;
pub mod model;
pub mod observe;
pub mod reconciler;
pub mod reflector;
pub mod routes;
pub mod select;
pub mod table;
pub mod uplinks;
pub mod writer;
