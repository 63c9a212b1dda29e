//! Reading all of the maps back.

use std::os::fd::{AsFd, BorrowedFd};

use bowline_abi::{Address, Descriptor, NO_DESCRIPTOR};

use super::{BpfMaps, kernel};
use crate::loader::layout::{self, Definition};
use crate::maps::{BackendIndex, DescriptorIndex, Dump, MapError, ServiceId, SlotIndex, Usage};

/// The slots of the services' live ranges, in order, each once.
pub(crate) fn live_slots(
    services: &[(ServiceId, DescriptorIndex, Descriptor)],
    read: impl Fn(u32) -> u32,
) -> Vec<(SlotIndex, BackendIndex)> {
    let mut slots: Vec<u32> = services
        .iter()
        .flat_map(|(_, _, d)| {
            let all = d.all_first..d.all_first.saturating_add(d.all_count);
            let local = d.local_first..d.local_first.saturating_add(d.local_count);
            all.chain(local)
        })
        .collect();
    slots.sort_unstable();
    slots.dedup();
    slots.into_iter().map(|slot| (SlotIndex(slot), BackendIndex(read(slot)))).collect()
}

fn sorted<K: Ord + Copy, V>(mut rows: Vec<(K, V)>) -> Vec<(K, V)> {
    rows.sort_by_key(|(key, _)| *key);
    rows
}

impl BpfMaps {
    pub(super) fn read_all(&self) -> Result<Dump, MapError> {
        let services = self.read_services()?;
        let mut all_slots = Vec::new();
        if services.iter().any(|(_, _, d)| d.all_count + d.local_count > 0) {
            self.slots
                .for_each(|_, backend| all_slots.push(*backend))
                .map_err(kernel(&layout::SLOTS, "map for reading"))?;
        }
        let slots =
            live_slots(&services, |slot| all_slots.get(slot as usize).copied().unwrap_or_default());
        let mut backends = Vec::new();
        self.backends
            .for_each(|index, backend| {
                if backend.service != 0 {
                    backends.push((BackendIndex(index), *backend));
                }
            })
            .map_err(kernel(&layout::BACKENDS, "map for reading"))?;
        let mut source_ranges: Vec<_> =
            self.source_ranges.all()?.into_iter().map(|(key, _)| key).collect();
        source_ranges.sort_by_key(|key| (key.service, key.address, key.prefix_length));
        let settings = self.settings.read(0).map_err(kernel(&layout::SETTINGS, "read"))?;
        Ok(Dump {
            vips: sorted(self.vips.all()?),
            node_addresses: sorted::<Address, _>(self.node_addresses.all()?),
            frontends: sorted(self.frontends.all()?),
            services,
            slots,
            backends,
            source_ranges,
            local_pods: sorted(self.local_pods.all()?),
            settings: settings.unwrap_or_default(),
        })
    }

    fn read_services(&self) -> Result<Vec<(ServiceId, DescriptorIndex, Descriptor)>, MapError> {
        let mut live = Vec::new();
        self.services
            .for_each(|id, descriptor| {
                if *descriptor != NO_DESCRIPTOR {
                    live.push((ServiceId(id), DescriptorIndex(*descriptor)));
                }
            })
            .map_err(kernel(&layout::SERVICES, "map for reading"))?;
        live.into_iter()
            .map(|(id, index)| {
                let descriptor = self
                    .descriptors
                    .read(index.0)
                    .map_err(kernel(&layout::DESCRIPTORS, "read"))?
                    .unwrap_or_default();
                Ok((id, index, descriptor))
            })
            .collect()
    }

    pub(super) fn measure(&self) -> Result<Vec<Usage>, MapError> {
        layout::ALL.iter().map(|definition| self.measure_one(definition)).collect()
    }

    fn measure_one(&self, definition: &'static Definition) -> Result<Usage, MapError> {
        let fd = layout::open(&self.directory, definition).map_err(|error| MapError::Kernel {
            map: definition.name,
            operation: "open its pin",
            source: std::io::Error::other(error),
        })?;
        let count = |fd| count_entries(definition, fd).map_err(kernel(definition, "count"));
        Ok(Usage {
            name: definition.name,
            kind: definition.kind.name(),
            entries: count(fd.as_fd())?,
            capacity: definition.max_entries,
            bytes: map_bytes(fd.as_fd()),
        })
    }
}

/// Entries in use; of an array, those whose bytes are not all zero.
fn count_entries(
    definition: &'static Definition,
    fd: BorrowedFd<'_>,
) -> std::io::Result<Option<u64>> {
    if !definition.kind.is_listable() {
        return Ok(None);
    }
    let mut entries = 0;
    let zero_counts = !definition.kind.is_array();
    layout::for_each_raw(definition, fd, |value| {
        if zero_counts || value.iter().any(|byte| *byte != 0) {
            entries += 1;
        }
    })?;
    Ok(Some(entries))
}

/// Bytes that the kernel has charged to the map (`memlock` in its fdinfo).
fn map_bytes(fd: BorrowedFd<'_>) -> u64 {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    field.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
