//! What an earlier agent left in the pinned maps, and which of it belongs to which service port.
//!
//! The maps hold no names. A service port is known again by its frontends: the id that most of them
//! lead to is its id, unless another service port claimed it before.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use bowline_abi::{BACKEND_FREE, Descriptor, FrontendKey};

use super::apply::Kernel;
use super::installed::{self, Installed, InstalledBackend, InstalledFrontend, Live};
use super::pools::Range;
use super::quarantine::Freed;
use crate::maps::Dump;

/// What is left and not yet claimed.
#[derive(Debug, Default)]
pub(super) struct Restored {
    by_frontend: HashMap<FrontendKey, u32>,
    unclaimed: BTreeMap<u32, Installed>,
}

impl Restored {
    /// Sorts a dump by service-port id and marks in `kernel` everything that is in use.
    pub(super) fn from_dump(dump: &Dump, kernel: &mut Kernel) -> Self {
        let mut restored = Self::default();
        let slots: HashMap<u32, u32> =
            dump.slots.iter().map(|(slot, backend)| (slot.0, backend.0)).collect();
        for (id, index, value) in &dump.services {
            restored.take_live(id.0, index.0, value, &slots, kernel);
        }
        for (key, row) in &dump.frontends {
            restored.by_frontend.insert(*key, row.service);
            let frontend = InstalledFrontend { key: *key, kind: row.kind, sure: true };
            restored.of(row.service, kernel).frontends.push(frontend);
            kernel.vips.hold(key.address, row.kind);
            kernel.owners.insert(*key, row.service);
        }
        for range in &dump.source_ranges {
            restored.of(range.service, kernel).ranges.push((*range, true));
        }
        restored.take_backends(dump, kernel);
        for (address, flags) in &dump.vips {
            kernel.vips.restore(*address, *flags);
        }
        restored
    }

    /// The service port that these frontends belonged to, if any of them is known.
    pub(super) fn claim(&mut self, keys: impl Iterator<Item = FrontendKey>) -> Option<Installed> {
        let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
        for id in keys.filter_map(|key| self.by_frontend.get(&key)) {
            if self.unclaimed.contains_key(id) {
                *votes.entry(*id).or_default() += 1;
            }
        }
        let (id, _) =
            votes.into_iter().max_by_key(|(id, votes)| (*votes, std::cmp::Reverse(*id)))?;
        self.unclaimed.remove(&id)
    }

    /// Whatever nobody claimed.
    pub(super) fn into_unclaimed(self) -> impl Iterator<Item = Installed> {
        self.unclaimed.into_values()
    }

    pub(super) fn len(&self) -> usize {
        self.unclaimed.len()
    }

    fn of(&mut self, id: u32, kernel: &mut Kernel) -> &mut Installed {
        self.unclaimed.entry(id).or_insert_with(|| {
            kernel.pools.ids.reserve(id);
            Installed { id, ..Installed::default() }
        })
    }

    fn take_live(
        &mut self,
        id: u32,
        index: u32,
        value: &Descriptor,
        slots: &HashMap<u32, u32>,
        kernel: &mut Kernel,
    ) {
        kernel.pools.descriptors.reserve(index);
        let mut content = Vec::new();
        for range in installed::ranges(value).into_iter().filter(|range| range.count > 0) {
            kernel.pools.slots.reserve(range);
            let Range { first, count } = range;
            content.extend((first..first + count).filter_map(|slot| slots.get(&slot)));
        }
        let live = Live { index, value: *value, slots: content.into() };
        self.of(id, kernel).live = Some(live);
    }

    /// Backends in live slots keep their place; others were about to be freed, and are.
    fn take_backends(&mut self, dump: &Dump, kernel: &mut Kernel) {
        for (index, row) in &dump.backends {
            kernel.pools.backends.reserve(index.0, row.generation);
            let owner = self.unclaimed.get_mut(&row.service).filter(|_| row.state != BACKEND_FREE);
            let Some(owner) = owner else {
                kernel.quarantine.put(Freed::Backend(index.0));
                continue;
            };
            let backend = InstalledBackend {
                address: SocketAddr::new(IpAddr::from(row.address), u16::from_be(row.port)),
                index: index.0,
                flags: row.flags,
                state: Some(row.state),
            };
            let in_use =
                |index: u32| owner.live.as_ref().is_some_and(|live| live.slots.contains(&index));
            match owner.backend(backend.address) {
                Err(at) => owner.backends.insert(at, backend),
                Ok(at) if in_use(backend.index) && !in_use(owner.backends[at].index) => {
                    let old = std::mem::replace(&mut owner.backends[at], backend);
                    owner.replaced.push(old.index);
                }
                Ok(_) => owner.replaced.push(backend.index),
            }
        }
    }
}
