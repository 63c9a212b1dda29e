//! The layout of every pinned map, shared by the kernel programs and by user space.
//!
//! Every type is `#[repr(C)]`, all padding is explicit, and there is no `bool`, `enum` or `Option`:
//! a value is what its bytes say, whoever wrote them. Sizes are asserted at compile time. A change
//! of any layout, map type or flag raises [`VERSION`], and with it the directory of the pins.
//!
//! Integers are in host byte order, except where a field's doc says "network byte order".
#![no_std]

mod address;
mod event;
mod flow;
mod limits;
mod service;
mod socket;

pub use address::Address;
pub use event::{
    COUNTER_COUNT, COUNTER_NAMES, Counter, DIRECTION_EGRESS, DIRECTION_INGRESS, DIRECTION_SOCKET,
    Event, counter,
};
pub use flow::{
    FLOW_CLOSING, FLOW_REPLY_ROW, FLOW_SNAT, Flow, FlowKey, Fragment, FragmentKey, LocalPod,
};
pub use limits::*;
pub use service::{
    ALGORITHM_RANDOM, BACKEND_FREE, BACKEND_LOCAL, BACKEND_READY, BACKEND_TERMINATING, Backend,
    DESCRIPTOR_AFFINITY, DESCRIPTOR_EXTERNAL_LOCAL, DESCRIPTOR_INTERNAL_LOCAL,
    DESCRIPTOR_SOURCE_RANGES, Descriptor, Frontend, FrontendKey, KIND_CLUSTER_IP, KIND_EXTERNAL_IP,
    KIND_LOAD_BALANCER, KIND_NODE_PORT, NO_DESCRIPTOR, NODE_ADDRESS_LOOPBACK,
    NODE_ADDRESS_NODE_PORTS, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Settings, SourceRangeKey,
    VIP_CLUSTER_IP, VIP_EXTERNAL,
};
pub use socket::{
    Affinity, AffinityKey, CLIENT_ADDRESS, CLIENT_NETNS, Datagrams, RECENT_DATAGRAMS, SentDatagram,
    Socket,
};

/// The version of the map layout. Names the directory of the pins below the BPF root.
pub const VERSION: u32 = 1;

/// A type whose every byte is initialised and whose every bit pattern is valid, so that it may be
/// copied to and from a BPF map as bytes.
///
/// # Safety
///
/// The implementer is `#[repr(C)]` (or an integer), has no implicit padding, no pointers and no
/// field type with invalid bit patterns.
#[expect(unsafe_code, reason = "the promise that a type is plain bytes can't be checked")]
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty = $size:expr),+ $(,)?) => {$(
        // SAFETY: repr(C) with explicit padding (the size below is the sum of the fields).
        #[expect(unsafe_code, reason = "the promise that a type is plain bytes can't be checked")]
        unsafe impl Plain for $type {}
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
    )+};
}

plain! {
    u32 = 4,
    u64 = 8,
    Address = 16,
    FrontendKey = 20,
    Frontend = 8,
    Descriptor = 40,
    Backend = 32,
    Settings = 48,
    SourceRangeKey = 24,
    AffinityKey = 24,
    Affinity = 16,
    Socket = 48,
    SentDatagram = 56,
    Datagrams = 56 * RECENT_DATAGRAMS,
    FlowKey = 40,
    Flow = 80,
    FragmentKey = 40,
    Fragment = 16,
    LocalPod = 24,
    Counter = 16,
    Event = 64,
}
