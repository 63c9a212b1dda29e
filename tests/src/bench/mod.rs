//! What `bowline-bench` measures: ratios within one run, because figures of different machines, or
//! of one machine at different times, say little beside each other.
//!
//! - [`requests`]: requests through a service against requests straight to its pod, with
//!   [`services`] in number, and against [`iptables`] rules as kube-proxy writes them;
//! - [`starts`]: pods made through the API against the same made by the runtime alone;
//! - [`memory`]: what each component keeps in memory.

pub mod cluster;
pub mod iptables;
pub mod memory;
pub mod requests;
pub mod services;
pub mod starts;
pub mod table;
