//! From a Service and its slices to the rows of its ports: pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::claims::Claims;
use super::{Backend, Frontend, FrontendAddress, FrontendKind, ServicePort};
use crate::model::{
    Condition, Family, NodeView, ObjectName, PortConfig, ServiceConfig, ServicePortName, Slice,
};
use crate::select::{self, Endpoint, Policies};

/// All frontends of a Service, as clients name them.
pub(super) fn claims_of(config: &ServiceConfig) -> Vec<FrontendAddress> {
    let mut all = Vec::new();
    for port in &config.ports {
        for family in families(config) {
            all.extend(frontends(config, port, family).map(|f| address_of(f, port, family)));
        }
    }
    all.sort();
    all.dedup();
    all
}

/// The rows of a Service's ports. A frontend that belongs to another Service is left out.
pub(super) fn rows<'a>(
    service: &ObjectName,
    config: &ServiceConfig,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &NodeView,
    claims: &Claims,
) -> Vec<(ServicePortName, ServicePort)> {
    let mut rows = Vec::new();
    for family in families(config) {
        for port in &config.ports {
            let mut mine: Vec<Frontend> = frontends(config, port, family)
                .filter(|f| claims.owns(service, &address_of(*f, port, family)))
                .collect();
            mine.sort();
            // One address may be named twice (an external IP that is also the load balancer's): the
            // first kind in their order has it.
            mine.sort_by_key(|f| (f.address, f.port));
            mine.dedup_by_key(|f| (f.address, f.port));
            mine.sort();
            let name = ServicePortName {
                service: service.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
                family,
            };
            let row = row(config, &name, mine.into(), slices.clone(), node);
            rows.push((name, row));
        }
    }
    rows
}

/// How many endpoint addresses of this node are ready, for the load balancer's health check.
pub(super) fn local_ready<'a>(slices: impl Iterator<Item = &'a Slice>, node: &NodeView) -> usize {
    let mut addresses: Vec<IpAddr> = slices
        .flat_map(|slice| slice.endpoints.iter())
        .filter(|e| e.condition == Condition::Ready && e.node.as_deref() == Some(&*node.name))
        .map(|e| e.address)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.len()
}

fn row<'a>(
    config: &ServiceConfig,
    name: &ServicePortName,
    frontends: Box<[Frontend]>,
    slices: impl Iterator<Item = &'a Slice>,
    node: &NodeView,
) -> ServicePort {
    let endpoints = endpoints(name, slices);
    let reachable = select::reachable(&endpoints, node);
    let backend = |e: &Endpoint| Backend {
        address: e.address,
        condition: e.condition,
        local: e.node.as_deref() == Some(&*node.name),
    };
    let mut source_ranges: Vec<_> = config.source_ranges.clone();
    source_ranges.retain(|range| Family::of(range.ip()) == name.family);
    source_ranges.sort();
    source_ranges.dedup();
    ServicePort {
        frontends,
        backends: endpoints.iter().map(backend).collect(),
        cluster: reachable.cluster.iter().map(|&i| i as u32).collect(),
        local: reachable.local.iter().map(|&i| i as u32).collect(),
        policies: Policies { internal: config.internal_policy, external: config.external_policy },
        affinity_seconds: config.affinity_seconds,
        source_ranges: source_ranges.into(),
    }
}

/// The endpoints of one service port from all slices, sorted by address. One that two slices hold
/// (as they do while it moves from one to the other) counts once, in its better condition.
fn endpoints<'a>(name: &ServicePortName, slices: impl Iterator<Item = &'a Slice>) -> Vec<Endpoint> {
    let mut all: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == name.family) {
        let port = slice.ports.iter().find(|p| p.name == name.port && p.protocol == name.protocol);
        let Some(port) = port else { continue };
        for e in &slice.endpoints {
            let address = SocketAddr::new(e.address, port.port);
            let new = Endpoint {
                address,
                condition: e.condition,
                node: e.node.clone(),
                node_hints: e.node_hints.clone(),
                zone_hints: e.zone_hints.clone(),
            };
            match all.get_mut(&address) {
                Some(old) if new.condition < old.condition => *old = new,
                Some(_) => {}
                None => {
                    all.insert(address, new);
                }
            }
        }
    }
    all.into_values().collect()
}

/// The families of a Service's cluster addresses; its external addresses are served for those only,
/// as there are endpoints of no other.
fn families(config: &ServiceConfig) -> impl Iterator<Item = Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| config.cluster_ips.iter().any(|ip| Family::of(*ip) == *family))
}

fn frontends(
    config: &ServiceConfig,
    port: &PortConfig,
    family: Family,
) -> impl Iterator<Item = Frontend> {
    let number = port.port;
    let kind = move |kind: FrontendKind, addresses: &[IpAddr]| {
        let of_family = addresses.iter().filter(|ip| Family::of(**ip) == family);
        let all: Vec<_> =
            of_family.map(|ip| Frontend { kind, address: Some(*ip), port: number }).collect();
        all
    };
    let node_port = (port.node_port != 0).then_some(Frontend {
        kind: FrontendKind::NodePort,
        address: None,
        port: port.node_port,
    });
    kind(FrontendKind::ClusterIp, &config.cluster_ips)
        .into_iter()
        .chain(kind(FrontendKind::ExternalIp, &config.external_ips))
        .chain(kind(FrontendKind::LoadBalancer, &config.load_balancer_ips))
        .chain(node_port)
}

fn address_of(frontend: Frontend, port: &PortConfig, family: Family) -> FrontendAddress {
    FrontendAddress {
        address: frontend.address,
        port: frontend.port,
        protocol: port.protocol,
        family,
    }
}
