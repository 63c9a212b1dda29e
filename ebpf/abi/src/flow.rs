//! What the packet path remembers: NEW_FLOWS and FLOWS, FRAGMENTS, LOCAL_PODS.

use crate::Address;

/// NEW_FLOWS and FLOWS, key: a packet's own five-tuple, before translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The packet's source.
    pub source: Address,
    /// The packet's destination.
    pub destination: Address,
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Flow flag: this row is the reply direction's.
pub const FLOW_REPLY_ROW: u32 = 1;
/// Flow flag: the source is translated too, so a reply comes to this node's own address.
pub const FLOW_SNAT: u32 = 1 << 1;
/// Flow flag: a FIN or RST was seen in this row's direction.
pub const FLOW_CLOSING: u32 = 1 << 2;

/// NEW_FLOWS and FLOWS, value. A flow has two rows, one for each direction, each whole in itself:
/// it says what to turn a packet with this key into, and (reversed) that is the other row's key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The source after translation.
    pub source: Address,
    /// The destination after translation.
    pub destination: Address,
    /// Network byte order, after translation.
    pub source_port: u16,
    /// Network byte order, after translation.
    pub destination_port: u16,
    /// `FLOW_` flags.
    pub flags: u32,
    /// The service-port id.
    pub service: u32,
    /// Index into BACKENDS.
    pub backend: u32,
    /// The backend's generation when it was chosen.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
    /// Monotonic nanoseconds of the first packet.
    pub created: u64,
    /// Monotonic nanoseconds of the last packet in this row's direction.
    pub last_seen: u64,
    /// Packets in this row's direction.
    pub packets: u64,
}

impl Flow {
    /// The key of the other direction's row.
    #[inline(always)]
    pub const fn other_key(&self, protocol: u8) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol,
            pad: [0; 3],
        }
    }
}

/// FRAGMENTS, key: what all fragments of one datagram share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// The packet's source.
    pub source: Address,
    /// The packet's destination.
    pub destination: Address,
    /// The IP identification as on the wire.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// FRAGMENTS, value: the ports that only the first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// Zero.
    pub pad: u32,
    /// Monotonic nanoseconds of the first fragment.
    pub seen: u64,
}

/// LOCAL_PODS, value: how to reach a pod of this node without the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The host-side interface.
    pub ifindex: u32,
    /// The policy version that this pod's traffic is held to; 0: none yet.
    pub policy_version: u32,
    /// The pod's own link address.
    pub mac: [u8; 6],
    /// The host-side interface's link address.
    pub host_mac: [u8; 6],
    /// Zero.
    pub pad: u32,
}
