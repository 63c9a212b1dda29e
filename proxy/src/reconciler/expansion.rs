//! From a row of the table to the keys and values of the maps: pure.

use bowline_abi::{
    Address, BACKEND_LOCAL, BACKEND_READY, BACKEND_TERMINATING, DESCRIPTOR_AFFINITY,
    DESCRIPTOR_EXTERNAL_LOCAL, DESCRIPTOR_INTERNAL_LOCAL, DESCRIPTOR_SOURCE_RANGES, Descriptor,
    FrontendKey, KIND_CLUSTER_IP, KIND_EXTERNAL_IP, KIND_LOAD_BALANCER, KIND_NODE_PORT,
    MAX_SLOTS_PER_RANGE, SourceRangeKey, VIP_CLUSTER_IP, VIP_EXTERNAL,
};

use crate::model::{Condition, Family, ServicePortName, TrafficPolicy};
use crate::writer::{Backend, Frontend, FrontendKind, ServicePort};

/// The FRONTENDS rows of a service port: key and `KIND_`.
pub(super) fn frontends<'a>(
    name: &'a ServicePortName,
    row: &'a ServicePort,
) -> impl Iterator<Item = (FrontendKey, u32)> + 'a {
    row.frontends.iter().map(|frontend| (key(name, frontend), kind(frontend.kind)))
}

/// The SOURCE_RANGES rows of a service port.
pub(super) fn source_ranges(id: u32, row: &ServicePort) -> impl Iterator<Item = SourceRangeKey> {
    row.source_ranges
        .iter()
        .map(move |range| SourceRangeKey::new(id, Address::from(range.network()), range.prefix()))
}

/// The VIPS flag that a frontend's address gets by its kind; none for a node port, whose addresses
/// are the node's own.
pub(super) fn vip_flag(kind: u32) -> Option<u32> {
    match kind {
        KIND_CLUSTER_IP => Some(VIP_CLUSTER_IP),
        KIND_NODE_PORT => None,
        _ => Some(VIP_EXTERNAL),
    }
}

/// A backend's state in BACKENDS; None where it needs no place there (one that was ready before
/// keeps the place that it has, for its connections).
pub(super) fn backend_state(backend: &Backend) -> Option<u32> {
    match backend.condition {
        Condition::Ready => Some(BACKEND_READY),
        Condition::ServingTerminating => Some(BACKEND_TERMINATING),
        Condition::NotReady => None,
    }
}

pub(super) fn backend_flags(backend: &Backend) -> u16 {
    if backend.local { BACKEND_LOCAL } else { 0 }
}

/// The two slot ranges' contents, as indices into the row's backends. The local one is kept only
/// where a policy asks for it.
pub(super) fn ranges(row: &ServicePort) -> (&[u32], &[u32]) {
    let policies = row.policies;
    let uses_local = [policies.internal, policies.external].contains(&TrafficPolicy::Local);
    let bounded = |all: &'_ [u32]| all.len().min(MAX_SLOTS_PER_RANGE as usize);
    let local = if uses_local { &row.local[..bounded(&row.local)] } else { &[] };
    (&row.cluster[..bounded(&row.cluster)], local)
}

/// The descriptor of a row, its ranges' places still open.
pub(super) fn descriptor(id: u32, row: &ServicePort) -> Descriptor {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let (all, local) = ranges(row);
    Descriptor {
        service: id,
        flags: flag(row.affinity_seconds > 0, DESCRIPTOR_AFFINITY)
            | flag(row.policies.internal == TrafficPolicy::Local, DESCRIPTOR_INTERNAL_LOCAL)
            | flag(row.policies.external == TrafficPolicy::Local, DESCRIPTOR_EXTERNAL_LOCAL)
            | flag(!row.source_ranges.is_empty(), DESCRIPTOR_SOURCE_RANGES),
        all_count: all.len() as u32,
        local_count: local.len() as u32,
        algorithm: bowline_abi::ALGORITHM_RANDOM,
        affinity_seconds: row.affinity_seconds,
        endpoints: row.cluster.len() as u32,
        ..Descriptor::default()
    }
}

fn key(name: &ServicePortName, frontend: &Frontend) -> FrontendKey {
    let address = match (frontend.address, name.family) {
        (Some(address), _) => address.into(),
        (None, Family::V4) => Address::WILDCARD_V4,
        (None, Family::V6) => Address::WILDCARD_V6,
    };
    FrontendKey::new(address, frontend.port, name.protocol.number())
}

fn kind(kind: FrontendKind) -> u32 {
    match kind {
        FrontendKind::ClusterIp => KIND_CLUSTER_IP,
        FrontendKind::ExternalIp => KIND_EXTERNAL_IP,
        FrontendKind::LoadBalancer => KIND_LOAD_BALANCER,
        FrontendKind::NodePort => KIND_NODE_PORT,
    }
}
