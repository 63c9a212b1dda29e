//! What a flip or a deletion has made unreachable, until no program run can still hold it.

use bowline_abi::BACKEND_FREE;

use super::pools::{BackendPool, IndexPool, Range, RangePool};
use crate::maps::{BackendIndex, MapError, Maps};

/// The allocators of everything that the maps are indexed by.
#[derive(Debug)]
pub(super) struct Pools {
    pub(super) ids: IndexPool,
    pub(super) descriptors: IndexPool,
    pub(super) slots: RangePool,
    pub(super) backends: BackendPool,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            ids: IndexPool::new(bowline_abi::MAX_SERVICES),
            descriptors: IndexPool::new(bowline_abi::MAX_DESCRIPTORS),
            slots: RangePool::new(bowline_abi::MAX_SLOTS),
            backends: BackendPool::new(bowline_abi::MAX_BACKENDS),
        }
    }
}

/// Something to be given back after a grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    Id(u32),
    Descriptor(u32),
    Slots(Range),
    Backend(u32),
}

/// Batches what waits, so that one grace period serves all.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    waiting: Vec<Freed>,
}

impl Quarantine {
    pub(super) fn put(&mut self, freed: Freed) {
        if freed != Freed::Slots(Range::default()) {
            self.waiting.push(freed);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Waits for a grace period and gives everything back; what fails stays and is tried again.
    pub(super) fn release(
        &mut self,
        maps: &mut dyn Maps,
        pools: &mut Pools,
    ) -> Result<(), MapError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        maps.grace()?;
        let mut failed = Ok(());
        self.waiting.retain(|freed| match *freed {
            Freed::Id(id) => {
                pools.ids.give_back(id);
                false
            }
            Freed::Descriptor(index) => {
                pools.descriptors.give_back(index);
                false
            }
            Freed::Slots(range) => {
                pools.slots.give_back(range);
                false
            }
            Freed::Backend(index) => {
                match maps.set_backend_state(BackendIndex(index), BACKEND_FREE) {
                    Ok(()) => {
                        pools.backends.give_back(index);
                        false
                    }
                    Err(error) => {
                        failed = Err(error);
                        true
                    }
                }
            }
        });
        failed
    }
}
