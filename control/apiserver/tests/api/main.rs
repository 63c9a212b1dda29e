//! The API from outside, by real requests over TLS to a server in this process.

mod access;
mod bad_input;
mod concurrency;
mod deletion;
mod kit;
#[path = "../../examples/serve/pki.rs"]
mod pki;
mod services;
mod watching;
mod writing;
