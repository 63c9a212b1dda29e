//! Translating a packet's addresses and ports, with its checksums.
//!
//! Checksums are changed by differences, through the helpers that know whether the packet's
//! checksum is complete or still to be filled in by hardware.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::programs::TcContext;
use bowline_abi::{Address, Flow, PROTOCOL_TCP};

use crate::packet::Packet;

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const IPV4_TTL: usize = 8;
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_HOP_LIMIT: usize = 7;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;

/// Of `bpf_l4_csum_replace`; newer than aya's bindings.
const BPF_F_IPV6: u64 = 1 << 7;

/// The packet could not be written to; it may be half changed and must be dropped.
pub struct Failed;

/// The checksum difference of putting `new` in `old`'s place, added to `seed`. The bytes that
/// v4-mapped addresses have in common cancel out.
#[inline(always)]
fn difference(old: &[u32; 4], new: &[u32; 4], seed: u32) -> u32 {
    // SAFETY: both are 16 readable bytes; the helper reads no more.
    let sum = unsafe {
        bpf_csum_diff(old.as_ptr().cast_mut().cast(), 16, new.as_ptr().cast_mut().cast(), 16, seed)
    };
    sum as u32
}

/// Gives the packet the addresses and ports of `flow`.
#[inline(always)]
pub fn translate(context: &TcContext, packet: &Packet, flow: &Flow) -> Result<(), Failed> {
    let key = &packet.key;
    let addresses = difference(&key.source.words, &flow.source.words, 0);
    let addresses = difference(&key.destination.words, &flow.destination.words, addresses);
    if packet.has_l4() {
        translate_l4(context, packet, flow, addresses)?;
    }
    if key.source.is_v4() {
        let check = packet.l3 as usize + IPV4_CHECKSUM;
        context.l3_csum_replace(check, 0, addresses.into(), 0).map_err(|_| Failed)?;
        store(context, packet.l3 as usize + IPV4_SOURCE, &flow.source.words[3])?;
        store(context, packet.l3 as usize + IPV4_DESTINATION, &flow.destination.words[3])
    } else {
        store::<Address>(context, packet.l3 as usize + IPV6_SOURCE, &flow.source)?;
        store::<Address>(context, packet.l3 as usize + IPV6_DESTINATION, &flow.destination)
    }
}

#[inline(always)]
fn translate_l4(
    context: &TcContext,
    packet: &Packet,
    flow: &Flow,
    addresses: u32,
) -> Result<(), Failed> {
    let key = &packet.key;
    // A UDP checksum of 0 means "none" and stays so.
    let (check, mangled) = if key.protocol == PROTOCOL_TCP {
        (packet.l4 as usize + TCP_CHECKSUM, 0)
    } else {
        (packet.l4 as usize + UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0))
    };
    replace_pseudo(context, packet, check, addresses, mangled)?;
    let old = u32::from(key.source_port) | u32::from(key.destination_port) << 16;
    let new = u32::from(flow.source_port) | u32::from(flow.destination_port) << 16;
    if old == new {
        return Ok(());
    }
    context.l4_csum_replace(check, old.into(), new.into(), 4 | mangled).map_err(|_| Failed)?;
    store(context, packet.l4 as usize, &new)
}

/// Changes a checksum by the difference of the addresses in its pseudo header.
#[inline(always)]
fn replace_pseudo(
    context: &TcContext,
    packet: &Packet,
    check: usize,
    addresses: u32,
    mangled: u64,
) -> Result<(), Failed> {
    let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled;
    let replace = |flags| context.l4_csum_replace(check, 0, addresses.into(), flags);
    // A sum that the network card took over the whole packet does not change when IPv6 addresses
    // and the checksum that covers them do. Kernels since 6.16 must be told so; older ones
    // do not know the flag.
    if !packet.key.source.is_v4() && replace(flags | BPF_F_IPV6).is_ok() {
        return Ok(());
    }
    replace(flags).map_err(|_| Failed)
}

/// Counts the hop that the packet has made through this node when it does not pass its stack.
#[inline(always)]
pub fn decrement_ttl(context: &TcContext, packet: &Packet) -> Result<(), Failed> {
    let ttl = packet.ttl - 1;
    if !packet.key.source.is_v4() {
        return store(context, packet.l3 as usize + IPV6_HOP_LIMIT, &ttl);
    }
    // The 16-bit word of ttl and protocol, whose second byte cancels out.
    let old = u16::from_ne_bytes([packet.ttl, 0]);
    let new = u16::from_ne_bytes([ttl, 0]);
    let check = packet.l3 as usize + IPV4_CHECKSUM;
    context.l3_csum_replace(check, old.into(), new.into(), 2).map_err(|_| Failed)?;
    store(context, packet.l3 as usize + IPV4_TTL, &ttl)
}

#[inline(always)]
fn store<T>(context: &TcContext, offset: usize, value: &T) -> Result<(), Failed> {
    context.store(offset, value, 0).map_err(|_| Failed)
}
