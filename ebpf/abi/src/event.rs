//! What the programs tell: COUNTERS and EVENTS.

use crate::Address;

/// COUNTERS, value (per CPU).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counter {
    /// How often; for socket hooks calls, for the packet path packets.
    pub packets: u64,
    /// Bytes of those packets; 0 for socket hooks.
    pub bytes: u64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Indices into COUNTERS.
        pub mod counter {
            #[expect(
                non_camel_case_types,
                clippy::upper_case_acronyms,
                reason = "the names become constants"
            )]
            #[repr(u32)]
            enum Index { $($name,)+ }
            $($(#[$doc])* pub const $name: u32 = Index::$name as u32;)+
        }
        /// The counters' names in metrics and in the CLI, by index.
        pub const COUNTER_NAMES: &[&str] = &[$($text),+];
        /// The number of counters.
        pub const COUNTER_COUNT: u32 = COUNTER_NAMES.len() as u32;
    };
}

counters! {
    /// A connect was led to a backend.
    CONNECT_TRANSLATED = "connect_translated",
    /// A connect was refused: the service has no endpoint.
    CONNECT_NO_ENDPOINT = "connect_no_endpoint",
    /// A connect was refused: a live service address, but not one of its ports.
    CONNECT_UNKNOWN_PORT = "connect_unknown_port",
    /// A datagram of an unconnected socket was led to a backend.
    SENDMSG_TRANSLATED = "sendmsg_translated",
    /// A datagram was refused: the service has no endpoint.
    SENDMSG_NO_ENDPOINT = "sendmsg_no_endpoint",
    /// A datagram was refused: a live service address, but not one of its ports.
    SENDMSG_UNKNOWN_PORT = "sendmsg_unknown_port",
    /// A service address was left as it is: the packet path decides (source ranges, drop).
    LEFT_TO_PACKETS = "left_to_packets",
    /// A slot, backend or descriptor that a reader was led to was not the service's own. Never
    /// seen unless the rules of the writer are broken.
    INCONSISTENT = "inconsistent",
    /// A new flow from outside was led to a backend on this node.
    FLOW_LOCAL = "flow_local",
    /// A new flow from outside was led to a backend on another node.
    FLOW_REMOTE = "flow_remote",
    /// A packet of a known flow was translated.
    FLOW_TRANSLATED = "flow_translated",
    /// A packet of a reply was translated back.
    FLOW_REPLY = "flow_reply",
    /// A flow could not be made established: FLOWS is full. It goes on as an unreplied one.
    FLOWS_FULL = "flows_full",
    /// Dropped: no port left for source translation towards this backend.
    SNAT_EXHAUSTED = "snat_exhausted",
    /// Dropped: no address to translate the source to.
    SNAT_NO_ADDRESS = "snat_no_address",
    /// Answered with a TCP reset: the service has no endpoint.
    ANSWERED_RESET = "answered_reset",
    /// Answered with ICMP port unreachable: the service has no endpoint.
    ANSWERED_UNREACHABLE = "answered_unreachable",
    /// Dropped: a local traffic policy, and endpoints on other nodes only.
    DROP_LOCAL_POLICY = "drop_local_policy",
    /// Dropped: the client is in none of the load balancer's source ranges.
    DROP_SOURCE_RANGE = "drop_source_range",
    /// Dropped: a packet to a cluster IP was about to leave the node.
    DROP_CLUSTER_IP_EGRESS = "drop_cluster_ip_egress",
    /// Dropped: a fragment whose first fragment was not seen.
    DROP_UNKNOWN_FRAGMENT = "drop_unknown_fragment",
    /// Dropped: a packet could not be rewritten or sent on.
    DROP_REWRITE_FAILED = "drop_rewrite_failed",
}

/// Event direction: a socket hook.
pub const DIRECTION_SOCKET: u8 = 0;
/// Event direction: a packet that comes in.
pub const DIRECTION_INGRESS: u8 = 1;
/// Event direction: a packet that goes out.
pub const DIRECTION_EGRESS: u8 = 2;

/// EVENTS, record of the ring buffer: a refusal or drop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Monotonic nanoseconds.
    pub time: u64,
    /// The source, zero on the socket path.
    pub source: Address,
    /// The destination that was asked for.
    pub destination: Address,
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// Index into COUNTERS: why.
    pub reason: u32,
    /// The service-port id, or 0.
    pub service: u32,
    /// The interface, 0 on the socket path.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// One of the `DIRECTION_` constants.
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 6],
}
