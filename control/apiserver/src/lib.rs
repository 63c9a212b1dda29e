//! The Kubernetes 1.35 API over TLS.
//!
//! One generic path serves every resource:
//!
//! ```text
//! route -> authenticate -> authorize -> decode -> default -> admit -> validate -> store
//! handler  authn           authz        rest::decode   (schema)  admission (schema) rest::write
//! ```
//!
//! A kind is a row of data ([`kinds`]) and a small strategy ([`strategy`]). Reads come from the
//! watch cache ([`cache`]), which is never older than any acknowledged write.

mod admission;
mod allocate;
mod app;
mod authn;
mod authz;
mod bootstrap;
mod cache;
mod config;
mod convert;
mod discovery;
mod documents;
mod handler;
mod kinds;
mod kubelet;
mod metrics;
mod negotiate;
mod object;
mod present;
mod protobuf;
mod query;
mod reply;
mod rest;
mod route;
mod server;
mod status;
mod strategy;
mod subresource;
mod tls;

pub use config::{Config, Limits, ServiceAccounts, Tls};
pub use server::{Error, Server, run};
pub use tls::TlsError;
