//! Services: VIPS, NODE_ADDRESSES, FRONTENDS, SERVICES, DESCRIPTORS, SLOTS, BACKENDS,
//! SOURCE_RANGES, SETTINGS.

use crate::Address;

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const PROTOCOL_SCTP: u8 = 132;

/// VIPS flag: a cluster IP. Unknown ports are refused; nothing sent to it may leave the node.
pub const VIP_CLUSTER_IP: u32 = 1;
/// VIPS flag: an external or load balancer IP. Unknown ports are left to the network.
pub const VIP_EXTERNAL: u32 = 1 << 1;

/// NODE_ADDRESSES flag: node ports are served on this address.
pub const NODE_ADDRESS_NODE_PORTS: u32 = 1;
/// NODE_ADDRESSES flag: a loopback address; its node ports are for sockets of the node's own
/// network namespace only.
pub const NODE_ADDRESS_LOOPBACK: u32 = 1 << 1;

/// FRONTENDS, key. Rows are inserted and deleted, never updated.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// A service address; for node ports [`Address::WILDCARD_V4`] or [`Address::WILDCARD_V6`].
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl FrontendKey {
    /// The key of a port given in host byte order.
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self { address, port: port.to_be(), protocol, pad: 0 }
    }
}

/// A frontend's kind: the service's cluster IP; `internalTrafficPolicy` applies.
pub const KIND_CLUSTER_IP: u32 = 1;
/// A frontend's kind: a node port (wildcard address); `externalTrafficPolicy` applies outside.
pub const KIND_NODE_PORT: u32 = 2;
/// A frontend's kind: one of `externalIPs`; `externalTrafficPolicy` applies outside.
pub const KIND_EXTERNAL_IP: u32 = 3;
/// A frontend's kind: a load balancer's address; `externalTrafficPolicy` applies outside, and
/// source ranges apply to every client.
pub const KIND_LOAD_BALANCER: u32 = 4;

/// FRONTENDS, value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Index into SERVICES.
    pub service: u32,
    /// One of the `KIND_` constants; it decides which slot range and checks apply.
    pub kind: u32,
}

/// SERVICES holds this for a service-port id that is not in use.
pub const NO_DESCRIPTOR: u32 = 0;

/// Descriptor flag: clients have session affinity.
pub const DESCRIPTOR_AFFINITY: u32 = 1;
/// Descriptor flag: `internalTrafficPolicy: Local`: the cluster IP uses the node-local range.
pub const DESCRIPTOR_INTERNAL_LOCAL: u32 = 1 << 1;
/// Descriptor flag: `externalTrafficPolicy: Local`: clients outside use the node-local range.
pub const DESCRIPTOR_EXTERNAL_LOCAL: u32 = 1 << 2;
/// Descriptor flag: the load balancer frontends are open to SOURCE_RANGES only.
pub const DESCRIPTOR_SOURCE_RANGES: u32 = 1 << 3;

/// Descriptor algorithm: a slot at random.
pub const ALGORITHM_RANDOM: u32 = 0;

/// DESCRIPTORS, value. Index 0 stands for "no service". Written while no SERVICES row names it,
/// then constant until a grace period after the last one stopped naming it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Descriptor {
    /// The service-port id that this describes: a check, and the key of affinity.
    pub service: u32,
    /// `DESCRIPTOR_` flags.
    pub flags: u32,
    /// First slot of the backends for traffic under no local policy. User space has already
    /// applied readiness, the terminating fallback and topology.
    pub all_first: u32,
    /// Slots in that range; 0: no endpoint.
    pub all_count: u32,
    /// First slot of the backends on this node.
    pub local_first: u32,
    /// Slots in that range; 0: no endpoint on this node.
    pub local_count: u32,
    /// One of the `ALGORITHM_` constants.
    pub algorithm: u32,
    /// Session affinity's time-out in seconds.
    pub affinity_seconds: u32,
    /// Endpoints of the service port anywhere, in any range: with a local policy and an empty local
    /// range, more than 0 means drop and 0 means refuse.
    pub endpoints: u32,
    /// Zero.
    pub pad: u32,
}

/// Backend state: not in use; no slot of a live descriptor names it.
pub const BACKEND_FREE: u32 = 0;
/// Backend state: takes new connections.
pub const BACKEND_READY: u32 = 1;
/// Backend state: serves what it has, takes new connections only through a live slot (the
/// terminating fallback); affinity does not lead to it.
pub const BACKEND_TERMINATING: u32 = 2;

/// Backend flag: on this node; a packet for it goes up through the node's own routing, unmasked.
pub const BACKEND_LOCAL: u16 = 1;

/// BACKENDS, value. Index 0 is never used. All but `state` is constant while in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Backend {
    /// Where the endpoint listens.
    pub address: Address,
    /// Network byte order.
    pub port: u16,
    /// `BACKEND_` flags.
    pub flags: u16,
    /// One of the `BACKEND_` states; changed in place by one aligned store.
    pub state: u32,
    /// The service-port id that it belongs to.
    pub service: u32,
    /// Raised each time the index is given to another backend; whatever outlives one program run
    /// keeps index and generation and treats a mismatch as a miss.
    pub generation: u32,
}

/// SOURCE_RANGES, key of the LPM trie (the kernel matches `prefix_length` bits of the rest).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceRangeKey {
    /// Bits: 32 for `service`, plus 0 to 128 of `address` (IPv4: 96 plus its own length).
    pub prefix_length: u32,
    /// The service-port id.
    pub service: u32,
    /// The range's base, v4-mapped for IPv4.
    pub address: Address,
}

impl SourceRangeKey {
    /// The key of a range of `bits` (of the family's own 32 or 128).
    pub const fn new(service: u32, address: Address, bits: u8) -> Self {
        let family = if address.is_v4() { 96 } else { 0 };
        Self { prefix_length: 32 + family + bits as u32, service, address }
    }
}

/// SETTINGS, the only row of an array: what the packet path must know of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Settings {
    /// The IPv4 address that source translation uses when the client did not address one of the
    /// node's own; zero: none.
    pub node_v4: Address,
    /// The same for IPv6.
    pub node_v6: Address,
    /// The cookie of the node's own network namespace (`SO_NETNS_COOKIE`): node ports on loopback
    /// addresses are served there and not inside pods. 0: nowhere.
    pub netns_cookie: u64,
    /// First port of source translation, host byte order; 0: the default range.
    pub snat_first: u16,
    /// Last port of source translation, host byte order.
    pub snat_last: u16,
    /// Zero.
    pub pad: u32,
}
