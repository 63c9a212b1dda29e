//! The maps. Types, sizes and flags are those of `proxy::loader::layout`, which compares them.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use bowline_abi::*;

/// The part of a source range's key that the trie matches.
#[repr(C)]
pub struct SourceRange {
    pub service: u32,
    pub address: Address,
}

#[map]
pub static VIPS: HashMap<Address, u32> = HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);
#[map]
pub static NODE_ADDRESSES: HashMap<Address, u32> =
    HashMap::with_max_entries(MAX_NODE_ADDRESSES, BPF_F_NO_PREALLOC);
#[map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(MAX_FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICES: Array<u32> = Array::with_max_entries(MAX_SERVICES, BPF_F_MMAPABLE);
#[map]
pub static DESCRIPTORS: Array<Descriptor> =
    Array::with_max_entries(MAX_DESCRIPTORS, BPF_F_MMAPABLE);
#[map]
pub static SLOTS: Array<u32> = Array::with_max_entries(MAX_SLOTS, BPF_F_MMAPABLE);
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_BACKENDS, BPF_F_MMAPABLE);
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static SOURCE_RANGES: LpmTrie<SourceRange, u32> =
    LpmTrie::with_max_entries(MAX_SOURCE_RANGES, 0);
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(MAX_AFFINITIES, 0);
// Preallocated: storage of a socket's own costs two allocations and their release, a fortieth of a
// short connection.
#[map]
pub static CONNECTED: HashMap<u64, Socket> = HashMap::with_max_entries(MAX_CONNECTED, 0);
#[btf_map]
pub static SOCKETS: SkStorage<Socket> = SkStorage::new();
#[btf_map]
pub static DATAGRAMS: SkStorage<Datagrams> = SkStorage::new();
#[map]
pub static NEW_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(MAX_NEW_FLOWS, 0);
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
#[map]
pub static LOCAL_PODS: HashMap<Address, LocalPod> =
    HashMap::with_max_entries(MAX_LOCAL_PODS, BPF_F_NO_PREALLOC);
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
