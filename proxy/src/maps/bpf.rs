//! The real maps, opened from their pins.

mod dump;
mod flows;
mod rows;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bowline_abi::{
    Address, Backend, COUNTER_COUNT, Counter, Descriptor, Flow, FlowKey, Frontend, FrontendKey,
    LocalPod, Settings, SourceRangeKey,
};

pub(crate) use self::dump::live_slots;
use self::rows::Rows;
use super::{BackendIndex, DescriptorIndex, Dump, MapError, Maps, ServiceId, SlotIndex, Usage};
use crate::loader::layout::{self, Definition};
use crate::loader::sys::{self, mapping::ArrayMapping};

/// The offset of `Backend::state`, in words.
const BACKEND_STATE_WORD: usize = std::mem::offset_of!(Backend, state) / 4;

/// Why pinned maps could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such pin.
    #[error("no map is pinned at {path}: is bowline-proxy running on this node?")]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// Why it could not be opened.
        source: io::Error,
    },
    /// The pin is not the map that this version knows.
    #[error(
        "the map pinned at {path} is not this version's ({difference}): it was made by another \
         build with the same layout version; run `bowline-proxy cleanup` and start again"
    )]
    Mismatch {
        /// Where it is.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
}

/// The pinned maps of a node.
///
/// Any number may be open for reading; one process at a time writes.
#[derive(Debug)]
pub struct BpfMaps {
    directory: PathBuf,
    services: ArrayMapping<u32>,
    descriptors: ArrayMapping<Descriptor>,
    slots: ArrayMapping<u32>,
    backends: ArrayMapping<Backend>,
    settings: ArrayMapping<Settings>,
    frontends: Rows<FrontendKey, Frontend>,
    vips: Rows<Address, u32>,
    node_addresses: Rows<Address, u32>,
    source_ranges: Rows<SourceRangeKey, u32>,
    local_pods: Rows<Address, LocalPod>,
    flows: Rows<FlowKey, Flow>,
    counters: std::os::fd::OwnedFd,
    cpus: usize,
}

fn array<T: bowline_abi::Plain>(
    directory: &Path,
    definition: &'static Definition,
) -> Result<ArrayMapping<T>, OpenError> {
    let fd = layout::open(directory, definition)?;
    Ok(ArrayMapping::new(fd, definition.max_entries))
}

impl BpfMaps {
    /// Opens the maps pinned below `directory` (the one named after the layout's version).
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let counters = layout::open(directory, &layout::COUNTERS)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            services: array(directory, &layout::SERVICES)?,
            descriptors: array(directory, &layout::DESCRIPTORS)?,
            slots: array(directory, &layout::SLOTS)?,
            backends: array(directory, &layout::BACKENDS)?,
            settings: array(directory, &layout::SETTINGS)?,
            frontends: Rows::open(directory, &layout::FRONTENDS)?,
            vips: Rows::open(directory, &layout::VIPS)?,
            node_addresses: Rows::open(directory, &layout::NODE_ADDRESSES)?,
            source_ranges: Rows::open(directory, &layout::SOURCE_RANGES)?,
            local_pods: Rows::open(directory, &layout::LOCAL_PODS)?,
            flows: Rows::open(directory, &layout::FLOWS)?,
            counters,
            cpus: possible_cpus(),
        })
    }
}

/// The number of CPUs that per-CPU maps have values for.
fn possible_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    last.map_or(1, |last| last + 1)
}

fn kernel(
    definition: &'static Definition,
    operation: &'static str,
) -> impl FnOnce(io::Error) -> MapError {
    move |source| MapError::Kernel { map: definition.name, operation, source }
}

fn within(definition: &'static Definition, index: u32, first: u32) -> Result<(), MapError> {
    let capacity = definition.max_entries;
    if (first..capacity).contains(&index) {
        return Ok(());
    }
    Err(MapError::OutOfRange { map: definition.name, index: index.into(), capacity })
}

impl Maps for BpfMaps {
    fn write_backend(&mut self, index: BackendIndex, backend: &Backend) -> Result<(), MapError> {
        within(&layout::BACKENDS, index.0, 1)?;
        self.backends.write(index.0, backend).map_err(kernel(&layout::BACKENDS, "map for writing"))
    }

    fn set_backend_state(&mut self, index: BackendIndex, state: u32) -> Result<(), MapError> {
        within(&layout::BACKENDS, index.0, 1)?;
        self.backends
            .store_u32(index.0, BACKEND_STATE_WORD, state)
            .map_err(kernel(&layout::BACKENDS, "map for writing"))
    }

    fn write_slots(&mut self, first: SlotIndex, backends: &[BackendIndex]) -> Result<(), MapError> {
        for (slot, backend) in (first.0..).zip(backends) {
            within(&layout::SLOTS, slot, 0)?;
            within(&layout::BACKENDS, backend.0, 1)?;
            self.slots
                .write(slot, &backend.0)
                .map_err(kernel(&layout::SLOTS, "map for writing"))?;
        }
        Ok(())
    }

    fn write_descriptor(
        &mut self,
        index: DescriptorIndex,
        descriptor: &Descriptor,
    ) -> Result<(), MapError> {
        within(&layout::DESCRIPTORS, index.0, 1)?;
        self.descriptors
            .write(index.0, descriptor)
            .map_err(kernel(&layout::DESCRIPTORS, "map for writing"))
    }

    fn flip(&mut self, service: ServiceId, descriptor: DescriptorIndex) -> Result<(), MapError> {
        within(&layout::SERVICES, service.0, 1)?;
        within(&layout::DESCRIPTORS, descriptor.0, 0)?;
        self.services
            .store_u32(service.0, 0, descriptor.0)
            .map_err(kernel(&layout::SERVICES, "map for writing"))
    }

    fn insert_frontend(&mut self, key: &FrontendKey, row: &Frontend) -> Result<(), MapError> {
        self.frontends.insert(key, row)
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError> {
        self.frontends.delete(key)
    }

    fn insert_vip(&mut self, address: Address, flags: u32) -> Result<(), MapError> {
        self.vips.replace(&address, &flags)
    }

    fn delete_vip(&mut self, address: Address) -> Result<(), MapError> {
        self.vips.delete(&address)
    }

    fn insert_node_address(&mut self, address: Address, flags: u32) -> Result<(), MapError> {
        self.node_addresses.replace(&address, &flags)
    }

    fn delete_node_address(&mut self, address: Address) -> Result<(), MapError> {
        self.node_addresses.delete(&address)
    }

    fn insert_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.source_ranges.insert(key, &1)
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.source_ranges.delete(key)
    }

    fn insert_local_pod(&mut self, address: Address, pod: &LocalPod) -> Result<(), MapError> {
        self.local_pods.replace(&address, pod)
    }

    fn delete_local_pod(&mut self, address: Address) -> Result<(), MapError> {
        self.local_pods.delete(&address)
    }

    fn write_settings(&mut self, settings: &Settings) -> Result<(), MapError> {
        self.settings.write(0, settings).map_err(kernel(&layout::SETTINGS, "map for writing"))
    }

    fn grace(&mut self) -> Result<(), MapError> {
        sys::membarrier().map_err(kernel(&layout::SERVICES, "wait for a grace period"))?;
        self.frontends.settled();
        self.vips.settled();
        self.node_addresses.settled();
        self.source_ranges.settled();
        self.local_pods.settled();
        Ok(())
    }

    fn dump(&self) -> Result<Dump, MapError> {
        self.read_all()
    }

    fn sweep_flows(&mut self) -> Result<usize, MapError> {
        flows::sweep(&mut self.flows, sys::monotonic_ns())
    }

    fn usage(&self) -> Result<Vec<Usage>, MapError> {
        self.measure()
    }

    fn counters(&self) -> Result<Vec<Counter>, MapError> {
        let mut sums = Vec::with_capacity(COUNTER_COUNT as usize);
        for index in 0..COUNTER_COUNT {
            let values = sys::lookup_per_cpu::<Counter>(self.counters.as_fd(), index, self.cpus)
                .map_err(kernel(&layout::COUNTERS, "read"))?;
            sums.push(values.iter().fold(Counter::default(), |sum, value| Counter {
                packets: sum.packets + value.packets,
                bytes: sum.bytes + value.bytes,
            }));
        }
        Ok(sums)
    }
}
