//! Sending a translated packet on without this node's stack.
//!
//! A packet whose source has become one of the node's own addresses would be dropped as a martian
//! if it went up from an ingress hook, so it is routed and sent from here.

use core::mem::{size_of, zeroed};

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh,
};
use aya_ebpf::programs::TcContext;

use crate::rewrite::{Failed, decrement_ttl};
use crate::scratch::Scratch;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Offset of the Ethernet addresses: destination, then source.
const ETHERNET_ADDRESSES: usize = 0;

/// Routes and sends a packet that `flow` has translated; returns the program's verdict.
#[inline(always)]
pub fn send(context: &TcContext, scratch: &mut Scratch) -> Result<i32, Failed> {
    let Scratch { packet, flow, route, .. } = scratch;
    if packet.ttl <= 1 {
        return Err(Failed);
    }
    decrement_ttl(context, packet)?;
    // SAFETY: a plain C struct of integers and unions of integers: zero is valid.
    *route = unsafe { zeroed() };
    route.l4_protocol = packet.key.protocol;
    route.ifindex = packet.ifindex;
    if flow.source.is_v4() {
        route.family = AF_INET;
        route.__bindgen_anon_3.ipv4_src = flow.source.words[3];
        route.__bindgen_anon_4.ipv4_dst = flow.destination.words[3];
    } else {
        route.family = AF_INET6;
        route.__bindgen_anon_3.ipv6_src = flow.source.words;
        route.__bindgen_anon_4.ipv6_dst = flow.destination.words;
    }
    // SAFETY: the context and the struct are valid, and the size is the struct's.
    let found = unsafe {
        fib_lookup(
            context.skb.skb.cast(),
            core::ptr::from_mut(route),
            size_of::<bpf_fib_lookup>() as i32,
            0,
        )
    };
    if found == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        let mut addresses = [0_u8; 12];
        addresses[..6].copy_from_slice(&route.dmac);
        addresses[6..].copy_from_slice(&route.smac);
        context.store(ETHERNET_ADDRESSES, &addresses, 0).map_err(|_| Failed)?;
        // SAFETY: the helper only notes where the packet goes when the program ends.
        return Ok(unsafe { bpf_redirect(route.ifindex, 0) } as i32);
    }
    if found == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        // The neighbour is not resolved yet: the kernel does it, and holds the packet meanwhile.
        // SAFETY: as above; no next hop is given, so the kernel looks it up.
        let verdict = unsafe { bpf_redirect_neigh(route.ifindex, core::ptr::null_mut(), 0, 0) };
        return Ok(verdict as i32);
    }
    Err(Failed)
}
