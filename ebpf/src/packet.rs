//! Parsing: from a packet on an Ethernet interface to its five-tuple. IPv4 and IPv6 differ here
//! and in `answer`, and nowhere else.

use aya_ebpf::programs::TcContext;
use bowline_abi::{Address, FlowKey, FragmentKey, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::fragment;

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
const IPV6_HEADER: usize = 40;
const IPV6_FRAGMENT: u8 = 44;

/// TCP flag bits.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// An IPv4 header without options, as on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4Header {
    pub version_length: u8,
    pub tos: u8,
    pub total_length: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

/// An IPv6 header as on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6Header {
    pub version_class_flow: u32,
    pub payload_length: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6FragmentHeader {
    next_header: u8,
    reserved: u8,
    offset_flags: u16,
    id: u32,
}

/// A parsed TCP or UDP packet.
#[repr(C)]
pub struct Packet {
    /// The five-tuple as it came.
    pub key: FlowKey,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the TCP or UDP header (of the payload, in a later fragment).
    pub l4: u32,
    /// Bytes.
    pub length: u32,
    /// The interface that runs the program.
    pub ifindex: u32,
    /// Whether there is a TCP or UDP header: 0 in a later fragment.
    pub has_l4: u8,
    /// TCP flags, 0 for UDP.
    pub flags: u8,
    pub ttl: u8,
    pub pad: u8,
}

impl Packet {
    #[inline(always)]
    pub fn has_l4(&self) -> bool {
        self.has_l4 != 0
    }
}

/// What parsing makes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    Packet,
    /// Not TCP or UDP over IP, or malformed: not ours.
    Other,
    /// A later fragment of something whose first fragment was not seen.
    UnknownFragment,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy)]
struct Place {
    id: u32,
    /// In units of 8 bytes.
    offset: u16,
    more: bool,
}

#[inline(always)]
fn parse_v4(context: &TcContext, packet: &mut Packet) -> Option<Place> {
    let header: Ipv4Header = context.load(ETHERNET_HEADER).ok()?;
    let length = u32::from(header.version_length & 0xf) * 4;
    if header.version_length >> 4 != 4 || length < 20 {
        return None;
    }
    packet.key.source = Address::from_v4_word(header.source);
    packet.key.destination = Address::from_v4_word(header.destination);
    packet.key.protocol = header.protocol;
    packet.ttl = header.ttl;
    packet.l4 = ETHERNET_HEADER as u32 + length;
    let fragment = u16::from_be(header.fragment);
    Some(Place {
        id: u32::from(header.id),
        offset: fragment & IPV4_FRAGMENT_OFFSET,
        more: fragment & IPV4_MORE_FRAGMENTS != 0,
    })
}

#[inline(always)]
fn parse_v6(context: &TcContext, packet: &mut Packet) -> Option<Place> {
    let header: Ipv6Header = context.load(ETHERNET_HEADER).ok()?;
    packet.key.source = Address { words: header.source };
    packet.key.destination = Address { words: header.destination };
    packet.key.protocol = header.next_header;
    packet.ttl = header.hop_limit;
    packet.l4 = (ETHERNET_HEADER + IPV6_HEADER) as u32;
    if header.next_header != IPV6_FRAGMENT {
        return Some(Place { id: 0, offset: 0, more: false });
    }
    let fragment: Ipv6FragmentHeader = context.load(ETHERNET_HEADER + IPV6_HEADER).ok()?;
    let offset_flags = u16::from_be(fragment.offset_flags);
    packet.key.protocol = fragment.next_header;
    packet.l4 += 8;
    Some(Place { id: fragment.id, offset: offset_flags >> 3, more: offset_flags & 1 != 0 })
}

/// Parses a packet at an Ethernet interface's tc hook.
#[inline(always)]
pub fn parse(context: &TcContext, packet: &mut Packet, fragment: &mut FragmentKey) -> Parsed {
    // SAFETY: the context is valid for the whole run; these fields are readable at tc.
    let protocol = unsafe {
        let skb = context.skb.skb;
        packet.length = (*skb).len;
        packet.ifindex = (*skb).ifindex;
        (*skb).protocol as u16
    };
    packet.l3 = ETHERNET_HEADER as u32;
    packet.key.pad = [0; 3];
    let place = match protocol {
        ETHERTYPE_IPV4 => parse_v4(context, packet),
        ETHERTYPE_IPV6 => parse_v6(context, packet),
        _ => None,
    };
    let Some(place) = place else { return Parsed::Other };
    if packet.key.protocol != PROTOCOL_TCP && packet.key.protocol != PROTOCOL_UDP {
        return Parsed::Other;
    }
    packet.has_l4 = u8::from(place.offset == 0);
    if place.more || place.offset != 0 {
        *fragment = FragmentKey {
            source: packet.key.source,
            destination: packet.key.destination,
            id: place.id,
            protocol: packet.key.protocol,
            pad: [0; 3],
        };
    }
    packet.flags = 0;
    if place.offset != 0 {
        let Some(ports) = fragment::recall(fragment) else { return Parsed::UnknownFragment };
        packet.key.source_port = ports.source_port;
        packet.key.destination_port = ports.destination_port;
        return Parsed::Packet;
    }
    let l4 = packet.l4 as usize;
    let Ok(ports) = context.load::<[u16; 2]>(l4) else { return Parsed::Other };
    packet.key.source_port = ports[0];
    packet.key.destination_port = ports[1];
    if place.more {
        fragment::remember(fragment, ports);
    }
    if packet.key.protocol == PROTOCOL_TCP {
        let Ok(flags) = context.load::<u8>(l4 + 13) else { return Parsed::Other };
        packet.flags = flags;
    }
    Parsed::Packet
}
