//! One service port's way into the maps, in the order that readers need.
//!
//! [`Kernel::apply`]: new backends -> slots -> descriptor -> the flip -> source ranges -> frontends.
//! [`Kernel::clean`]: what the row no longer has goes, after all rows of the round were applied.
//! [`Kernel::remove`]: all of it goes: frontends, then the flip to nothing.

use std::collections::HashMap;

use bowline_abi::{
    Address, BACKEND_TERMINATING, Backend as BackendRow, Descriptor, Frontend as FrontendRow,
    FrontendKey,
};

use super::expansion;
use super::installed::{Installed, InstalledBackend, InstalledFrontend, Live};
use super::pools::Range;
use super::quarantine::{Freed, Pools, Quarantine};
use super::vips::Vips;
use crate::maps::{BackendIndex, DescriptorIndex, MapError, Maps, ServiceId, SlotIndex};
use crate::model::ServicePortName;
use crate::writer::{Backend, ServicePort};

/// Why a row could not be brought into the maps (yet).
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("all {what} are in use; fewer Services or endpoints fit on this node")]
    Exhausted { what: &'static str },
    #[error("{key:?} is still in the map for another service port")]
    Taken { key: FrontendKey },
}

impl ApplyError {
    /// Another service port still has the frontend. Everything before it was done.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }
}

/// The bookkeeping that all service ports share.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) pools: Pools,
    pub(super) quarantine: Quarantine,
    pub(super) vips: Vips,
    /// Which service-port id has, or may have, a row for a frontend: nobody else touches it.
    pub(super) owners: HashMap<FrontendKey, u32>,
}

impl Kernel {
    /// Makes the maps say what `row` says, except for what must be deleted.
    pub(super) fn apply(
        &mut self,
        maps: &mut dyn Maps,
        name: &ServicePortName,
        row: &ServicePort,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        self.backends(maps, row, installed)?;
        self.insert_ranges(maps, row, installed)?;
        self.flip(maps, row, installed)?;
        self.insert_frontends(maps, name, row, installed)
    }

    /// Deletes what `row` no longer has. Backends leave new choices at once, their place later.
    pub(super) fn clean(
        &mut self,
        maps: &mut dyn Maps,
        name: &ServicePortName,
        row: &ServicePort,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        let wanted: HashMap<FrontendKey, u32> = expansion::frontends(name, row).collect();
        self.delete_frontends(maps, installed, |key, kind| wanted.get(key) == Some(&kind))?;
        let ranges: Vec<_> = expansion::source_ranges(installed.id, row).collect();
        delete_ranges(maps, installed, |range| ranges.contains(range))?;
        self.drop_backends(maps, installed, |b| {
            row.backends.binary_search_by_key(&b.address, |wanted| wanted.address).is_ok()
        })
    }

    /// Deletes all of a service port.
    pub(super) fn remove(
        &mut self,
        maps: &mut dyn Maps,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        self.delete_frontends(maps, installed, |_, _| false)?;
        maps.flip(ServiceId(installed.id), DescriptorIndex(0))?;
        installed.doubtful.extend(installed.live.take());
        for old in installed.doubtful.drain(..) {
            self.free_live(&old);
        }
        delete_ranges(maps, installed, |_| false)?;
        self.drop_backends(maps, installed, |_| false)?;
        self.quarantine.put(Freed::Id(installed.id));
        Ok(())
    }

    fn backends(
        &mut self,
        maps: &mut dyn Maps,
        row: &ServicePort,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        for backend in &row.backends {
            let wanted = expansion::backend_state(backend);
            match (installed.backend(backend.address), wanted) {
                // It moved to or from this node: another backend, as the flags are constant. The
                // live slots may name the old one; it is freed with them, by the next flip.
                (Ok(at), Some(state))
                    if installed.backends[at].flags != expansion::backend_flags(backend) =>
                {
                    let new = self.new_backend(maps, installed.id, backend, state)?;
                    let old = std::mem::replace(&mut installed.backends[at], new);
                    installed.replaced.push(old.index);
                }
                (Ok(at), wanted) => {
                    let state = wanted.unwrap_or(BACKEND_TERMINATING);
                    set_state(maps, &mut installed.backends[at], state)?;
                }
                (Err(at), Some(state)) => {
                    let new = self.new_backend(maps, installed.id, backend, state)?;
                    installed.backends.insert(at, new);
                }
                (Err(_), None) => {}
            }
        }
        Ok(())
    }

    fn new_backend(
        &mut self,
        maps: &mut dyn Maps,
        id: u32,
        backend: &Backend,
        state: u32,
    ) -> Result<InstalledBackend, ApplyError> {
        let (index, generation) =
            self.pools.backends.take().ok_or(ApplyError::Exhausted { what: "backends" })?;
        let flags = expansion::backend_flags(backend);
        let value = BackendRow {
            address: Address::from(backend.address.ip()),
            port: backend.address.port().to_be(),
            flags,
            state,
            service: id,
            generation,
        };
        if let Err(error) = maps.write_backend(BackendIndex(index), &value) {
            // Nothing names it, but what became of the write is unknown: its generation stays used.
            self.pools.backends.give_back(index);
            return Err(error.into());
        }
        Ok(InstalledBackend { address: backend.address, index, flags, state: Some(state) })
    }

    fn flip(
        &mut self,
        maps: &mut dyn Maps,
        row: &ServicePort,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        let mut wanted = expansion::descriptor(installed.id, row);
        let (all, local) = expansion::ranges(row);
        let index_of = |&at: &u32| {
            let address = row.backends[at as usize].address;
            installed.backend(address).ok().map(|at| installed.backends[at].index)
        };
        let slots: Box<[u32]> = all.iter().chain(local).filter_map(index_of).collect();
        debug_assert_eq!(slots.len(), all.len() + local.len(), "a reachable backend has an index");
        if installed.live.as_ref().is_some_and(|live| live.says(&wanted, &slots)) {
            return Ok(());
        }
        let index = self.prepare(maps, &mut wanted, &slots)?;
        let new = Live { index, value: wanted, slots };
        if let Err(error) = maps.flip(ServiceId(installed.id), DescriptorIndex(index)) {
            installed.doubtful.extend(installed.live.take());
            installed.doubtful.push(new);
            return Err(error.into());
        }
        installed.doubtful.extend(installed.live.replace(new));
        for old in installed.doubtful.drain(..) {
            self.free_live(&old);
        }
        for index in installed.replaced.drain(..) {
            self.quarantine.put(Freed::Backend(index));
        }
        Ok(())
    }

    /// Writes slots and a descriptor that nothing names yet; the descriptor's index.
    fn prepare(
        &mut self,
        maps: &mut dyn Maps,
        wanted: &mut Descriptor,
        slots: &[u32],
    ) -> Result<u32, ApplyError> {
        let exhausted = |what| ApplyError::Exhausted { what };
        let range = self.pools.slots.take(slots.len() as u32).ok_or(exhausted("slots"))?;
        let Some(index) = self.pools.descriptors.take() else {
            self.pools.slots.give_back(range);
            return Err(exhausted("descriptors"));
        };
        if wanted.all_count > 0 {
            wanted.all_first = range.first;
        }
        if wanted.local_count > 0 {
            wanted.local_first = range.first + wanted.all_count;
        }
        let backends: Vec<_> = slots.iter().map(|index| BackendIndex(*index)).collect();
        let written = maps
            .write_slots(SlotIndex(range.first), &backends)
            .and_then(|()| maps.write_descriptor(DescriptorIndex(index), wanted));
        if let Err(error) = written {
            self.free_unused(index, wanted);
            return Err(error.into());
        }
        Ok(index)
    }

    /// Gives back what no reader ever saw.
    fn free_unused(&mut self, index: u32, value: &Descriptor) {
        self.pools.descriptors.give_back(index);
        for range in super::installed::ranges(value) {
            self.pools.slots.give_back(range);
        }
    }

    fn free_live(&mut self, live: &Live) {
        self.quarantine.put(Freed::Descriptor(live.index));
        for range in live.ranges() {
            self.quarantine.put(Freed::Slots(normal(range)));
        }
    }

    fn insert_ranges(
        &mut self,
        maps: &mut dyn Maps,
        row: &ServicePort,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        for range in expansion::source_ranges(installed.id, row) {
            let at = match installed.ranges.iter().position(|(present, _)| *present == range) {
                Some(at) => at,
                None => {
                    installed.ranges.push((range, false));
                    installed.ranges.len() - 1
                }
            };
            if !installed.ranges[at].1 {
                maps.insert_source_range(&range)?;
                installed.ranges[at].1 = true;
            }
        }
        Ok(())
    }

    fn insert_frontends(
        &mut self,
        maps: &mut dyn Maps,
        name: &ServicePortName,
        row: &ServicePort,
        installed: &mut Installed,
    ) -> Result<(), ApplyError> {
        for (key, kind) in expansion::frontends(name, row) {
            let old = installed.frontends.iter().position(|present| present.key == key);
            let at = match old {
                Some(at) if installed.frontends[at].kind == kind => at,
                old => {
                    // The same address is now of another kind: rows are never updated.
                    if let Some(at) = old {
                        maps.delete_frontend(&key)?;
                        let present = installed.frontends.swap_remove(at);
                        self.vips.release(key.address, present.kind);
                    }
                    if *self.owners.entry(key).or_insert(installed.id) != installed.id {
                        return Err(ApplyError::Taken { key });
                    }
                    self.vips.hold(key.address, kind);
                    installed.frontends.push(InstalledFrontend { key, kind, sure: false });
                    installed.frontends.len() - 1
                }
            };
            if !installed.frontends[at].sure {
                maps.insert_frontend(&key, &FrontendRow { service: installed.id, kind })?;
                installed.frontends[at].sure = true;
            }
        }
        Ok(())
    }

    fn delete_frontends(
        &mut self,
        maps: &mut dyn Maps,
        installed: &mut Installed,
        keep: impl Fn(&FrontendKey, u32) -> bool,
    ) -> Result<(), ApplyError> {
        let mut at = 0;
        while let Some(present) = installed.frontends.get(at).copied() {
            if keep(&present.key, present.kind) {
                at += 1;
                continue;
            }
            maps.delete_frontend(&present.key)?;
            installed.frontends.swap_remove(at);
            self.owners.remove(&present.key);
            self.vips.release(present.key.address, present.kind);
        }
        Ok(())
    }

    /// New choices avoid the backend from the flip on; what remembers it (affinity, datagrams) must
    /// look elsewhere from here on.
    fn drop_backends(
        &mut self,
        maps: &mut dyn Maps,
        installed: &mut Installed,
        keep: impl Fn(&InstalledBackend) -> bool,
    ) -> Result<(), ApplyError> {
        let mut at = 0;
        while let Some(backend) = installed.backends.get_mut(at) {
            if keep(backend) {
                at += 1;
                continue;
            }
            set_state(maps, backend, BACKEND_TERMINATING)?;
            self.quarantine.put(Freed::Backend(backend.index));
            installed.backends.remove(at);
        }
        for index in installed.replaced.drain(..) {
            self.quarantine.put(Freed::Backend(index));
        }
        Ok(())
    }
}

/// Sets a backend's state, and doubts the present one if that fails.
fn set_state(
    maps: &mut dyn Maps,
    backend: &mut InstalledBackend,
    state: u32,
) -> Result<(), ApplyError> {
    if backend.state != Some(state) {
        backend.state = None;
        maps.set_backend_state(BackendIndex(backend.index), state)?;
        backend.state = Some(state);
    }
    Ok(())
}

fn delete_ranges(
    maps: &mut dyn Maps,
    installed: &mut Installed,
    keep: impl Fn(&bowline_abi::SourceRangeKey) -> bool,
) -> Result<(), ApplyError> {
    let mut at = 0;
    while let Some((range, _)) = installed.ranges.get(at) {
        if keep(range) {
            at += 1;
            continue;
        }
        maps.delete_source_range(range)?;
        installed.ranges.swap_remove(at);
    }
    Ok(())
}

/// An empty range lies nowhere.
fn normal(range: Range) -> Range {
    if range.count == 0 { Range::default() } else { range }
}
