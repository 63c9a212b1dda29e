//! Services written straight into the maps, by the rules of the writer.

use std::net::{IpAddr, SocketAddr};

use bowline_proxy::maps::abi::*;
use bowline_proxy::maps::{BackendIndex, DescriptorIndex, Maps, ServiceId, SlotIndex};

/// A service port and the indices that are its own: `id * SHARE` onwards in every array.
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) affinity_seconds: u32,
    /// Endpoints that are in no range (elsewhere, under a local policy).
    pub(crate) elsewhere: u32,
    generation: u32,
}

/// Indices of each array that belong to one service.
const SHARE: u32 = 64;

/// Where a backend is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    Elsewhere,
}

impl Service {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, flags: 0, affinity_seconds: 0, elsewhere: 0, generation: 0 }
    }

    /// Makes these the backends. Every call takes the other half of the service's indices, after a
    /// grace period, and raises the generation.
    pub(crate) fn set(&mut self, maps: &mut impl Maps, backends: &[(SocketAddr, Place)]) {
        maps.grace().expect("grace");
        self.generation += 1;
        let base = self.id * SHARE + (self.generation % 2) * (SHARE / 2);
        let mut indices = Vec::new();
        let mut local = Vec::new();
        for (index, (address, place)) in (base + 1..).zip(backends) {
            let backend = Backend {
                address: address.ip().into(),
                port: address.port().to_be(),
                flags: if *place == Place::Here { BACKEND_LOCAL } else { 0 },
                state: BACKEND_READY,
                service: self.id,
                generation: self.generation,
            };
            maps.write_backend(BackendIndex(index), &backend).expect("write a backend");
            indices.push(BackendIndex(index));
            if *place == Place::Here {
                local.push(BackendIndex(index));
            }
        }
        maps.write_slots(SlotIndex(base), &indices).expect("write slots");
        let local_first = base + indices.len() as u32;
        maps.write_slots(SlotIndex(local_first), &local).expect("write slots");
        let descriptor = Descriptor {
            service: self.id,
            flags: self.flags,
            all_first: base,
            all_count: indices.len() as u32,
            local_first,
            local_count: local.len() as u32,
            affinity_seconds: self.affinity_seconds,
            endpoints: indices.len() as u32 + self.elsewhere,
            ..Descriptor::default()
        };
        let index = DescriptorIndex(2 * self.id + self.generation % 2);
        maps.write_descriptor(index, &descriptor).expect("write a descriptor");
        maps.flip(ServiceId(self.id), index).expect("flip");
        self.free_other_half(maps);
    }

    fn free_other_half(&self, maps: &mut impl Maps) {
        let base = self.id * SHARE + (self.generation + 1) % 2 * (SHARE / 2);
        for index in base + 1..base + SHARE / 2 {
            maps.set_backend_state(BackendIndex(index), BACKEND_FREE).expect("free a backend");
        }
    }

    /// Makes it reachable at a cluster IP.
    pub(crate) fn at(&self, maps: &mut impl Maps, address: &str, protocol: u8) {
        let address: SocketAddr = address.parse().expect("a literal address");
        maps.insert_vip(address.ip().into(), VIP_CLUSTER_IP).expect("insert a VIP");
        self.frontend(maps, address.ip().into(), address.port(), protocol, KIND_CLUSTER_IP);
    }

    /// Makes it reachable at a node port of both families.
    pub(crate) fn at_node_port(&self, maps: &mut impl Maps, port: u16, protocol: u8) {
        for wildcard in [Address::WILDCARD_V4, Address::WILDCARD_V6] {
            self.frontend(maps, wildcard, port, protocol, KIND_NODE_PORT);
        }
    }

    pub(crate) fn frontend(
        &self,
        maps: &mut impl Maps,
        address: Address,
        port: u16,
        protocol: u8,
        kind: u32,
    ) {
        let key = FrontendKey::new(address, port, protocol);
        maps.insert_frontend(&key, &Frontend { service: self.id, kind }).expect("a frontend");
    }
}

/// A literal address.
pub(crate) fn addr(text: &str) -> Address {
    text.parse::<IpAddr>().expect("a literal address").into()
}

/// A literal backend on this node.
pub(crate) fn here(text: &str) -> (SocketAddr, Place) {
    (text.parse().expect("a literal address"), Place::Here)
}

/// A literal backend on another node.
pub(crate) fn elsewhere(text: &str) -> (SocketAddr, Place) {
    (text.parse().expect("a literal address"), Place::Elsewhere)
}
