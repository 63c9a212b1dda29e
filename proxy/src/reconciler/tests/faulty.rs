//! Maps that fail now and then, before or after having done what they were asked, by a seed.

use bowline_abi::{
    Address, Backend, Counter, Descriptor, Frontend, FrontendKey, LocalPod, Settings,
    SourceRangeKey,
};

use crate::maps::{
    BackendIndex, DescriptorIndex, Dump, FakeMaps, MapError, Maps, ServiceId, SlotIndex, Usage,
};

/// Fake maps of which one operation in `one_in` fails (0: none).
pub(super) struct Faulty {
    pub(super) inner: FakeMaps,
    one_in: u64,
    random: u64,
    pub(super) failures: usize,
}

impl Faulty {
    pub(super) fn new(inner: FakeMaps, one_in: u64, seed: u64) -> Self {
        Self { inner, one_in, random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, failures: 0 }
    }

    /// A new agent finds the same maps; the failures go on.
    pub(super) fn dump_now(&self) -> Dump {
        self.inner.dump().expect("the fake dumps")
    }

    fn act(
        &mut self,
        map: &'static str,
        act: impl FnOnce(&mut FakeMaps) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if self.one_in == 0 || !self.random.is_multiple_of(self.one_in) {
            return act(&mut self.inner);
        }
        self.failures += 1;
        // Half of the failures come after the deed.
        if self.random >> 63 == 1 {
            act(&mut self.inner)?;
        }
        let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
        Err(MapError::Kernel { map, operation: "fail on purpose", source })
    }
}

impl Maps for Faulty {
    fn write_backend(&mut self, index: BackendIndex, backend: &Backend) -> Result<(), MapError> {
        self.act("BACKENDS", |maps| maps.write_backend(index, backend))
    }

    fn set_backend_state(&mut self, index: BackendIndex, state: u32) -> Result<(), MapError> {
        self.act("BACKENDS", |maps| maps.set_backend_state(index, state))
    }

    fn write_slots(&mut self, first: SlotIndex, backends: &[BackendIndex]) -> Result<(), MapError> {
        self.act("SLOTS", |maps| maps.write_slots(first, backends))
    }

    fn write_descriptor(
        &mut self,
        index: DescriptorIndex,
        descriptor: &Descriptor,
    ) -> Result<(), MapError> {
        self.act("DESCRIPTORS", |maps| maps.write_descriptor(index, descriptor))
    }

    fn flip(&mut self, service: ServiceId, descriptor: DescriptorIndex) -> Result<(), MapError> {
        self.act("SERVICES", |maps| maps.flip(service, descriptor))
    }

    fn insert_frontend(&mut self, key: &FrontendKey, row: &Frontend) -> Result<(), MapError> {
        self.act("FRONTENDS", |maps| maps.insert_frontend(key, row))
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), MapError> {
        self.act("FRONTENDS", |maps| maps.delete_frontend(key))
    }

    fn insert_vip(&mut self, address: Address, flags: u32) -> Result<(), MapError> {
        self.act("VIPS", |maps| maps.insert_vip(address, flags))
    }

    fn delete_vip(&mut self, address: Address) -> Result<(), MapError> {
        self.act("VIPS", |maps| maps.delete_vip(address))
    }

    fn insert_node_address(&mut self, address: Address, flags: u32) -> Result<(), MapError> {
        self.act("NODE_ADDRESSES", |maps| maps.insert_node_address(address, flags))
    }

    fn delete_node_address(&mut self, address: Address) -> Result<(), MapError> {
        self.act("NODE_ADDRESSES", |maps| maps.delete_node_address(address))
    }

    fn insert_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.act("SOURCE_RANGES", |maps| maps.insert_source_range(key))
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.act("SOURCE_RANGES", |maps| maps.delete_source_range(key))
    }

    fn insert_local_pod(&mut self, address: Address, pod: &LocalPod) -> Result<(), MapError> {
        self.act("LOCAL_PODS", |maps| maps.insert_local_pod(address, pod))
    }

    fn delete_local_pod(&mut self, address: Address) -> Result<(), MapError> {
        self.act("LOCAL_PODS", |maps| maps.delete_local_pod(address))
    }

    fn write_settings(&mut self, settings: &Settings) -> Result<(), MapError> {
        self.act("SETTINGS", |maps| maps.write_settings(settings))
    }

    fn grace(&mut self) -> Result<(), MapError> {
        self.act("SERVICES", FakeMaps::grace)
    }

    fn dump(&self) -> Result<Dump, MapError> {
        self.inner.dump()
    }

    fn sweep_flows(&mut self) -> Result<usize, MapError> {
        self.inner.sweep_flows()
    }

    fn usage(&self) -> Result<Vec<Usage>, MapError> {
        self.inner.usage()
    }

    fn counters(&self) -> Result<Vec<Counter>, MapError> {
        self.inner.counters()
    }
}
