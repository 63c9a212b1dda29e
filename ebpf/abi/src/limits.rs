//! The named capacity of every map, sized from the Kubernetes limits (10,000 services, 250
//! endpoints each, 150,000 pods) with room for double buffering, and from memory: arrays and LRU
//! maps are paid for in full when they are made, hashes as they fill.

/// Service addresses.
pub const MAX_VIPS: u32 = 65_536;
/// Addresses of this node.
pub const MAX_NODE_ADDRESSES: u32 = 1_024;
/// (address, port, protocol) rows.
pub const MAX_FRONTENDS: u32 = 65_536;
/// Service ports; ids are below this. Id 0 is never used.
pub const MAX_SERVICES: u32 = 32_768;
/// Descriptors: each service port has one, and a second one while it changes.
pub const MAX_DESCRIPTORS: u32 = 65_536;
/// Slots: every backend has one per range that it is in, twice while its service changes.
pub const MAX_SLOTS: u32 = 262_144;
/// Backends: an address and port of one service port. Index 0 is never used.
pub const MAX_BACKENDS: u32 = 131_072;
/// Backends that one slot range can name: it keeps one service from taking all slots.
pub const MAX_SLOTS_PER_RANGE: u32 = 16_384;
/// Clients with session affinity; the least recently used one goes first.
pub const MAX_AFFINITIES: u32 = 32_768;
/// Sockets that are connected to services (paid for in full, too); more remember in storage of their
/// own.
pub const MAX_CONNECTED: u32 = 16_384;
/// Rows of flows that have seen no reply (two rows each); the least recently used one goes first.
pub const MAX_NEW_FLOWS: u32 = 32_768;
/// Rows of established flows (two rows each); full means refused and counted, never evicted.
pub const MAX_FLOWS: u32 = 262_144;
/// Datagrams in fragments at a time.
pub const MAX_FRAGMENTS: u32 = 4_096;
/// Pods on this node.
pub const MAX_LOCAL_PODS: u32 = 4_096;
/// Source ranges of all load balancer services together.
pub const MAX_SOURCE_RANGES: u32 = 16_384;
/// Bytes of the ring buffer of events; full means that an event is lost (the counters are not).
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// The first port that source translation uses: just above Linux's default ephemeral range and
/// the node ports, so that it clashes with neither.
pub const SNAT_FIRST_PORT: u16 = 61_000;
/// The last port that source translation uses.
pub const SNAT_LAST_PORT: u16 = 65_535;

/// How long one unconnected UDP socket's datagrams to a service stay on one backend, nanoseconds.
pub const UDP_STICKY_NS: u64 = 60_000_000_000;

const _: () = assert!(MAX_DESCRIPTORS >= 2 * MAX_SERVICES);
const _: () = assert!(MAX_SLOTS >= 2 * MAX_BACKENDS);
const _: () = assert!(MAX_SLOTS_PER_RANGE < MAX_SLOTS);
const _: () = assert!(SNAT_FIRST_PORT > 60_999, "Linux's default ephemeral range ends there");
