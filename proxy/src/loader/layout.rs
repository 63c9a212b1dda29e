//! What each pinned map must be: its type, sizes, capacity and flags.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bowline_abi::*;

use super::sys::{self, MapInfo, mapping};
use crate::maps::OpenError;

/// A kernel map type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub enum Kind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    LruHash = 9,
    LpmTrie = 11,
    SkStorage = 24,
    RingBuffer = 27,
}

impl Kind {
    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
            Self::LruHash => "lru_hash",
            Self::LpmTrie => "lpm_trie",
            Self::SkStorage => "sk_storage",
            Self::RingBuffer => "ringbuf",
        }
    }

    /// Whether user space can list its entries.
    pub fn is_listable(self) -> bool {
        !matches!(self, Self::SkStorage | Self::RingBuffer | Self::PerCpuArray)
    }

    /// Whether all of its entries always exist.
    pub fn is_array(self) -> bool {
        matches!(self, Self::Array | Self::PerCpuArray)
    }
}

/// Allocate entries when they are inserted.
const NO_PREALLOC: u32 = 1;
/// User space may map it.
const MMAPABLE: u32 = 1 << 10;

/// What a pinned map must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name in the programs' object and of the pin.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries (ring buffer: bytes).
    pub max_entries: u32,
    /// `BPF_F_` flags.
    pub flags: u32,
}

const fn map<K, V>(name: &'static str, kind: Kind, max_entries: u32, flags: u32) -> Definition {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    Definition { name, kind, key_size, value_size, max_entries, flags }
}

macro_rules! definitions {
    ($($name:ident: $kind:ident<$key:ty, $value:ty>, $max:expr, $flags:expr;)+) => {
        $(
            #[doc = concat!("The map ", stringify!($name), ".")]
            pub static $name: Definition =
                map::<$key, $value>(stringify!($name), Kind::$kind, $max, $flags);
        )+
        /// Every map of the layout.
        pub static ALL: &[&Definition] = &[$(&$name),+];
    };
}

definitions! {
    VIPS: Hash<Address, u32>, MAX_VIPS, NO_PREALLOC;
    NODE_ADDRESSES: Hash<Address, u32>, MAX_NODE_ADDRESSES, NO_PREALLOC;
    FRONTENDS: Hash<FrontendKey, Frontend>, MAX_FRONTENDS, NO_PREALLOC;
    SERVICES: Array<u32, u32>, MAX_SERVICES, MMAPABLE;
    DESCRIPTORS: Array<u32, Descriptor>, MAX_DESCRIPTORS, MMAPABLE;
    SLOTS: Array<u32, u32>, MAX_SLOTS, MMAPABLE;
    BACKENDS: Array<u32, Backend>, MAX_BACKENDS, MMAPABLE;
    SETTINGS: Array<u32, Settings>, 1, MMAPABLE;
    SOURCE_RANGES: LpmTrie<SourceRangeKey, u32>, MAX_SOURCE_RANGES, NO_PREALLOC;
    AFFINITY: LruHash<AffinityKey, Affinity>, MAX_AFFINITIES, 0;
    CONNECTED: Hash<u64, Socket>, MAX_CONNECTED, 0;
    SOCKETS: SkStorage<u32, Socket>, 0, NO_PREALLOC;
    DATAGRAMS: SkStorage<u32, Datagrams>, 0, NO_PREALLOC;
    NEW_FLOWS: LruHash<FlowKey, Flow>, MAX_NEW_FLOWS, 0;
    FLOWS: Hash<FlowKey, Flow>, MAX_FLOWS, NO_PREALLOC;
    FRAGMENTS: LruHash<FragmentKey, Fragment>, MAX_FRAGMENTS, 0;
    LOCAL_PODS: Hash<Address, LocalPod>, MAX_LOCAL_PODS, NO_PREALLOC;
    COUNTERS: PerCpuArray<u32, Counter>, COUNTER_COUNT, 0;
    EVENTS: RingBuffer<[u8; 0], [u8; 0]>, EVENTS_BYTES, 0;
}

impl Definition {
    /// What differs between this and a map that is there; `None` if nothing does.
    pub fn difference(&self, found: &MapInfo) -> Option<String> {
        let pairs = [
            ("type", self.kind as u32, found.kind),
            ("key size", self.key_size, found.key_size),
            ("value size", self.value_size, found.value_size),
            ("max entries", self.max_entries, found.max_entries),
            ("flags", self.flags, found.flags),
        ];
        let differing = pairs.iter().filter(|(_, wanted, found)| wanted != found);
        let texts: Vec<_> = differing
            .map(|(what, wanted, found)| format!("{what} is {found}, not {wanted}"))
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }
}

/// Opens the pin of a map below `directory`, and compares it with its definition.
pub fn open(directory: &Path, definition: &Definition) -> Result<OwnedFd, OpenError> {
    let path = directory.join(definition.name);
    let fd = match sys::open_pin(&path) {
        Ok(fd) => fd,
        Err(source) => return Err(OpenError::Missing { path, source }),
    };
    let found = match sys::map_info(fd.as_fd()) {
        Ok(found) => found,
        Err(source) => return Err(OpenError::Missing { path, source }),
    };
    match definition.difference(&found) {
        Some(difference) => Err(OpenError::Mismatch { path, difference }),
        None => Ok(fd),
    }
}

/// Calls `each` with the bytes of every value.
pub fn for_each_raw(
    definition: &Definition,
    fd: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let (key_size, value_size) = (definition.key_size as usize, definition.value_size as usize);
    if definition.flags & MMAPABLE != 0 {
        return mapping::scan(fd, value_size, definition.max_entries, |_, value| each(value));
    }
    sys::for_each_bytes(fd, key_size, value_size, |_, value| {
        each(value);
        true
    })
}
