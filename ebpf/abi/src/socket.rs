//! What the socket hooks remember: CONNECTED, SOCKETS, DATAGRAMS, AFFINITY.

use crate::Address;

/// What a connected socket was translated to: the value of CONNECTED, by the socket's cookie, which
/// the socket's release takes away; and of SOCKETS (socket storage), where CONNECTED is full.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Socket {
    /// The service address that the program asked for; shown by getpeername.
    pub service_address: Address,
    /// The backend's address, to know the socket's own traffic from other.
    pub backend_address: Address,
    /// Network byte order.
    pub service_port: u16,
    /// Network byte order.
    pub backend_port: u16,
    /// The service-port id.
    pub service: u32,
    /// Index into BACKENDS.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
}

/// How many (service, backend) pairs one unconnected UDP socket remembers; the oldest goes first.
pub const RECENT_DATAGRAMS: usize = 4;

/// One remembered pair of an unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SentDatagram {
    /// The service address that was sent to; an answer's source is shown as this.
    pub service_address: Address,
    /// The backend's address.
    pub backend_address: Address,
    /// Network byte order.
    pub service_port: u16,
    /// Network byte order.
    pub backend_port: u16,
    /// The service-port id; 0: this entry is empty.
    pub service: u32,
    /// Index into BACKENDS.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Monotonic nanoseconds of the last datagram sent.
    pub last_used: u64,
}

/// DATAGRAMS, value (socket storage): the last pairs of an unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Datagrams {
    /// In no order.
    pub recent: [SentDatagram; RECENT_DATAGRAMS],
}

/// AFFINITY key flag: `client` is an address (seen on the packet path).
pub const CLIENT_ADDRESS: u32 = 0;
/// AFFINITY key flag: `client`'s first two words are a network namespace's cookie: on the socket
/// path the source address is not yet known, and a pod is one namespace.
pub const CLIENT_NETNS: u32 = 1;

/// AFFINITY, key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Who.
    pub client: Address,
    /// The service-port id: affinity is per service *port*.
    pub service: u32,
    /// [`CLIENT_ADDRESS`] or [`CLIENT_NETNS`].
    pub client_kind: u32,
}

/// AFFINITY, value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Index into BACKENDS.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Monotonic nanoseconds of the last use.
    pub last_used: u64,
}
