//! The socket hooks, with real sockets.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use bowline_proxy::loader::{layout, netns_cookie, sys};
use bowline_proxy::maps::Maps;
use bowline_proxy::maps::abi::*;

use crate::lab::{Lab, Netns, ip};
use crate::services::{Service, addr, here};

const TCP: u8 = PROTOCOL_TCP;
const UDP: u8 = PROTOCOL_UDP;

fn timeout() -> Option<Duration> {
    Some(Duration::from_secs(5))
}

/// A server that tells every client the address at which it was reached.
fn tcp_server(address: &str) {
    let listener = TcpListener::bind(address).expect("listen");
    let name = address.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

/// The same by datagrams.
fn udp_server(address: &str) {
    let socket = UdpSocket::bind(address).expect("bind");
    let name = address.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

/// Connects; who answered, and what the socket shows as its peer.
fn ask_tcp(address: &str) -> io::Result<(String, SocketAddr)> {
    let address = address.parse().expect("a literal address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(timeout())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((text, stream.peer_addr()?))
}

/// Sends a datagram; who answered, and what its source is shown as.
fn ask_udp(socket: &UdpSocket, address: &str) -> io::Result<(String, SocketAddr)> {
    let mut buffer = [0; 64];
    socket.set_read_timeout(timeout())?;
    socket.send_to(b"?", address)?;
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn pods() {
    for address in ["10.244.1.1/32", "10.244.1.2/32", "10.244.1.3/32", "192.168.50.1/32"] {
        ip(&format!("addr add {address} dev lo"));
    }
    for address in ["fd00:10::1/128", "fd00:10::2/128"] {
        ip(&format!("addr add {address} dev lo nodad"));
    }
}

/// A server on a pod's address, and a service of it alone.
fn served(maps: &mut impl Maps) -> Service {
    tcp_server("10.244.1.1:8080");
    let mut service = Service::new(1);
    service.set(maps, &[here("10.244.1.1:8080")]);
    service
}

#[test]
fn a_connect_to_a_cluster_ip_reaches_every_backend_and_shows_the_service() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    for backend in ["10.244.1.1:8080", "10.244.1.2:8080"] {
        tcp_server(backend);
    }
    let mut service = Service::new(1);
    service.set(&mut maps, &[here("10.244.1.1:8080"), here("10.244.1.2:8080")]);
    service.at(&mut maps, "10.96.0.10:80", TCP);
    let mut answers = BTreeMap::<String, u32>::new();
    for _ in 0..400 {
        let (who, peer) = ask_tcp("10.96.0.10:80").expect("connect");
        assert_eq!(peer, "10.96.0.10:80".parse().expect("literal"), "getpeername");
        *answers.entry(who).or_default() += 1;
    }
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers.values().all(|n| (120..=280).contains(n)), "unfair: {answers:?}");
}

#[test]
fn ipv6_and_v4_mapped_connects_are_led_too() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    tcp_server("[fd00:10::1]:8080");
    tcp_server("10.244.1.1:8080");
    let mut six = Service::new(1);
    six.set(&mut maps, &[here("[fd00:10::1]:8080")]);
    six.at(&mut maps, "[fd00:96::10]:80", TCP);
    let mut four = Service::new(2);
    four.set(&mut maps, &[here("10.244.1.1:8080")]);
    four.at(&mut maps, "10.96.0.10:80", TCP);
    let (who, peer) = ask_tcp("[fd00:96::10]:80").expect("connect by IPv6");
    assert_eq!(
        (who.as_str(), peer.to_string().as_str()),
        ("[fd00:10::1]:8080", "[fd00:96::10]:80")
    );
    let (who, peer) = ask_tcp("[::ffff:10.96.0.10]:80").expect("connect by a v4-mapped address");
    assert_eq!(who, "10.244.1.1:8080");
    assert_eq!(peer, "[::ffff:10.96.0.10]:80".parse().expect("literal"));
}

#[test]
fn no_endpoint_and_an_unknown_port_are_refused_at_once_and_other_addresses_are_left_alone() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    tcp_server("10.244.1.1:8080");
    let mut service = Service::new(1);
    service.set(&mut maps, &[]);
    service.at(&mut maps, "10.96.0.10:80", TCP);
    service.at(&mut maps, "[fd00:96::10]:80", TCP);
    service.at(&mut maps, "10.96.0.10:53", UDP);
    service.at(&mut maps, "[fd00:96::10]:53", UDP);
    let before = maps.counters().expect("counters");
    let refused = |result: io::Result<(String, SocketAddr)>, what: &str| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(111), "{what}: {error}");
    };
    refused(ask_tcp("10.96.0.10:80"), "no endpoint, IPv4");
    refused(ask_tcp("[fd00:96::10]:80"), "no endpoint, IPv6");
    refused(ask_tcp("10.96.0.10:81"), "unknown port");
    let four = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let six = UdpSocket::bind("[::]:0").expect("bind");
    refused(ask_udp(&four, "10.96.0.10:53"), "no endpoint, UDP");
    refused(ask_udp(&six, "[fd00:96::10]:53"), "no endpoint, UDP over IPv6");
    let (who, _) = ask_tcp("10.244.1.1:8080").expect("a direct connect");
    assert_eq!(who, "10.244.1.1:8080");
    let after = maps.counters().expect("counters");
    let counted = |index: u32| after[index as usize].packets - before[index as usize].packets;
    assert_eq!(counted(counter::CONNECT_NO_ENDPOINT), 2);
    assert_eq!(counted(counter::CONNECT_UNKNOWN_PORT), 1);
    assert_eq!(counted(counter::SENDMSG_NO_ENDPOINT), 2);
}

#[test]
fn one_udp_sockets_datagrams_stay_on_one_backend_and_answers_come_from_the_service() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    let backends = ["10.244.1.1:5353", "10.244.1.2:5353", "10.244.1.3:5353"];
    backends.iter().for_each(|backend| udp_server(backend));
    let mut service = Service::new(1);
    service.set(&mut maps, &backends.map(here));
    service.at(&mut maps, "10.96.0.10:53", UDP);
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..40 {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        let (first, _) = ask_udp(&socket, "10.96.0.10:53").expect("ask");
        for _ in 0..20 {
            let (who, from) = ask_udp(&socket, "10.96.0.10:53").expect("ask");
            assert_eq!(who, first, "a socket's datagrams moved to another backend");
            assert_eq!(from.to_string(), "10.96.0.10:53", "the source shown");
        }
        *seen.entry(first).or_default() += 1;
    }
    assert_eq!(seen.len(), 3, "sockets are spread: {seen:?}");
}

#[test]
fn a_udp_socket_moves_on_when_its_backend_goes() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    udp_server("10.244.1.1:5353");
    udp_server("10.244.1.2:5353");
    let mut service = Service::new(1);
    service.set(&mut maps, &[here("10.244.1.1:5353")]);
    service.at(&mut maps, "10.96.0.10:53", UDP);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    assert_eq!(ask_udp(&socket, "10.96.0.10:53").expect("ask").0, "10.244.1.1:5353");
    service.set(&mut maps, &[here("10.244.1.2:5353")]);
    assert_eq!(ask_udp(&socket, "10.96.0.10:53").expect("ask").0, "10.244.1.2:5353");
    // The index that the socket remembers is given out again, with a new generation.
    service.set(&mut maps, &[here("10.244.1.1:5353")]);
    service.set(&mut maps, &[here("10.244.1.2:5353")]);
    assert_eq!(ask_udp(&socket, "10.96.0.10:53").expect("ask").0, "10.244.1.2:5353");
}

#[test]
fn connected_and_dual_stack_udp_sockets_see_the_service() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    udp_server("10.244.1.1:5353");
    udp_server("[fd00:10::1]:5353");
    let mut four = Service::new(1);
    four.set(&mut maps, &[here("10.244.1.1:5353")]);
    four.at(&mut maps, "10.96.0.10:53", UDP);
    let mut six = Service::new(2);
    six.set(&mut maps, &[here("[fd00:10::1]:5353")]);
    six.at(&mut maps, "[fd00:96::10]:53", UDP);

    let connected = UdpSocket::bind("0.0.0.0:0").expect("bind");
    connected.connect("10.96.0.10:53").expect("connect");
    connected.set_read_timeout(timeout()).expect("set a timeout");
    connected.send(b"?").expect("send");
    let mut buffer = [0; 64];
    let (_, from) = connected.recv_from(&mut buffer).expect("receive");
    assert_eq!(from.to_string(), "10.96.0.10:53", "recvfrom on a connected socket");
    assert_eq!(connected.peer_addr().expect("peer").to_string(), "10.96.0.10:53");

    let dual = UdpSocket::bind("[::]:0").expect("bind");
    let (who, from) = ask_udp(&dual, "[fd00:96::10]:53").expect("ask by IPv6");
    assert_eq!(
        (who.as_str(), from.to_string().as_str()),
        ("[fd00:10::1]:5353", "[fd00:96::10]:53")
    );
    let (who, from) = ask_udp(&dual, "[::ffff:10.96.0.10]:53").expect("ask by a mapped address");
    assert_eq!(who, "10.244.1.1:5353");
    assert_eq!(from, "[::ffff:10.96.0.10]:53".parse().expect("literal"));
}

#[test]
fn what_a_socket_asked_for_is_forgotten_at_its_close_and_has_a_place_when_the_map_is_full() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    let service = served(&mut maps);
    service.at(&mut maps, "10.96.0.10:80", TCP);
    service.at(&mut maps, "10.96.0.10:80", UDP);
    let map = layout::open(&lab.config.pins(), &layout::CONNECTED).expect("a pin");
    let rows = || {
        let mut rows = 0;
        sys::for_each(map.as_fd(), |_: &u64, _: &Socket| {
            rows += 1;
            true
        })
        .expect("list");
        rows
    };
    let connect = || {
        let stream = TcpStream::connect("10.96.0.10:80").expect("connect");
        let datagrams = UdpSocket::bind("0.0.0.0:0").expect("bind");
        datagrams.connect("10.96.0.10:80").expect("connect");
        let shown = [stream.peer_addr(), datagrams.peer_addr()];
        let service = "10.96.0.10:80".parse().expect("literal");
        assert!(shown.iter().all(|peer| peer.as_ref().ok() == Some(&service)), "{shown:?}");
        (stream, datagrams)
    };
    let (stream, datagrams) = connect();
    let same = stream.try_clone().expect("a second descriptor");
    assert_eq!(rows(), 2);
    drop(stream);
    assert_eq!(rows(), 2, "the socket is open still");
    datagrams.connect("10.96.0.10:80").expect("connect again");
    assert_eq!(rows(), 2, "one row a socket");
    drop((same, datagrams));
    assert_eq!(rows(), 0);

    for cookie in 0..u64::from(layout::CONNECTED.max_entries) {
        let row = Socket::default();
        sys::update(map.as_fd(), &(u64::MAX - cookie), &row, 0).expect("room");
    }
    let sockets = connect();
    assert_eq!(rows(), layout::CONNECTED.max_entries, "these remember in their own storage");
    drop(sockets);
    ask_tcp("10.96.0.10:80").expect("connections work as ever");
}

#[test]
fn a_node_port_is_served_on_the_nodes_addresses_and_on_loopback_of_the_node_only() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    let service = served(&mut maps);
    service.at_node_port(&mut maps, 30080, TCP);
    maps.insert_node_address(addr("192.168.50.1"), NODE_ADDRESS_NODE_PORTS).expect("insert");
    let loopback = NODE_ADDRESS_NODE_PORTS | NODE_ADDRESS_LOOPBACK;
    maps.insert_node_address(addr("127.0.0.1"), loopback).expect("insert");
    let refused = |address: &str| ask_tcp(address).expect_err("nobody listens there");
    refused("127.0.0.1:30080");
    let netns_cookie = netns_cookie().expect("cookie");
    maps.write_settings(&Settings { netns_cookie, ..Settings::default() }).expect("settings");
    for address in ["192.168.50.1:30080", "127.0.0.1:30080"] {
        assert_eq!(ask_tcp(address).expect(address).0, "10.244.1.1:8080", "{address}");
    }
    refused("10.244.1.2:30080");
    refused("192.168.50.1:30081");
    let error = Netns::new().run(|| ask_tcp("127.0.0.1:30080").expect_err("a pod's own loopback"));
    assert_eq!(error.raw_os_error(), Some(111), "{error}");
}

#[test]
fn affinity_holds_a_namespace_to_its_backend_until_that_is_not_ready() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    let backends = ["10.244.1.1:8080", "10.244.1.2:8080", "10.244.1.3:8080"];
    backends.iter().for_each(|backend| tcp_server(backend));
    let mut service = Service::new(1);
    (service.flags, service.affinity_seconds) = (DESCRIPTOR_AFFINITY, 60);
    service.set(&mut maps, &backends.map(here));
    service.at(&mut maps, "10.96.0.10:80", TCP);
    let (first, _) = ask_tcp("10.96.0.10:80").expect("connect");
    for _ in 0..50 {
        assert_eq!(ask_tcp("10.96.0.10:80").expect("connect").0, first);
    }
    let others: Vec<_> = backends.into_iter().filter(|b| *b != first).map(here).collect();
    service.set(&mut maps, &others);
    let (second, _) = ask_tcp("10.96.0.10:80").expect("connect");
    assert_ne!(second, first, "the backend that went");
    for _ in 0..50 {
        assert_eq!(ask_tcp("10.96.0.10:80").expect("connect").0, second);
    }
}

#[test]
fn a_local_policy_uses_local_backends_and_leaves_the_drop_to_the_packet_path() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    tcp_server("10.244.1.1:8080");
    let mut service = Service::new(1);
    service.flags = DESCRIPTOR_INTERNAL_LOCAL;
    service.set(&mut maps, &[here("10.244.1.1:8080"), crate::services::elsewhere("10.9.9.9:1")]);
    service.at(&mut maps, "10.96.0.10:80", TCP);
    for _ in 0..50 {
        assert_eq!(ask_tcp("10.96.0.10:80").expect("connect").0, "10.244.1.1:8080");
    }
    service.elsewhere = 1;
    service.set(&mut maps, &[]);
    let error = ask_tcp("10.96.0.10:80").expect_err("no local endpoint");
    assert_ne!(error.raw_os_error(), Some(111), "dropped, not refused: {error}");
    let counters = maps.counters().expect("counters");
    assert_eq!(counters[counter::LEFT_TO_PACKETS as usize].packets, 1);
    service.elsewhere = 0;
    service.set(&mut maps, &[]);
    let error = ask_tcp("10.96.0.10:80").expect_err("no endpoint at all");
    assert_eq!(error.raw_os_error(), Some(111), "{error}");
}

#[test]
fn a_socket_outside_of_the_root_is_not_served() {
    let lab = Lab::new();
    pods();
    let mut maps = lab.start().maps;
    let mut service = Service::new(1);
    service.set(&mut maps, &[]);
    service.at(&mut maps, "10.244.1.1:80", TCP);
    tcp_server("10.244.1.1:80");
    ask_tcp("10.244.1.1:80").expect_err("refused inside of the root");
    lab.leave_cgroup();
    ask_tcp("10.244.1.1:80").expect("a direct connect outside of the root");
}
