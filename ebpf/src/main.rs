//! Bowline's kernel programs: the service load balancer's socket hooks and packet path.
//!
//! A service address meets the same tables in both: [`service`] finds the frontend and chooses a
//! backend. [`socket`] does so when a program in this node's cgroups connects or sends a datagram,
//! and then no packet is touched. [`uplink`] does so for packets that come in from outside.
//!
//! Programs only read what user space writes (the layout and its rules are in `bowline-abi`), and
//! write flows, affinity, socket storage and counters.
#![no_std]
#![no_main]

mod affinity;
mod answer;
mod count;
mod flow;
mod forward;
mod fragment;
mod maps;
mod packet;
mod rewrite;
mod scratch;
mod service;
mod socket;
mod uplink;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code path panics: the verifier would refuse the call that is not there.
    loop {}
}

/// Helpers such as the checksum ones are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
