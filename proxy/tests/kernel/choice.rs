//! The kernel programs against the specification of the choice: random Services and endpoints go
//! through the writer and the reconciler into the real maps, one life of updates, and what sockets
//! inside and packets from outside meet must be what `select::verdict` says, exactly.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use bowline_proxy::loader::sys;
use bowline_proxy::maps::Maps;
use bowline_proxy::maps::abi::{NODE_ADDRESS_NODE_PORTS, Settings};
use bowline_proxy::model::{
    Condition, Family, NodeView, ObjectName, PortConfig, Protocol, ServiceConfig, Slice,
    SliceEndpoint, SlicePort, TrafficPolicy,
};
use bowline_proxy::reconciler::{NodeRows, Reconciler};
use bowline_proxy::select::{self, Client, Destination, Endpoint, Policies, Verdict};
use bowline_proxy::writer::{Source, Update, Writer};

use crate::lab::ip;
use crate::packets::{CLIENT, DROP, NODE, Node, Packet, node};
use crate::services::addr;

/// Lives of the service.
const CASES: u64 = 60;
/// Connects or datagrams for each question: of 6 endpoints, one is never chosen in 3e-10 of cases.
const DRAWS: u16 = 120;
const CLUSTER_IP: &str = "10.96.0.10";
const NODE_PORT: u16 = 30080;
const TARGET_PORT: u16 = 8080;

/// A small generator with a known seed (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn endpoint(random: &mut Random, number: u8) -> SliceEndpoint {
    let condition =
        random.one_of(&[Condition::Ready, Condition::ServingTerminating, Condition::NotReady]);
    let node = random.one_of(&[Some("here"), Some("there"), None]);
    let network = if node == Some("here") { 1 } else { 2 };
    // Mostly hinted, so that hints often count.
    let hints = [names(&["here"]), names(&["there"]), names(&["here", "there"]), Vec::new()];
    SliceEndpoint {
        address: Ipv4Addr::new(10, 244, network, number).into(),
        condition,
        node: node.map(Arc::from),
        node_hints: random.one_of(&hints),
        zone_hints: random.one_of(&hints),
    }
}

/// A life: the service's policies and its endpoints.
struct Case {
    config: ServiceConfig,
    slice: Slice,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let endpoints = random.below(7) as u8;
        let policies = [TrafficPolicy::Cluster, TrafficPolicy::Local];
        let port =
            PortConfig { name: "".into(), protocol: Protocol::Udp, port: 80, node_port: NODE_PORT };
        let config = ServiceConfig {
            cluster_ips: vec![CLUSTER_IP.parse().expect("literal")],
            ports: vec![port],
            internal_policy: random.one_of(&policies),
            external_policy: random.one_of(&policies),
            ..ServiceConfig::default()
        };
        let slice_port = SlicePort { name: "".into(), protocol: Protocol::Udp, port: TARGET_PORT };
        let slice = Slice {
            service: service_name(),
            family: Family::V4,
            ports: vec![slice_port],
            endpoints: (1..=endpoints).map(|n| endpoint(&mut random, n)).collect(),
        };
        Self { config, slice }
    }

    fn updates(&self) -> [Update; 2] {
        let slice = ObjectName::new("default", "web-1");
        [
            Update::Service(service_name(), self.config.clone()),
            Update::Slice(slice, self.slice.clone()),
        ]
    }

    /// What the specification says.
    fn specified(&self, destination: Destination, client: Client) -> Met {
        let of = |e: &SliceEndpoint| Endpoint {
            address: SocketAddr::new(e.address, TARGET_PORT),
            condition: e.condition,
            node: e.node.clone(),
            node_hints: e.node_hints.clone(),
            zone_hints: e.zone_hints.clone(),
        };
        let endpoints: Vec<_> = self.slice.endpoints.iter().map(of).collect();
        let reachable = select::reachable(&endpoints, &here());
        let policies = Policies {
            internal: self.config.internal_policy,
            external: self.config.external_policy,
        };
        match select::verdict(&reachable, policies, destination, client) {
            Verdict::Forward(to) => {
                Met::Backends(to.iter().map(|i| endpoints[*i].address).collect())
            }
            Verdict::Refuse => Met::Refused,
            Verdict::Drop => Met::Dropped,
        }
    }
}

fn service_name() -> ObjectName {
    ObjectName::new("default", "web")
}

fn here() -> NodeView {
    let address = NODE[0].parse().expect("literal");
    NodeView { name: "here".into(), zone: Some("here".into()), addresses: vec![address] }
}

/// What clients meet.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    /// These, and each of them.
    Backends(BTreeSet<SocketAddr>),
    Refused,
    /// Dropped; or, on the socket path, left alone.
    Dropped,
}

/// What sockets of this node are led to.
fn sockets_meet(address: &str, port: u16) -> Met {
    let service: SocketAddr = SocketAddr::new(address.parse().expect("literal"), port);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    let connect = || socket.connect(service).and_then(|()| socket.peer_addr());
    let all: io::Result<BTreeSet<_>> = (0..DRAWS).map(|_| connect()).collect();
    match all {
        Ok(peers) if peers.contains(&service) => Met::Dropped,
        Ok(peers) => Met::Backends(peers),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(111), "{error}");
            Met::Refused
        }
    }
}

/// What clients outside are led to; every datagram comes from another port.
fn packets_meet(node: &Node, address: &str, port: u16, next: &mut u16) -> Met {
    let mut backends = BTreeSet::new();
    for _ in 0..DRAWS {
        *next += 1;
        let ask = Packet::udp((CLIENT[0], *next), (address, port), b"?");
        let (verdict, led) = node.comes_in(&ask);
        if verdict == DROP {
            return Met::Dropped;
        }
        if led.destination == ask.source {
            return Met::Refused;
        }
        backends.insert(SocketAddr::new(led.destination, led.ports().1));
    }
    Met::Backends(backends)
}

#[test]
fn sockets_and_packets_meet_what_the_specification_says() {
    let mut node = node();
    ip("route add local 10.96.0.0/16 dev lo");
    let pin = node.lab.config.pins().join("links/getpeername4");
    sys::detach_link(sys::open_pin(&pin).expect("a link").as_fd()).expect("detach");
    let mut writer = Writer::default();
    writer.apply([Update::Node(here())]);
    let mut reconciler = Reconciler::default();
    reconciler.set_node(NodeRows {
        addresses: [(addr(NODE[0]), NODE_ADDRESS_NODE_PORTS)].into(),
        settings: Settings { node_v4: addr(NODE[0]), ..Settings::default() },
    });
    let mut port = 1024;
    let mut seen = [0; 3];
    for seed in 1..=CASES {
        let case = Case::new(seed);
        writer.apply(case.updates());
        writer.apply([Source::Services, Source::Slices, Source::Node].map(Update::Synced));
        let maps: &mut dyn Maps = &mut node.dataplane.maps;
        let round = reconciler.reconcile(writer.table_mut(), maps, Instant::now());
        assert_eq!(round.failed, 0, "seed {seed}");
        reconciler.settle(maps).expect("settle");

        let mut check = |destination, client, met: Met| {
            let specified = case.specified(destination, client);
            let what = format!("seed {seed}, {client:?} to {destination:?}: {:?}", case.slice);
            assert_eq!(met, specified, "{what}");
            seen[match met {
                Met::Backends(_) => 0,
                Met::Refused => 1,
                Met::Dropped => 2,
            }] += 1;
        };
        let (cluster, external) = (Destination::ClusterIp, Destination::External);
        check(cluster, Client::Inside, sockets_meet(CLUSTER_IP, 80));
        check(external, Client::Inside, sockets_meet(NODE[0], NODE_PORT));
        check(cluster, Client::Outside, packets_meet(&node, CLUSTER_IP, 80, &mut port));
        check(external, Client::Outside, packets_meet(&node, NODE[0], NODE_PORT, &mut port));
    }
    assert!(seen.iter().all(|n| *n >= 5), "the cases were of all kinds: {seen:?}");
}
