//! The dataplane's maps as the reconciler sees them: typed operations, without any BPF.
//!
//! # The rules of the writer
//!
//! The programs read while user space writes, and nothing makes them wait. So:
//!
//! 1. What a reader can reach is not changed, except for [`Maps::flip`] and
//!    [`Maps::set_backend_state`], which are one aligned store each. New backends, slots and
//!    descriptors are written to indices that nothing names, and then [`Maps::flip`] makes all
//!    frontends of the service port switch together.
//! 2. An index, slot range or descriptor that a flip has made unreachable may be given out again
//!    only after [`Maps::grace`] has returned. A backend's index comes back with a higher
//!    `generation`, for what outlives one program run (affinity, flows, sockets).
//! 3. Rows of hash maps are inserted and deleted, never updated. A deleted row's memory may be taken
//!    by the next insert at once, so the real implementation waits for a grace period of its own
//!    between the last delete and the next insert: batch deletes, and do them last.

mod bpf;
mod fake;
mod usage;

use std::io;

pub use bowline_abi as abi;
pub use bpf::{BpfMaps, OpenError};
pub use fake::FakeMaps;
pub use usage::Usage;

use bowline_abi::{
    Address, Backend, Descriptor, Frontend, FrontendKey, LocalPod, Settings, SourceRangeKey,
};

/// A service-port id: an index into SERVICES. 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// An index into DESCRIPTORS. 0 means "no service".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DescriptorIndex(pub u32);

/// An index into BACKENDS. 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendIndex(pub u32);

/// An index into SLOTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotIndex(pub u32);

/// Why an operation on a map failed. All are worth a retry but `OutOfRange`.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The index or range lies outside of the map.
    #[error("{map}: index {index} is outside of its {capacity} entries")]
    OutOfRange {
        /// The map's name.
        map: &'static str,
        /// The first index that does not fit.
        index: u64,
        /// The map's capacity.
        capacity: u32,
    },
    /// The map holds as many entries as it can.
    #[error("{map}: full, all {capacity} entries are in use")]
    Full {
        /// The map's name.
        map: &'static str,
        /// The map's capacity.
        capacity: u32,
    },
    /// The key has a row with another value; rows are never updated.
    #[error("{map}: the row exists with another value; delete it first")]
    Exists {
        /// The map's name.
        map: &'static str,
    },
    /// A system call failed.
    #[error("{map}: {operation}")]
    Kernel {
        /// The map's name.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// The typed operations on the maps. All are idempotent: doing one again changes nothing, and
/// deleting what is not there succeeds.
pub trait Maps: Send + 'static {
    /// Writes a backend that no live slot names.
    fn write_backend(&mut self, index: BackendIndex, backend: &Backend) -> Result<(), MapError>;

    /// Changes the state of a backend in use, atomically (a `BACKEND_` state).
    fn set_backend_state(&mut self, index: BackendIndex, state: u32) -> Result<(), MapError>;

    /// Writes consecutive slots that no live descriptor names, from `first` on.
    fn write_slots(&mut self, first: SlotIndex, backends: &[BackendIndex]) -> Result<(), MapError>;

    /// Writes a descriptor that no service names. Index 0 is refused.
    fn write_descriptor(
        &mut self,
        index: DescriptorIndex,
        descriptor: &Descriptor,
    ) -> Result<(), MapError>;

    /// Makes `descriptor` the service port's own, in one store that is ordered after all writes
    /// before it. `DescriptorIndex(0)` ends the service port: its frontends are as if absent.
    fn flip(&mut self, service: ServiceId, descriptor: DescriptorIndex) -> Result<(), MapError>;

    /// Inserts a frontend; an equal row is success, a different one [`MapError::Exists`].
    fn insert_frontend(&mut self, key: &FrontendKey, row: &Frontend) -> Result<(), MapError>;

    /// Deletes a frontend.
    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError>;

    /// Inserts a service address with its `VIP_` flags, or changes the flags.
    fn insert_vip(&mut self, address: Address, flags: u32) -> Result<(), MapError>;

    /// Deletes a service address.
    fn delete_vip(&mut self, address: Address) -> Result<(), MapError>;

    /// Inserts an address of this node with its `NODE_ADDRESS_` flags, or changes the flags.
    fn insert_node_address(&mut self, address: Address, flags: u32) -> Result<(), MapError>;

    /// Deletes an address of this node.
    fn delete_node_address(&mut self, address: Address) -> Result<(), MapError>;

    /// Opens the load balancer frontends of a service port to a range.
    fn insert_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError>;

    /// Closes them again.
    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError>;

    /// Inserts or replaces a pod of this node.
    fn insert_local_pod(&mut self, address: Address, pod: &LocalPod) -> Result<(), MapError>;

    /// Deletes a pod of this node.
    fn delete_local_pod(&mut self, address: Address) -> Result<(), MapError>;

    /// Replaces the node's settings.
    fn write_settings(&mut self, settings: &Settings) -> Result<(), MapError>;

    /// Returns when every program run that began before the call has ended. Blocks (about 15 ms):
    /// batch what waits for it.
    fn grace(&mut self) -> Result<(), MapError>;

    /// Everything that user space has written, for restoring ids at start and for the CLI. Not a
    /// snapshot: rows written during the call may or may not be in it.
    fn dump(&self) -> Result<Dump, MapError>;

    /// Deletes flows that have been idle for too long, at most a bounded number in one call;
    /// returns how many rows went. To be called every few seconds.
    fn sweep_flows(&mut self) -> Result<usize, MapError>;

    /// Entries, capacity and bytes of each map.
    fn usage(&self) -> Result<Vec<Usage>, MapError>;

    /// The programs' counters, summed over CPUs, in the order of `COUNTER_NAMES`.
    fn counters(&self) -> Result<Vec<abi::Counter>, MapError>;
}

/// What is in the maps. Rows of unused indices (descriptor 0, backends with service 0) are left out.
/// All lists are sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// VIPS.
    pub vips: Vec<(Address, u32)>,
    /// NODE_ADDRESSES.
    pub node_addresses: Vec<(Address, u32)>,
    /// FRONTENDS.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// SERVICES with the descriptor that each names now.
    pub services: Vec<(ServiceId, DescriptorIndex, Descriptor)>,
    /// SLOTS of the live descriptors' ranges.
    pub slots: Vec<(SlotIndex, BackendIndex)>,
    /// BACKENDS that were ever written and belong to a service port; those that no live slot
    /// names are there too (their generation must not be given out again).
    pub backends: Vec<(BackendIndex, Backend)>,
    /// SOURCE_RANGES.
    pub source_ranges: Vec<SourceRangeKey>,
    /// LOCAL_PODS.
    pub local_pods: Vec<(Address, LocalPod)>,
    /// SETTINGS.
    pub settings: Settings,
}
