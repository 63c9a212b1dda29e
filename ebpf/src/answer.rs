//! Answers built here for a service without endpoints: a TCP reset, or ICMP port unreachable.
//!
//! The packet becomes its own answer and leaves by the interface that it came from. If its TCP or
//! UDP checksum was still to be filled in (a sender on the same machine), that stays so: the field
//! that will be filled then starts out with the value that makes the result right.

use core::mem::size_of;

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_redirect, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use bowline_abi::{Address, PROTOCOL_TCP, PROTOCOL_UDP, counter};

use crate::packet::{ACK, FIN, Ipv4Header, Ipv6Header, Packet, RST, SYN};
use crate::rewrite::Failed;
use crate::scratch::Scratch;

const HOPS: u8 = 64;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const IPV4_DONT_FRAGMENT: u16 = 0x4000;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ETHERNET: usize = 14;

#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgment: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// An ICMP error and what it quotes of a packet: its IP header H and the first 8 bytes after it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Unreachable<H> {
    kind: u8,
    code: u8,
    checksum: u16,
    unused: u16,
    /// Where a late checksum of the quoted packet's kind would be written.
    late: u16,
    quoted: H,
    quoted_start: [u32; 2],
}

/// Working memory for one answer.
#[repr(C)]
pub struct Answer {
    ipv4: Ipv4Header,
    ipv6: Ipv6Header,
    asked: TcpHeader,
    reset: TcpHeader,
    unreachable_v4: Unreachable<Ipv4Header>,
    unreachable_v6: Unreachable<Ipv6Header>,
}

/// The sum of 32-bit words, to be folded. SIZE is a multiple of 4.
#[inline(always)]
fn sum<T>(value: &T, seed: u32) -> u32 {
    // SAFETY: T's bytes are readable, and the helper reads no more of them; it writes nothing.
    let sum = unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            core::ptr::from_ref(value).cast_mut().cast(),
            size_of::<T>() as u32,
            seed,
        )
    };
    sum as u32
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The pseudo-header's sum for both families (the common part of v4-mapped addresses is taken
/// out by leaving it out).
#[inline(always)]
fn pseudo(source: &Address, destination: &Address, protocol: u8, length: u32) -> u32 {
    let rest = [length.to_be(), u32::from(protocol).to_be()];
    if source.is_v4() {
        sum(&[source.words[3], destination.words[3], rest[0], rest[1]], 0)
    } else {
        let addresses = sum(&destination.words, sum(&source.words, 0));
        sum(&rest, addresses)
    }
}

/// Whether the packet's checksum is still to be filled in: the field then holds the pseudo
/// header's sum. A complete checksum looks so once in 65,536 packets, and that client asks again.
#[inline(always)]
fn is_late(context: &TcContext, packet: &Packet, l4_length: u32) -> bool {
    let tcp = packet.key.protocol == PROTOCOL_TCP;
    let offset = packet.l4 as usize + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let Ok(field) = context.load::<u16>(offset) else { return false };
    let key = &packet.key;
    field == fold(pseudo(&key.source, &key.destination, key.protocol, l4_length))
}

/// Turns the packet into the message that nobody is there; the counter for it. What can't be
/// answered has failed and is to be dropped.
#[inline(always)]
pub fn refuse(context: &TcContext, scratch: &mut Scratch) -> Result<u32, Failed> {
    let Scratch { packet, answer, .. } = scratch;
    let v4 = packet.key.source.is_v4();
    let header = if v4 { size_of::<Ipv4Header>() } else { size_of::<Ipv6Header>() };
    if packet.l4 != packet.l3 + header as u32 || packet.flags & RST != 0 {
        return Err(Failed); // options or extension headers; and a reset is not answered
    }
    let reason = match (packet.key.protocol, v4) {
        (PROTOCOL_TCP, _) => {
            reset(context, packet, answer)?;
            counter::ANSWERED_RESET
        }
        (PROTOCOL_UDP, true) => {
            unreachable_v4(context, packet, answer)?;
            counter::ANSWERED_UNREACHABLE
        }
        _ => {
            unreachable_v6(context, packet, answer)?;
            counter::ANSWERED_UNREACHABLE
        }
    };
    turn_around(context)?;
    Ok(reason)
}

/// Sends an answer out by the interface that the packet came from.
#[inline(always)]
pub fn send_back(packet: &Packet) -> i32 {
    // SAFETY: the helper only notes where the packet goes when the program ends.
    (unsafe { bpf_redirect(packet.ifindex, 0) }) as i32
}

#[inline(always)]
fn turn_around(context: &TcContext) -> Result<(), Failed> {
    let addresses: [[u16; 3]; 2] = load(context, 0)?;
    store(context, 0, &[addresses[1], addresses[0]])
}

#[inline(always)]
fn load<T>(context: &TcContext, offset: usize) -> Result<T, Failed> {
    context.load(offset).map_err(|_| Failed)
}

#[inline(always)]
fn store<T>(context: &TcContext, offset: usize, value: &T) -> Result<(), Failed> {
    context.store(offset, value, 0).map_err(|_| Failed)
}

#[inline(always)]
fn resize(context: &TcContext, length: usize) -> Result<(), Failed> {
    // SAFETY: the context is valid; no packet pointer is kept across this call.
    match unsafe { bpf_skb_change_tail(context.skb.skb, length as u32, 0) } {
        0 => Ok(()),
        _ => Err(Failed),
    }
}

/// An IPv4 header for `length` bytes in all, from the packet's destination to its source.
#[inline(always)]
fn ipv4(packet: &Packet, protocol: u8, length: usize) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_length: 0x45,
        tos: 0,
        total_length: (length as u16).to_be(),
        id: 0,
        fragment: IPV4_DONT_FRAGMENT.to_be(),
        ttl: HOPS,
        protocol,
        checksum: 0,
        source: packet.key.destination.words[3],
        destination: packet.key.source.words[3],
    };
    header.checksum = !fold(sum(&header, 0));
    header
}

/// The same for IPv6 and `payload` bytes after the header.
#[inline(always)]
fn ipv6(packet: &Packet, protocol: u8, payload: usize) -> Ipv6Header {
    Ipv6Header {
        version_class_flow: (6_u32 << 28).to_be(),
        payload_length: (payload as u16).to_be(),
        next_header: protocol,
        hop_limit: HOPS,
        source: packet.key.destination.words,
        destination: packet.key.source.words,
    }
}

#[inline(always)]
fn store_ip(
    context: &TcContext,
    packet: &Packet,
    answer: &mut Answer,
    protocol: u8,
    l4: usize,
) -> Result<(), Failed> {
    if packet.key.source.is_v4() {
        answer.ipv4 = ipv4(packet, protocol, l4 + size_of::<Ipv4Header>());
        store(context, packet.l3 as usize, &answer.ipv4)
    } else {
        answer.ipv6 = ipv6(packet, protocol, l4);
        store(context, packet.l3 as usize, &answer.ipv6)
    }
}

/// RFC 9293 3.10.7.1: a reset for a segment of a connection that does not exist.
#[inline(always)]
fn reset(context: &TcContext, packet: &Packet, answer: &mut Answer) -> Result<(), Failed> {
    let l4 = packet.l4 as usize;
    answer.asked = load(context, l4)?;
    let asked = &answer.asked;
    let l4_length = l4_length(context, packet)?;
    let late = is_late(context, packet, l4_length);
    let data = l4_length.wrapping_sub(u32::from(asked.offset >> 4) * 4);
    let phantom = u32::from(asked.flags & SYN != 0) + u32::from(asked.flags & FIN != 0);
    let next = u32::from_be(asked.sequence).wrapping_add(data).wrapping_add(phantom);
    let acknowledged = asked.flags & ACK != 0;
    answer.reset = TcpHeader {
        source_port: asked.destination_port,
        destination_port: asked.source_port,
        sequence: if acknowledged { asked.acknowledgment } else { 0 },
        acknowledgment: if acknowledged { 0 } else { next.to_be() },
        offset: 5 << 4,
        flags: if acknowledged { RST } else { RST | ACK },
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let length = size_of::<TcpHeader>();
    let key = &packet.key;
    let head = pseudo(&key.destination, &key.source, PROTOCOL_TCP, length as u32);
    answer.reset.checksum = if late { fold(head) } else { !fold(sum(&answer.reset, head)) };
    resize(context, l4 + length)?;
    store_ip(context, packet, answer, PROTOCOL_TCP, length)?;
    store(context, l4, &answer.reset)
}

/// Bytes from the TCP or UDP header on, by the IP header.
#[inline(always)]
fn l4_length(context: &TcContext, packet: &Packet) -> Result<u32, Failed> {
    if packet.key.source.is_v4() {
        let total: u16 = load(context, packet.l3 as usize + 2)?;
        Ok(u32::from(u16::from_be(total)).wrapping_sub(packet.l4 - packet.l3))
    } else {
        let payload: u16 = load(context, packet.l3 as usize + 4)?;
        Ok(u16::from_be(payload).into())
    }
}

/// RFC 792: type 3, code 3. A late checksum would be written over `late` and cover the whole
/// message, which makes its sum right whatever the field held.
#[inline(always)]
fn unreachable_v4(context: &TcContext, packet: &Packet, answer: &mut Answer) -> Result<(), Failed> {
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    let message = &mut answer.unreachable_v4;
    (message.kind, message.code, message.checksum) = (3, 3, 0);
    (message.unused, message.late) = (0, 0);
    message.quoted = load(context, l3)?;
    message.quoted_start = load(context, l4)?;
    message.checksum = !fold(sum(message, 0));
    let length = size_of::<Unreachable<Ipv4Header>>();
    resize(context, ETHERNET + size_of::<Ipv4Header>() + length)?;
    store_ip(context, packet, answer, PROTOCOL_ICMP, length)?;
    store(context, l4, &answer.unreachable_v4)
}

/// RFC 4443 3.1: type 1, code 4. Its checksum covers a pseudo header, which a late one would not:
/// so `late` starts out with that part.
#[inline(always)]
fn unreachable_v6(context: &TcContext, packet: &Packet, answer: &mut Answer) -> Result<(), Failed> {
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    let late = is_late(context, packet, l4_length(context, packet)?);
    let message = &mut answer.unreachable_v6;
    (message.kind, message.code, message.checksum) = (1, 4, 0);
    (message.unused, message.late) = (0, 0);
    message.quoted = load(context, l3)?;
    message.quoted_start = load(context, l4)?;
    let length = size_of::<Unreachable<Ipv6Header>>();
    let key = &packet.key;
    let head = pseudo(&key.destination, &key.source, PROTOCOL_ICMPV6, length as u32);
    if late {
        message.late = fold(head);
        message.checksum = !fold(sum(message, head));
    } else {
        message.checksum = !fold(sum(message, head));
    }
    resize(context, ETHERNET + size_of::<Ipv6Header>() + length)?;
    store_ip(context, packet, answer, PROTOCOL_ICMPV6, length)?;
    store(context, l4, &answer.unreachable_v6)
}
