//! The words of the proxy: what a Service and its endpoints are, once the API's JSON is behind.
//!
//! Plain data without behaviour of its own; every field is validated by the reflector's conversion.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a service port. The API's default is TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From the API's name; nothing for a protocol that no Service can have.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The protocol number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A Service of two families is two services to the kernel: a backend is always of its client's
/// family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a service-port id in the kernel stands for: `namespace/name:port/protocol`, per family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortName {
    pub service: ObjectName,
    /// The port's name, empty for an only port without one.
    pub port: Arc<str>,
    pub protocol: Protocol,
    pub family: Family,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.service, self.port, self.protocol)?;
        if self.family == Family::V6 { f.write_str("/v6") } else { Ok(()) }
    }
}

/// Which endpoints a traffic policy leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// A Service as the proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceConfig {
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// Addresses from the load balancer's status whose `ipMode` is VIP: those with Proxy are the
    /// balancer's own and must be reached over the wire.
    pub load_balancer_ips: Vec<IpAddr>,
    pub ports: Vec<PortConfig>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// Session affinity by client address: how many seconds it lasts, 0 for none.
    pub affinity_seconds: u32,
    /// Who may use the load balancer's addresses; empty for all.
    pub source_ranges: Vec<IpNetwork>,
    /// Port of the health check for load balancers, 0 for none.
    pub health_check_node_port: u16,
    /// Seconds since 1970; where two Services want one address, the older has it.
    pub created: i64,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// 0 for none.
    pub node_port: u16,
}

/// An EndpointSlice as the proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The Service that the slice's label names.
    pub service: ObjectName,
    pub family: Family,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port that all endpoints of a slice share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub address: IpAddr,
    pub condition: Condition,
    pub node: Option<Arc<str>>,
    pub node_hints: Vec<Arc<str>>,
    pub zone_hints: Vec<Arc<str>>,
}

/// The conditions of an endpoint, which together allow no other state that a proxy would treat
/// differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// Takes new connections.
    Ready,
    /// Still answers while it goes away: the fallback where no endpoint is ready.
    ServingTerminating,
    /// Answers nothing new; established connections may go on.
    NotReady,
}

impl Condition {
    /// From an EndpointSlice's conditions, absent ones as its API says: `ready` counts as true,
    /// `serving` as `ready`, `terminating` as false.
    pub fn from_api(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        if ready {
            Self::Ready
        } else if serving.unwrap_or(ready) && terminating.unwrap_or(false) {
            Self::ServingTerminating
        } else {
            Self::NotReady
        }
    }
}

/// Who and where this node is: what topology-aware choices and node ports depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeView {
    pub name: Arc<str>,
    pub zone: Option<Arc<str>>,
    /// The addresses that node ports listen on.
    pub addresses: Vec<IpAddr>,
}
