//! What the maps hold on behalf of one service port: recorded step by step, so that a failed update
//! goes on where it stopped. A failed operation may have been done all the same: what it was about is
//! remembered before it is tried, and is doubtful until a try succeeds.

use std::net::SocketAddr;

use bowline_abi::{Descriptor, FrontendKey, SourceRangeKey};

use super::pools::Range;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Installed {
    pub(super) id: u32,
    /// The descriptor that SERVICES names; None if nothing or one of `doubtful`.
    pub(super) live: Option<Live>,
    /// After a failed flip: readers may hold any of these.
    pub(super) doubtful: Vec<Live>,
    /// Sorted by address.
    pub(super) backends: Vec<InstalledBackend>,
    pub(super) frontends: Vec<InstalledFrontend>,
    /// And whether the row is surely there.
    pub(super) ranges: Vec<(SourceRangeKey, bool)>,
    /// Indices of backends that others took the place of; the live slots may still name them.
    pub(super) replaced: Vec<u32>,
}

/// A descriptor and the backend indices in its slots.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) index: u32,
    pub(super) value: Descriptor,
    /// The range for all traffic, then the local one.
    pub(super) slots: Box<[u32]>,
}

/// A row of BACKENDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InstalledBackend {
    pub(super) address: SocketAddr,
    pub(super) index: u32,
    pub(super) flags: u16,
    /// None if the last change failed.
    pub(super) state: Option<u32>,
}

/// A row of FRONTENDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InstalledFrontend {
    pub(super) key: FrontendKey,
    /// One of the `KIND_` constants.
    pub(super) kind: u32,
    /// Whether the row is surely there.
    pub(super) sure: bool,
}

impl Live {
    /// The slot ranges that this descriptor occupies.
    pub(super) fn ranges(&self) -> [Range; 2] {
        ranges(&self.value)
    }

    /// Whether it already says what `wanted` (with open places) and these slots say.
    pub(super) fn says(&self, wanted: &Descriptor, slots: &[u32]) -> bool {
        let placed = Descriptor {
            all_first: self.value.all_first,
            local_first: self.value.local_first,
            ..*wanted
        };
        self.value == placed && *self.slots == *slots
    }
}

/// The slot ranges that a descriptor occupies.
pub(super) fn ranges(value: &Descriptor) -> [Range; 2] {
    [
        Range { first: value.all_first, count: value.all_count },
        Range { first: value.local_first, count: value.local_count },
    ]
}

impl Installed {
    pub(super) fn backend(&self, address: SocketAddr) -> Result<usize, usize> {
        self.backends.binary_search_by_key(&address, |b| b.address)
    }
}
