//! The real kernel programs: loaded into this kernel, on real sockets in a throwaway cgroup and
//! network namespace, and on real packets.
//!
//! These tests need root, and say so by failing.

mod choice;
mod lab;
mod packets;
mod race;
mod services;
mod sockets;
mod takeover;
mod uplink;
