//! The edges: DNS over UDP and TCP, and HTTP for probes and metrics.

pub mod handler;
pub mod http;
pub mod tcp;
pub mod udp;
