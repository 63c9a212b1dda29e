//! The packet path with real packets: a client outside, a node, a pod on it, a pod elsewhere.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use bowline_proxy::loader::{Dataplane, UplinkKind};
use bowline_proxy::maps::Maps;
use bowline_proxy::maps::abi::*;

use crate::lab::{Lab, Netns, ip};
use crate::services::{Service, addr, elsewhere, here};

const TCP: u8 = PROTOCOL_TCP;
const UDP: u8 = PROTOCOL_UDP;
const NODE_PORT: u16 = 30080;
const NODE: [&str; 2] = ["192.168.50.1", "fd00:50::1"];
const CLIENT: [&str; 2] = ["192.168.50.9", "fd00:50::9"];
const POD_HERE: [&str; 2] = ["10.244.1.5", "fd00:10::5"];
const POD_ELSEWHERE: [&str; 2] = ["10.244.2.5", "fd00:20::5"];

/// The test's own namespace is the node.
struct Nodes {
    _lab: Lab,
    dataplane: Dataplane,
    /// The client, and the node that has the other pod.
    outside: Netns,
    _pod: Netns,
}

fn forward() {
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{path}"), "1").expect("turn forwarding on");
    }
}

fn nodes() -> Nodes {
    let lab = Lab::new();
    let dataplane = lab.start();
    lab.leave_cgroup(); // outside clients are not served by the socket hooks
    let (outside, pod) = (Netns::new(), Netns::new());
    forward();
    ip(&format!("link add up0 type veth peer name out0 netns {}", outside.path()));
    ip(&format!("link add pod0 type veth peer name eth0 netns {}", pod.path()));
    ip("addr add 192.168.50.1/24 dev up0");
    ip("addr add fd00:50::1/64 dev up0 nodad");
    ip("addr add 10.244.1.254/24 dev pod0");
    ip("addr add fd00:10::fe/64 dev pod0 nodad");
    ip("link set up0 up");
    ip("link set pod0 up");
    outside.run(|| {
        ip("addr add 192.168.50.9/24 dev out0");
        ip("addr add fd00:50::9/64 dev out0 nodad");
        ip("addr add 10.244.2.5/32 dev lo");
        ip("addr add fd00:20::5/128 dev lo nodad");
        ip("link set out0 up");
        echo_server("10.244.2.5:8080");
        echo_server("[fd00:20::5]:8080");
    });
    pod.run(|| {
        ip("addr add 10.244.1.5/24 dev eth0");
        ip("addr add fd00:10::5/64 dev eth0 nodad");
        ip("link set eth0 up");
        ip("route add default via 10.244.1.254");
        ip("route add default via fd00:10::fe");
        echo_server("10.244.1.5:8080");
        echo_server("[fd00:10::5]:8080");
    });
    ip("route add 10.244.2.0/24 via 192.168.50.9");
    ip("route add fd00:20::/64 via fd00:50::9");
    let mut nodes = Nodes { _lab: lab, dataplane, outside, _pod: pod };
    for address in NODE {
        let flags = NODE_ADDRESS_NODE_PORTS;
        nodes.dataplane.maps.insert_node_address(addr(address), flags).expect("insert");
    }
    nodes.dataplane.attach_uplink("up0").expect("attach the uplink");
    nodes
}

/// A server, TCP and UDP, that tells every client at which address it was reached and from where,
/// followed by what was asked.
fn echo_server(address: &str) {
    let tcp = TcpListener::bind(address).expect("listen");
    // Datagram answers must come from the address that was asked.
    let udp = UdpSocket::bind(address).expect("bind");
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            std::thread::spawn(move || {
                let (own, peer) = (stream.local_addr(), stream.peer_addr());
                let (Ok(own), Ok(peer)) = (own, peer) else { return };
                let _ = stream.write_all(format!("{own} {peer}\n").as_bytes());
                let _ = io::copy(&mut stream.try_clone().expect("clone"), &mut stream);
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let own = udp.local_addr().expect("own address");
            let text = format!("{own} {from} {length}\n");
            let _ = udp.send_to(text.as_bytes(), from);
        }
    });
}

/// What a server said: at which address it was reached, and from which.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    reached: IpAddr,
    client: SocketAddr,
}

fn parse(text: &str) -> Said {
    let mut words = text.split_whitespace();
    let mut next = || words.next().and_then(|word| word.parse::<SocketAddr>().ok());
    let (Some(own), Some(client)) = (next(), next()) else { panic!("the server said {text:?}") };
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Said { reached: plain(own).ip(), client: plain(client) }
}

/// Connects, sends `bytes` bytes and reads them back; what the server said.
fn ask_tcp(address: SocketAddr, bytes: usize) -> io::Result<Said> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut writer = stream.try_clone()?;
    let sent: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        let result = writer.write_all(&copy);
        let _ = writer.shutdown(std::net::Shutdown::Write);
        result
    });
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    writing.join().expect("join")?;
    let line = text.iter().position(|byte| *byte == b'\n').expect("a line");
    assert_eq!(text[line + 1..].len(), sent.len(), "bytes lost");
    assert!(text[line + 1..] == sent, "bytes were changed on the way");
    Ok(parse(&String::from_utf8_lossy(&text[..line])))
}

fn ask_udp(address: SocketAddr, bytes: usize) -> io::Result<Said> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [0; 200];
    socket.send(&vec![b'x'; bytes])?;
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(text.ends_with(&format!(" {bytes}\n")), "length: {text}");
    Ok(parse(&text))
}

fn socket_address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("a literal address"), port)
}

fn counted(nodes: &Nodes, index: u32) -> u64 {
    nodes.dataplane.maps.counters().expect("counters")[index as usize].packets
}

#[test]
fn a_node_port_leads_a_client_outside_to_a_pod_on_this_node_with_the_clients_address() {
    let mut nodes = nodes();
    for (family, port) in [(0, NODE_PORT), (1, NODE_PORT + 1)] {
        let mut service = Service::new(1 + family as u32);
        let backend = socket_address(POD_HERE[family], 8080).to_string();
        let maps = &mut nodes.dataplane.maps;
        service.set(maps, &[here(&backend)]);
        service.at_node_port(maps, port, TCP);
        service.at_node_port(maps, port, UDP);
        let address = socket_address(NODE[family], port);
        for bytes in [1, 300_000] {
            let said = nodes.outside.run(move || ask_tcp(address, bytes)).expect("TCP");
            assert_eq!(said.reached.to_string(), POD_HERE[family]);
            assert_eq!(said.client.ip().to_string(), CLIENT[family], "the client's address");
        }
        let said = nodes.outside.run(move || ask_udp(address, 100)).expect("UDP");
        assert_eq!(said.reached.to_string(), POD_HERE[family]);
        assert_eq!(said.client.ip().to_string(), CLIENT[family], "the client's address");
    }
    assert_eq!(counted(&nodes, counter::FLOW_LOCAL), 6);
}

#[test]
fn a_node_port_leads_a_client_outside_to_a_pod_on_another_node_and_back() {
    let mut nodes = nodes();
    for (family, port) in [(0, NODE_PORT), (1, NODE_PORT + 1)] {
        let mut service = Service::new(1 + family as u32);
        let backend = socket_address(POD_ELSEWHERE[family], 8080).to_string();
        let maps = &mut nodes.dataplane.maps;
        service.set(maps, &[elsewhere(&backend)]);
        service.at_node_port(maps, port, TCP);
        service.at_node_port(maps, port, UDP);
        let address = socket_address(NODE[family], port);
        for bytes in [1, 300_000] {
            let said = nodes.outside.run(move || ask_tcp(address, bytes)).expect("TCP");
            assert_eq!(said.reached.to_string(), POD_ELSEWHERE[family]);
            assert_eq!(said.client.ip().to_string(), NODE[family], "this node's address");
            assert!((SNAT_FIRST_PORT..).contains(&said.client.port()), "{said:?}");
        }
        let said = nodes.outside.run(move || ask_udp(address, 100)).expect("UDP");
        assert_eq!(said.client.ip().to_string(), NODE[family], "this node's address");
    }
    assert_eq!(counted(&nodes, counter::FLOW_REMOTE), 6);
    assert_eq!(counted(&nodes, counter::DROP_REWRITE_FAILED), 0);
}

#[test]
fn many_connections_from_one_client_are_spread_and_none_fails() {
    let mut nodes = nodes();
    let mut service = Service::new(1);
    let backends = [
        here(&socket_address(POD_HERE[0], 8080).to_string()),
        elsewhere(&socket_address(POD_ELSEWHERE[0], 8080).to_string()),
    ];
    service.set(&mut nodes.dataplane.maps, &backends);
    service.at_node_port(&mut nodes.dataplane.maps, NODE_PORT, TCP);
    let address = socket_address(NODE[0], NODE_PORT);
    let local = nodes.outside.run(move || {
        let answers = (0..300).map(|_| ask_tcp(address, 10).expect("TCP"));
        answers.filter(|said| said.reached.to_string() == POD_HERE[0]).count()
    });
    assert!((100..=200).contains(&local), "{local} of 300 went to one of two backends");
}

#[test]
fn a_node_port_without_endpoints_is_refused_by_a_reset_and_by_icmp() {
    let mut nodes = nodes();
    let mut service = Service::new(1);
    service.set(&mut nodes.dataplane.maps, &[]);
    for protocol in [TCP, UDP] {
        service.at_node_port(&mut nodes.dataplane.maps, NODE_PORT, protocol);
    }
    for node in NODE {
        let address = socket_address(node, NODE_PORT);
        let error = nodes.outside.run(move || ask_tcp(address, 1)).expect_err("TCP");
        assert_eq!(error.raw_os_error(), Some(111), "TCP to {node}: {error}");
        let error = nodes.outside.run(move || ask_udp(address, 1)).expect_err("UDP");
        assert_eq!(error.raw_os_error(), Some(111), "UDP to {node}: {error}");
    }
    assert_eq!(counted(&nodes, counter::ANSWERED_RESET), 2);
    assert_eq!(counted(&nodes, counter::ANSWERED_UNREACHABLE), 2);
}

#[test]
fn a_datagram_in_fragments_reaches_one_backend_whole() {
    let mut nodes = nodes();
    for (family, backend) in [(0, POD_HERE), (0, POD_ELSEWHERE), (1, POD_HERE), (1, POD_ELSEWHERE)]
    {
        let id = 1 + family as u32 * 2 + u32::from(backend == POD_HERE);
        let port = NODE_PORT + id as u16;
        let mut service = Service::new(id);
        let to = socket_address(backend[family], 8080).to_string();
        let to = if backend == POD_HERE { here(&to) } else { elsewhere(&to) };
        service.set(&mut nodes.dataplane.maps, &[to]);
        service.at_node_port(&mut nodes.dataplane.maps, port, UDP);
        let address = socket_address(NODE[family], port);
        let said = nodes.outside.run(move || ask_udp(address, 4000));
        let said = said.unwrap_or_else(|error| panic!("{address} to {}: {error}", backend[family]));
        assert_eq!(said.reached.to_string(), backend[family]);
    }
}

#[test]
fn external_traffic_policy_local_keeps_to_this_node_or_drops() {
    let mut nodes = nodes();
    let mut service = Service::new(1);
    service.flags = DESCRIPTOR_EXTERNAL_LOCAL;
    let there = elsewhere(&socket_address(POD_ELSEWHERE[0], 8080).to_string());
    let both = [here(&socket_address(POD_HERE[0], 8080).to_string()), there];
    service.set(&mut nodes.dataplane.maps, &both);
    service.at_node_port(&mut nodes.dataplane.maps, NODE_PORT, TCP);
    let address = socket_address(NODE[0], NODE_PORT);
    for _ in 0..20 {
        let said = nodes.outside.run(move || ask_tcp(address, 1)).expect("TCP");
        assert_eq!(said.reached.to_string(), POD_HERE[0]);
    }
    service.set(&mut nodes.dataplane.maps, &[]);
    service.elsewhere = 1;
    service.set(&mut nodes.dataplane.maps, &[]);
    let waited = nodes.outside.run(move || {
        TcpStream::connect_timeout(&address, Duration::from_millis(300)).expect_err("dropped")
    });
    assert_eq!(waited.kind(), io::ErrorKind::TimedOut, "{waited}");
    assert!(counted(&nodes, counter::DROP_LOCAL_POLICY) >= 1);
}

#[test]
fn source_ranges_guard_a_load_balancer_address() {
    let mut nodes = nodes();
    nodes.outside.run(|| ip("route add 203.0.113.0/24 via 192.168.50.1"));
    let mut service = Service::new(1);
    service.flags = DESCRIPTOR_SOURCE_RANGES;
    let maps = &mut nodes.dataplane.maps;
    service.set(maps, &[here(&socket_address(POD_HERE[0], 8080).to_string())]);
    maps.insert_vip(addr("203.0.113.7"), VIP_EXTERNAL).expect("insert a VIP");
    service.frontend(maps, addr("203.0.113.7"), 80, TCP, KIND_LOAD_BALANCER);
    let address = socket_address("203.0.113.7", 80);
    let refused = nodes.outside.run(move || {
        TcpStream::connect_timeout(&address, Duration::from_millis(300)).expect_err("dropped")
    });
    assert_eq!(refused.kind(), io::ErrorKind::TimedOut, "{refused}");
    let range = SourceRangeKey::new(1, addr("192.168.50.8"), 30);
    nodes.dataplane.maps.insert_source_range(&range).expect("insert a range");
    let said = nodes.outside.run(move || ask_tcp(address, 1)).expect("an allowed client");
    assert_eq!(said.reached.to_string(), POD_HERE[0]);
}

#[test]
fn a_connection_outlives_its_service_and_the_agent() {
    let mut nodes = nodes();
    let mut service = Service::new(1);
    let there = elsewhere(&socket_address(POD_ELSEWHERE[0], 8080).to_string());
    service.set(&mut nodes.dataplane.maps, &[there]);
    service.at_node_port(&mut nodes.dataplane.maps, NODE_PORT, TCP);
    let address = socket_address(NODE[0], NODE_PORT);
    let mut stream = nodes.outside.run(move || TcpStream::connect(address)).expect("connect");
    let mut line = [0; 1];
    while line[0] != b'\n' {
        stream.read_exact(&mut line).expect("read what the server says");
    }
    service.set(&mut nodes.dataplane.maps, &[]);
    let lab = nodes._lab;
    drop(nodes.dataplane);
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set a time-out");
    for _ in 0..3 {
        stream.write_all(b"?").expect("write");
        stream.read_exact(&mut line).expect("an answer without an agent");
    }
    let again = lab.start();
    let kind = again.attach_uplink("up0").expect("replace the programs");
    assert!(kind == UplinkKind::Tcx || kind == UplinkKind::Clsact);
    stream.write_all(b"?").expect("write");
    stream.read_exact(&mut line).expect("an answer after the restart");
}
