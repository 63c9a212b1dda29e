//! Single packets through the packet programs by BPF_PROG_TEST_RUN, with complete checksums, as
//! they come from a network card (those between veths are left to be filled in). Every packet that
//! comes out is checked: lengths, IP checksum, TCP, UDP and ICMP checksums.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use bowline_proxy::loader::{Dataplane, sys};
use bowline_proxy::maps::Maps;
use bowline_proxy::maps::abi::*;

use crate::lab::{Lab, ip};
use crate::services::{Service, addr, elsewhere, here};

const PASS: i32 = -1;
pub(crate) const DROP: i32 = 2;
const REDIRECT: i32 = 7;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// One's complement sum of 16-bit words.
fn sum(bytes: &[u8], seed: u32) -> u32 {
    bytes.chunks(2).fold(seed, |sum, pair| {
        sum + (u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
    })
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A packet, to be made or as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    destination_mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    ttl: u8,
    protocol: u8,
    /// TCP, UDP or ICMP from its header on.
    l4: Vec<u8>,
}

impl Packet {
    fn new(source: &str, destination: &str, protocol: u8, l4: Vec<u8>) -> Self {
        Self {
            destination_mac: NODE_MAC,
            source: source.parse().expect("literal"),
            destination: destination.parse().expect("literal"),
            ttl: 64,
            protocol,
            l4,
        }
    }

    fn tcp(source: (&str, u16), destination: (&str, u16), flags: u8, payload: &[u8]) -> Self {
        let mut l4 = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
        l4.extend(1000_u32.to_be_bytes());
        l4.extend(2000_u32.to_be_bytes());
        l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        l4.extend(payload);
        Self::new(source.0, destination.0, PROTOCOL_TCP, l4)
    }

    pub(crate) fn udp(source: (&str, u16), destination: (&str, u16), payload: &[u8]) -> Self {
        let mut l4 = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
        l4.extend((8 + payload.len() as u16).to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(payload);
        Self::new(source.0, destination.0, PROTOCOL_UDP, l4)
    }

    fn pseudo(&self) -> u32 {
        let addresses = [octets(self.source), octets(self.destination)].concat();
        sum(&addresses, u32::from(self.protocol) + self.l4.len() as u32)
    }

    fn check_offset(&self) -> usize {
        match self.protocol {
            PROTOCOL_TCP => 16,
            PROTOCOL_UDP => 6,
            _ => 2,
        }
    }

    /// Whether the protocol's checksum covers the pseudo header.
    fn has_pseudo(&self) -> bool {
        self.protocol != 1
    }

    /// The bytes on the wire, with complete checksums.
    fn bytes(&self) -> Vec<u8> {
        let mut l4 = self.l4.clone();
        let offset = self.check_offset();
        l4[offset..offset + 2].fill(0);
        let check = !fold(sum(&l4, if self.has_pseudo() { self.pseudo() } else { 0 }));
        l4[offset..offset + 2].copy_from_slice(&check.to_be_bytes());
        let mut bytes = [self.destination_mac, CLIENT_MAC].concat();
        if self.source.is_ipv4() {
            bytes.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0];
            header.extend((20 + l4.len() as u16).to_be_bytes());
            header.extend([0x12, 0x34, 0x40, 0, self.ttl, self.protocol, 0, 0]);
            header.extend([octets(self.source), octets(self.destination)].concat());
            let check = !fold(sum(&header, 0));
            header[10..12].copy_from_slice(&check.to_be_bytes());
            bytes.extend(header);
        } else {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((l4.len() as u16).to_be_bytes());
            bytes.extend([self.protocol, self.ttl]);
            bytes.extend([octets(self.source), octets(self.destination)].concat());
        }
        bytes.extend(l4);
        bytes
    }

    /// Reads a packet, and checks all that can be wrong with it.
    fn read(bytes: &[u8]) -> Self {
        let (ethernet, ip) = bytes.split_at(14);
        let (source, destination, ttl, protocol, l4);
        if ethernet[12..14] == [0x08, 0x00] {
            assert_eq!(ip[0], 0x45, "no options");
            let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            assert_eq!(length, ip.len(), "the IPv4 total length");
            assert_eq!(fold(sum(&ip[..20], 0)), 0xffff, "the IPv4 header's checksum");
            let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
            (source, destination) = (address(12), address(16));
            (ttl, protocol, l4) = (ip[8], ip[9], &ip[20..]);
        } else {
            assert_eq!(ethernet[12..14], [0x86, 0xdd]);
            let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            assert_eq!(length, ip.len() - 40, "the IPv6 payload length");
            let address =
                |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("16 bytes"));
            (source, destination) = (address(8), address(24));
            (ttl, protocol, l4) = (ip[7], ip[6], &ip[40..]);
        }
        let destination_mac = ethernet[..6].try_into().expect("6 bytes");
        let l4 = l4.to_vec();
        let packet = Self { destination_mac, source, destination, ttl, protocol, l4 };
        let seed = if packet.has_pseudo() { packet.pseudo() } else { 0 };
        assert_eq!(fold(sum(&packet.l4, seed)), 0xffff, "the checksum of {packet:?}");
        packet
    }

    pub(crate) fn ports(&self) -> (u16, u16) {
        let l4 = &self.l4;
        (u16::from_be_bytes([l4[0], l4[1]]), u16::from_be_bytes([l4[2], l4[3]]))
    }

    fn flags(&self) -> u8 {
        self.l4[13]
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.l4[at..at + 4].try_into().expect("4 bytes"))
    }
}

/// A node with an uplink and a way to other nodes.
pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) dataplane: Dataplane,
    ingress: OwnedFd,
    egress: OwnedFd,
    ifindex: u32,
}

pub(crate) const NODE: [&str; 2] = ["192.168.50.1", "fd00:50::1"];
pub(crate) const CLIENT: [&str; 2] = ["198.51.100.9", "2001:db8::9"];
const POD: [&str; 2] = ["10.244.1.5", "fd00:10::5"];
const FAR_POD: [&str; 2] = ["10.244.2.5", "fd00:20::5"];

pub(crate) fn node() -> Node {
    let lab = Lab::new();
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{path}"), "1").expect("turn forwarding on");
    }
    ip("link add up0 address 02:00:00:00:00:01 type veth peer name out0");
    ip("addr add 192.168.50.1/24 dev up0");
    ip("addr add fd00:50::1/64 dev up0 nodad");
    ip("link set up0 up");
    ip("link set out0 up");
    ip("neigh add 192.168.50.7 lladdr 02:00:00:00:00:07 dev up0 nud permanent");
    ip("neigh add fd00:50::7 lladdr 02:00:00:00:00:07 dev up0 nud permanent");
    ip("route add default via 192.168.50.7");
    ip("route add default via fd00:50::7");
    let mut dataplane = lab.start();
    for address in NODE {
        let flags = NODE_ADDRESS_NODE_PORTS;
        dataplane.maps.insert_node_address(addr(address), flags).expect("insert");
    }
    let program = |name: &str| {
        sys::open_pin(&lab.config.pins().join("programs").join(name)).expect("a program")
    };
    let (ingress, egress) = (program("uplink_ingress"), program("uplink_egress"));
    let ifindex = nix::net::if_::if_nametoindex("up0").expect("an index");
    Node { lab, dataplane, ingress, egress, ifindex }
}

impl Node {
    fn run(&self, program: &OwnedFd, packet: &[u8]) -> (i32, Vec<u8>) {
        // struct __sk_buff: ingress_ifindex and ifindex are words 9 and 10.
        let mut context = [0_u8; 192];
        context[40..44].copy_from_slice(&self.ifindex.to_ne_bytes());
        let (verdict, bytes) =
            sys::test_run(program.as_fd(), packet, &context).expect("run the program");
        (verdict as i32, bytes)
    }

    pub(crate) fn comes_in(&self, packet: &Packet) -> (i32, Packet) {
        let (verdict, bytes) = self.run(&self.ingress, &packet.bytes());
        (verdict, Packet::read(&bytes))
    }

    fn goes_out(&self, packet: &Packet) -> (i32, Packet) {
        let (verdict, bytes) = self.run(&self.egress, &packet.bytes());
        (verdict, Packet::read(&bytes))
    }

    fn counted(&self, index: u32) -> u64 {
        self.dataplane.maps.counters().expect("counters")[index as usize].packets
    }

    fn serve(
        &mut self,
        id: u32,
        port: u16,
        backends: &[(std::net::SocketAddr, crate::services::Place)],
    ) -> Service {
        let mut service = Service::new(id);
        service.set(&mut self.dataplane.maps, backends);
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP] {
            service.at_node_port(&mut self.dataplane.maps, port, protocol);
        }
        service
    }
}

fn at(address: &str, port: u16) -> String {
    std::net::SocketAddr::new(address.parse().expect("literal"), port).to_string()
}

/// A packet of each protocol from the client to a node port.
fn asks(family: usize, port: u16) -> [Packet; 3] {
    let (client, node) = ((CLIENT[family], 4444), (NODE[family], port));
    [
        Packet::tcp(client, node, SYN, b""),
        Packet::udp(client, node, b"a question"),
        Packet::udp(client, node, b"odd"),
    ]
}

#[test]
fn a_local_backend_gets_the_packet_and_its_answer_leaves_as_the_nodes() {
    let mut node = node();
    for family in [0, 1] {
        let port = 30080 + family as u16;
        node.serve(1 + family as u32, port, &[here(&at(POD[family], 8080))]);
        for ask in asks(family, port) {
            let (verdict, led) = node.comes_in(&ask);
            assert_eq!(verdict, PASS);
            assert_eq!((led.source, led.ttl), (ask.source, 64), "the stack routes it");
            assert_eq!(led.destination.to_string(), POD[family]);
            assert_eq!(led.ports(), (4444, 8080));
            let from = (POD[family], 8080);
            let answer = match ask.protocol {
                PROTOCOL_TCP => Packet::tcp(from, (CLIENT[family], 4444), SYN | ACK, b""),
                _ => Packet::udp(from, (CLIENT[family], 4444), b"an answer"),
            };
            let (verdict, shown) = node.goes_out(&answer);
            assert_eq!(verdict, PASS);
            assert_eq!(shown.source.to_string(), NODE[family]);
            assert_eq!(shown.destination, ask.source);
            assert_eq!(shown.ports(), (port, 4444));
        }
    }
}

#[test]
fn a_remote_backend_gets_the_packet_from_the_node_and_its_answer_goes_on_to_the_client() {
    let mut node = node();
    for family in [0, 1] {
        let port = 30080 + family as u16;
        node.serve(1 + family as u32, port, &[elsewhere(&at(FAR_POD[family], 8080))]);
        for ask in asks(family, port) {
            let (verdict, led) = node.comes_in(&ask);
            assert_eq!(verdict, REDIRECT);
            assert_eq!(led.destination_mac, GATEWAY_MAC, "routed by the program");
            assert_eq!((led.source.to_string().as_str(), led.ttl), (NODE[family], 63));
            assert_eq!(led.destination.to_string(), FAR_POD[family]);
            let (snat, to) = led.ports();
            assert_eq!(to, 8080);
            assert!(snat >= SNAT_FIRST_PORT, "{snat}");
            let (from, back) = ((FAR_POD[family], 8080), (NODE[family], snat));
            let answer = match ask.protocol {
                PROTOCOL_TCP => Packet::tcp(from, back, SYN | ACK, b""),
                _ => Packet::udp(from, back, b"an answer"),
            };
            let (verdict, shown) = node.comes_in(&answer);
            assert_eq!(verdict, REDIRECT);
            assert_eq!(shown.source.to_string(), NODE[family]);
            assert_eq!((shown.destination, shown.ttl), (ask.source, 63));
            assert_eq!(shown.ports(), (port, 4444));
            let (_, again) = node.comes_in(&ask);
            assert_eq!(again.ports(), (snat, 8080), "the flow keeps its port");
        }
    }
}

#[test]
fn a_syn_to_no_endpoint_is_answered_by_a_reset_that_fits() {
    let mut node = node();
    node.serve(1, 30080, &[]);
    for family in [0, 1] {
        let (client, to) = ((CLIENT[family], 4444), (NODE[family], 30080));
        let (verdict, reset) = node.comes_in(&Packet::tcp(client, to, SYN, b""));
        assert_eq!(verdict, REDIRECT);
        assert_eq!(reset.destination_mac, CLIENT_MAC);
        assert_eq!(reset.source.to_string(), NODE[family]);
        assert_eq!(reset.destination.to_string(), CLIENT[family]);
        assert_eq!((reset.ports(), reset.flags()), ((30080, 4444), RST | ACK));
        assert_eq!((reset.word(4), reset.word(8)), (0, 1001), "RFC 9293: it acknowledges the SYN");
        let (_, reset) = node.comes_in(&Packet::tcp(client, to, ACK, b"late data, odd length"));
        assert_eq!((reset.flags(), reset.word(4)), (RST, 2000), "RFC 9293: its sequence number");
        let (verdict, _) = node.comes_in(&Packet::tcp(client, to, RST, b""));
        assert_eq!(verdict, DROP, "a reset is not answered");
    }
    assert_eq!(node.counted(counter::ANSWERED_RESET), 4);
}

#[test]
fn a_datagram_to_no_endpoint_is_answered_by_port_unreachable_that_quotes_it() {
    let mut node = node();
    node.serve(1, 30080, &[]);
    for (family, protocol, kind) in [(0, 1, [3, 3]), (1, 58, [1, 4])] {
        for payload in [&b""[..], b"short", &[b'x'; 900]] {
            let ask = Packet::udp((CLIENT[family], 4444), (NODE[family], 30080), payload);
            let sent = ask.bytes();
            let (verdict, answer) = node.comes_in(&ask);
            assert_eq!(verdict, REDIRECT);
            assert_eq!(answer.destination_mac, CLIENT_MAC);
            assert_eq!((answer.source, answer.destination), (ask.destination, ask.source));
            assert_eq!((answer.protocol, &answer.l4[..2]), (protocol, &kind[..]));
            let quoted = sent.len() - 14 - payload.len();
            assert_eq!(answer.l4[8..], sent[14..14 + quoted], "the quoted header and ports");
        }
    }
    assert_eq!(node.counted(counter::ANSWERED_UNREACHABLE), 6);
}

#[test]
fn what_is_not_ours_passes_unchanged() {
    let mut node = node();
    node.serve(1, 30080, &[here(&at(POD[0], 8080))]);
    let others = [
        Packet::tcp((CLIENT[0], 4444), (NODE[0], 22), SYN, b""),
        Packet::tcp((CLIENT[0], 4444), (POD[0], 30080), SYN, b""),
        Packet::udp((CLIENT[1], 4444), (NODE[1], 53), b"x"),
        Packet::new(CLIENT[0], NODE[0], 1, vec![8, 0, 0, 0, 0, 1, 0, 1]),
        Packet::new(CLIENT[1], NODE[1], 58, vec![128, 0, 0, 0, 0, 1, 0, 1]),
    ];
    for packet in others {
        for program in [&node.ingress, &node.egress] {
            let (verdict, bytes) = node.run(program, &packet.bytes());
            assert_eq!((verdict, bytes), (PASS, packet.bytes()), "{packet:?}");
        }
    }
    for whole in asks(0, 30080).iter().chain(&asks(1, 30080)).map(Packet::bytes) {
        let header = whole.len().min(if whole[12] == 8 { 34 } else { 54 });
        for length in header..header + 4 {
            let (verdict, bytes) = node.run(&node.ingress, &whole[..length]);
            assert_eq!((verdict, bytes.len()), (PASS, length), "a packet cut off");
        }
    }
}

#[test]
fn a_cluster_ip_never_leaves_the_node() {
    let mut node = node();
    node.dataplane.maps.insert_vip(addr("10.96.0.10"), VIP_CLUSTER_IP).expect("insert");
    let (verdict, _) = node.goes_out(&Packet::tcp((POD[0], 1), ("10.96.0.10", 80), SYN, b""));
    assert_eq!(verdict, DROP);
    assert_eq!(node.counted(counter::DROP_CLUSTER_IP_EGRESS), 1);
}

#[test]
fn a_flow_follows_its_backend_and_no_other() {
    let mut node = node();
    let mut service = node.serve(1, 30080, &[here(&at(POD[0], 8080))]);
    let (client, to) = ((CLIENT[0], 4444), (NODE[0], 30080));
    let udp = Packet::udp(client, to, b"x");
    let (syn, data) = (Packet::tcp(client, to, SYN, b""), Packet::tcp(client, to, ACK, b"x"));
    assert_eq!(node.comes_in(&udp).1.destination.to_string(), POD[0]);
    assert_eq!(node.comes_in(&syn).1.destination.to_string(), POD[0]);
    service.set(&mut node.dataplane.maps, &[here("10.244.1.6:8080")]);
    let moved = node.comes_in(&udp).1.destination.to_string();
    assert_eq!(moved, "10.244.1.6", "UDP is not pinned to a backend that has gone");
    let kept = node.comes_in(&data).1.destination.to_string();
    assert_eq!(kept, POD[0], "an open connection ends with its backend, and is never moved");
    let anew = node.comes_in(&syn).1.destination.to_string();
    assert_eq!(anew, "10.244.1.6", "a new connection from the same port");
}

#[test]
fn source_ports_that_run_out_are_counted_and_established_flows_stay() {
    let mut node = node();
    node.serve(1, 30080, &[elsewhere(&at(FAR_POD[0], 8080))]);
    let settings = Settings { snat_first: 61000, snat_last: 61003, ..Settings::default() };
    node.dataplane.maps.write_settings(&settings).expect("settings");
    let ask = |port| Packet::udp((CLIENT[0], port), (NODE[0], 30080), b"x");
    let mut led = Vec::new();
    for port in 1..200 {
        let (verdict, packet) = node.comes_in(&ask(port));
        if verdict == REDIRECT {
            led.push((port, packet.ports().0));
        }
    }
    assert_eq!(led.len(), 4, "{led:?}");
    let mut used: Vec<_> = led.iter().map(|(_, snat)| *snat).collect();
    used.sort_unstable();
    assert_eq!(used, [61000, 61001, 61002, 61003]);
    assert!(node.counted(counter::SNAT_EXHAUSTED) >= 190);
    for (port, snat) in led {
        assert_eq!(node.comes_in(&ask(port)).1.ports().0, snat);
    }
}

#[test]
fn a_connection_that_its_backend_closed_gives_its_source_port_up() {
    let mut node = node();
    node.serve(1, 30080, &[elsewhere(&at(FAR_POD[0], 8080))]);
    let settings = Settings { snat_first: 61000, snat_last: 61000, ..Settings::default() };
    node.dataplane.maps.write_settings(&settings).expect("settings");
    let syn = |port| Packet::tcp((CLIENT[0], port), (NODE[0], 30080), SYN, b"");
    let back = ((FAR_POD[0], 8080), (NODE[0], 61000));
    assert_eq!(node.comes_in(&syn(1)).0, REDIRECT);
    assert_eq!(node.comes_in(&syn(2)).0, DROP, "the only port is taken");
    assert_eq!(node.comes_in(&Packet::tcp(back.0, back.1, FIN | ACK, b"")).0, REDIRECT);
    assert_eq!(node.comes_in(&syn(2)).0, DROP, "a last packet may still come");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while node.comes_in(&syn(2)).0 != REDIRECT {
        assert!(std::time::Instant::now() < deadline, "the port is never given up");
    }
    let answer = node.comes_in(&Packet::tcp(back.0, back.1, SYN | ACK, b"")).1;
    assert_eq!(answer.ports(), (30080, 2), "the new flow has the port now");
    let (_, old) = node.comes_in(&Packet::tcp((CLIENT[0], 1), (NODE[0], 30080), ACK, b""));
    assert_eq!(old.flags() & RST, RST, "the old flow is forgotten");
}

#[test]
fn an_answered_flow_is_established_and_swept_when_idle() {
    let mut node = node();
    node.serve(1, 30080, &[here(&at(POD[0], 8080))]);
    let rows = |node: &Node, name: &str| {
        let usage = node.dataplane.maps.usage().expect("usage");
        usage.iter().find(|u| u.name == name).and_then(|u| u.entries)
    };
    node.comes_in(&Packet::udp((CLIENT[0], 4444), (NODE[0], 30080), b"x"));
    assert_eq!((rows(&node, "NEW_FLOWS"), rows(&node, "FLOWS")), (Some(2), Some(0)));
    node.goes_out(&Packet::udp((POD[0], 8080), (CLIENT[0], 4444), b"y"));
    assert_eq!((rows(&node, "NEW_FLOWS"), rows(&node, "FLOWS")), (Some(0), Some(2)));
    assert_eq!(node.dataplane.maps.sweep_flows().expect("sweep"), 0, "it is young");
    assert!(node.lab.config.pins().exists());
}
