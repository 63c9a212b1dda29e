//! Maps in ordinary memory, for tests: they also check the rules of the writer.

use std::collections::{BTreeMap, BTreeSet};

use bowline_abi::{
    Address, Backend, COUNTER_COUNT, Counter, Descriptor, Frontend, FrontendKey, LocalPod,
    MAX_BACKENDS, MAX_DESCRIPTORS, MAX_FRONTENDS, MAX_SERVICES, MAX_SLOTS, NO_DESCRIPTOR, Settings,
    SourceRangeKey,
};

use super::{BackendIndex, DescriptorIndex, Dump, MapError, Maps, ServiceId, SlotIndex, Usage};

/// Maps in ordinary memory.
///
/// A write that breaks a rule of the writer (a live descriptor, slot or backend is changed, or one
/// that was live is changed before a grace period) panics with a sentence: no real map could notice.
#[derive(Clone, Debug, Default)]
pub struct FakeMaps {
    services: BTreeMap<u32, u32>,
    descriptors: BTreeMap<u32, Descriptor>,
    slots: BTreeMap<u32, u32>,
    backends: BTreeMap<u32, Backend>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    vips: BTreeMap<Address, u32>,
    node_addresses: BTreeMap<Address, u32>,
    source_ranges: BTreeMap<(u32, Address, u32), SourceRangeKey>,
    local_pods: BTreeMap<Address, LocalPod>,
    settings: Settings,
    /// Descriptors that a reader may still hold.
    fading: BTreeSet<u32>,
    /// Grace periods so far.
    graces: u64,
}

impl FakeMaps {
    /// Empty maps.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many grace periods were waited for.
    pub fn graces(&self) -> u64 {
        self.graces
    }

    /// Descriptors that a program run may hold now.
    fn held(&self) -> impl Iterator<Item = (u32, &Descriptor)> {
        let live = self.services.values().copied().filter(|index| *index != NO_DESCRIPTOR);
        live.chain(self.fading.iter().copied())
            .filter_map(|index| Some((index, self.descriptors.get(&index)?)))
    }

    fn slot_is_held(&self, slot: u32) -> bool {
        self.held().any(|(_, d)| {
            (d.all_first..d.all_first + d.all_count).contains(&slot)
                || (d.local_first..d.local_first + d.local_count).contains(&slot)
        })
    }

    fn backend_is_held(&self, backend: u32) -> bool {
        self.held().any(|(_, d)| {
            let all = d.all_first..d.all_first + d.all_count;
            let local = d.local_first..d.local_first + d.local_count;
            all.chain(local).any(|slot| self.slots.get(&slot) == Some(&backend))
        })
    }
}

fn within(map: &'static str, index: u32, capacity: u32) -> Result<(), MapError> {
    if index < capacity {
        return Ok(());
    }
    Err(MapError::OutOfRange { map, index: index.into(), capacity })
}

fn not_zero(map: &'static str, index: u32, capacity: u32) -> Result<(), MapError> {
    if index == 0 {
        return Err(MapError::OutOfRange { map, index: 0, capacity });
    }
    within(map, index, capacity)
}

impl Maps for FakeMaps {
    fn write_backend(&mut self, index: BackendIndex, backend: &Backend) -> Result<(), MapError> {
        not_zero("BACKENDS", index.0, MAX_BACKENDS)?;
        if self.backends.get(&index.0) == Some(backend) {
            return Ok(());
        }
        assert!(
            !self.backend_is_held(index.0),
            "backend {} changed while readers hold it",
            index.0
        );
        self.backends.insert(index.0, *backend);
        Ok(())
    }

    fn set_backend_state(&mut self, index: BackendIndex, state: u32) -> Result<(), MapError> {
        not_zero("BACKENDS", index.0, MAX_BACKENDS)?;
        self.backends.entry(index.0).or_default().state = state;
        Ok(())
    }

    fn write_slots(&mut self, first: SlotIndex, backends: &[BackendIndex]) -> Result<(), MapError> {
        for (slot, backend) in (first.0..).zip(backends) {
            within("SLOTS", slot, MAX_SLOTS)?;
            not_zero("SLOTS", backend.0, MAX_BACKENDS)?;
            if self.slots.get(&slot) != Some(&backend.0) {
                assert!(!self.slot_is_held(slot), "slot {slot} changed while readers hold it");
                self.slots.insert(slot, backend.0);
            }
        }
        Ok(())
    }

    fn write_descriptor(
        &mut self,
        index: DescriptorIndex,
        descriptor: &Descriptor,
    ) -> Result<(), MapError> {
        not_zero("DESCRIPTORS", index.0, MAX_DESCRIPTORS)?;
        if self.descriptors.get(&index.0) == Some(descriptor) {
            return Ok(());
        }
        let held = self.held().any(|(i, _)| i == index.0);
        assert!(!held, "descriptor {} changed while readers hold it", index.0);
        self.descriptors.insert(index.0, *descriptor);
        Ok(())
    }

    fn flip(&mut self, service: ServiceId, descriptor: DescriptorIndex) -> Result<(), MapError> {
        not_zero("SERVICES", service.0, MAX_SERVICES)?;
        within("DESCRIPTORS", descriptor.0, MAX_DESCRIPTORS)?;
        if let Some(new) = self.descriptors.get(&descriptor.0) {
            assert_eq!(new.service, service.0, "descriptor {} is another's", descriptor.0);
        }
        let old = self.services.insert(service.0, descriptor.0);
        if let Some(old) = old.filter(|old| *old != NO_DESCRIPTOR && *old != descriptor.0) {
            self.fading.insert(old);
        }
        Ok(())
    }

    fn insert_frontend(&mut self, key: &FrontendKey, row: &Frontend) -> Result<(), MapError> {
        match self.frontends.get(key) {
            Some(old) if old == row => Ok(()),
            Some(_) => Err(MapError::Exists { map: "FRONTENDS" }),
            None if self.frontends.len() >= MAX_FRONTENDS as usize => {
                Err(MapError::Full { map: "FRONTENDS", capacity: MAX_FRONTENDS })
            }
            None => {
                self.frontends.insert(*key, *row);
                Ok(())
            }
        }
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError> {
        self.frontends.remove(key);
        Ok(())
    }

    fn insert_vip(&mut self, address: Address, flags: u32) -> Result<(), MapError> {
        self.vips.insert(address, flags);
        Ok(())
    }

    fn delete_vip(&mut self, address: Address) -> Result<(), MapError> {
        self.vips.remove(&address);
        Ok(())
    }

    fn insert_node_address(&mut self, address: Address, flags: u32) -> Result<(), MapError> {
        self.node_addresses.insert(address, flags);
        Ok(())
    }

    fn delete_node_address(&mut self, address: Address) -> Result<(), MapError> {
        self.node_addresses.remove(&address);
        Ok(())
    }

    fn insert_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.source_ranges.insert((key.service, key.address, key.prefix_length), *key);
        Ok(())
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.source_ranges.remove(&(key.service, key.address, key.prefix_length));
        Ok(())
    }

    fn insert_local_pod(&mut self, address: Address, pod: &LocalPod) -> Result<(), MapError> {
        self.local_pods.insert(address, *pod);
        Ok(())
    }

    fn delete_local_pod(&mut self, address: Address) -> Result<(), MapError> {
        self.local_pods.remove(&address);
        Ok(())
    }

    fn write_settings(&mut self, settings: &Settings) -> Result<(), MapError> {
        self.settings = *settings;
        Ok(())
    }

    fn grace(&mut self) -> Result<(), MapError> {
        self.fading.clear();
        self.graces += 1;
        Ok(())
    }

    fn dump(&self) -> Result<Dump, MapError> {
        let mut dump = Dump {
            vips: self.vips.iter().map(|(k, v)| (*k, *v)).collect(),
            node_addresses: self.node_addresses.iter().map(|(k, v)| (*k, *v)).collect(),
            frontends: self.frontends.iter().map(|(k, v)| (*k, *v)).collect(),
            source_ranges: self.source_ranges.values().copied().collect(),
            local_pods: self.local_pods.iter().map(|(k, v)| (*k, *v)).collect(),
            settings: self.settings,
            ..Dump::default()
        };
        for (service, index) in self.services.iter().filter(|(_, i)| **i != NO_DESCRIPTOR) {
            let descriptor = self.descriptors.get(index).copied().unwrap_or_default();
            dump.services.push((ServiceId(*service), DescriptorIndex(*index), descriptor));
        }
        dump.slots = super::bpf::live_slots(&dump.services, |slot| {
            self.slots.get(&slot).copied().unwrap_or_default()
        });
        dump.backends = self.backends.iter().map(|(k, v)| (BackendIndex(*k), *v)).collect();
        dump.backends.retain(|(_, backend)| backend.service != 0);
        Ok(dump)
    }

    fn sweep_flows(&mut self) -> Result<usize, MapError> {
        Ok(0)
    }

    fn usage(&self) -> Result<Vec<Usage>, MapError> {
        Ok(vec![Usage {
            name: "FRONTENDS",
            kind: "fake",
            entries: Some(self.frontends.len() as u64),
            capacity: MAX_FRONTENDS,
            bytes: 0,
        }])
    }

    fn counters(&self) -> Result<Vec<Counter>, MapError> {
        Ok(vec![Counter::default(); COUNTER_COUNT as usize])
    }
}
