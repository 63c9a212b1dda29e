//! `bowline-proxy services|backends|maps`: what the pinned maps say, for people and for scripts.
//!
//! Reads the maps alone; the agent need not run. Not a snapshot: a change under way may show half.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use bowline_abi::{
    Address, BACKEND_FREE, BACKEND_LOCAL, BACKEND_READY, KIND_CLUSTER_IP, KIND_EXTERNAL_IP,
    KIND_LOAD_BALANCER, KIND_NODE_PORT,
};
use serde::Serialize;

use crate::maps::{Dump, Usage};
use crate::model::Protocol;

/// A frontend and the backends that its service port leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub address: String,
    pub port: u16,
    pub protocol: String,
    pub kind: &'static str,
    pub id: u32,
    pub backends: Vec<String>,
    /// Those of this node, kept where a traffic policy is Local.
    pub local_backends: Vec<String>,
    pub affinity_seconds: u32,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    pub index: u32,
    pub address: String,
    pub state: &'static str,
    pub local: bool,
    pub service: u32,
    pub generation: u32,
}

/// The service table, sorted by frontend.
pub fn services(dump: &Dump) -> Vec<ServiceRow> {
    let backends: BTreeMap<u32, String> = dump
        .backends
        .iter()
        .map(|(index, b)| (index.0, endpoint(b.address, u16::from_be(b.port))))
        .collect();
    let slots: BTreeMap<u32, u32> = dump.slots.iter().map(|(s, b)| (s.0, b.0)).collect();
    let range = |first: u32, count: u32| -> Vec<String> {
        let indices = (first..first + count).filter_map(|slot| slots.get(&slot));
        indices.map(|index| backends.get(index).cloned().unwrap_or_default()).collect()
    };
    let descriptors: BTreeMap<_, _> = dump.services.iter().map(|(id, _, d)| (id.0, *d)).collect();
    let row = |(key, frontend): &(bowline_abi::FrontendKey, bowline_abi::Frontend)| {
        let descriptor = descriptors.get(&frontend.service).copied().unwrap_or_default();
        let protocol = Protocol::from_number(key.protocol);
        ServiceRow {
            address: address(key.address),
            port: u16::from_be(key.port),
            protocol: protocol.map_or_else(|| key.protocol.to_string(), |p| p.to_string()),
            kind: kind(frontend.kind),
            id: frontend.service,
            backends: range(descriptor.all_first, descriptor.all_count),
            local_backends: range(descriptor.local_first, descriptor.local_count),
            affinity_seconds: descriptor.affinity_seconds,
        }
    };
    dump.frontends.iter().map(row).collect()
}

/// All backends in use, by index.
pub fn backends(dump: &Dump) -> Vec<BackendRow> {
    let used = dump.backends.iter().filter(|(_, b)| b.state != BACKEND_FREE);
    used.map(|(index, b)| BackendRow {
        index: index.0,
        address: endpoint(b.address, u16::from_be(b.port)),
        state: if b.state == BACKEND_READY { "ready" } else { "terminating" },
        local: b.flags & BACKEND_LOCAL != 0,
        service: b.service,
        generation: b.generation,
    })
    .collect()
}

pub fn services_table(rows: &[ServiceRow]) -> String {
    let header = ["FRONTEND", "PROTOCOL", "KIND", "ID", "BACKENDS"];
    let cells = rows.iter().map(|row| {
        let shown = if row.backends.is_empty() { "<none>".into() } else { row.backends.join(",") };
        let frontend = match row.address.contains(':') {
            true => format!("[{}]:{}", row.address, row.port),
            false => format!("{}:{}", row.address, row.port),
        };
        [frontend, row.protocol.clone(), row.kind.into(), row.id.to_string(), shown]
    });
    table(header, cells)
}

pub fn backends_table(rows: &[BackendRow]) -> String {
    let header = ["INDEX", "ADDRESS", "STATE", "LOCAL", "SERVICE", "GENERATION"];
    let cells = rows.iter().map(|row| {
        [
            row.index.to_string(),
            row.address.clone(),
            row.state.into(),
            row.local.to_string(),
            row.service.to_string(),
            row.generation.to_string(),
        ]
    });
    table(header, cells)
}

pub fn maps_table(rows: &[Usage]) -> String {
    let cells = rows.iter().map(|row| {
        let entries = row.entries.map_or_else(|| "-".into(), |entries| entries.to_string());
        let bytes = row.bytes.to_string();
        [row.name.into(), row.kind.into(), entries, row.capacity.to_string(), bytes]
    });
    table(["MAP", "TYPE", "ENTRIES", "CAPACITY", "BYTES"], cells)
}

/// Columns as wide as their widest cell, three spaces apart, as kubectl prints them.
fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut all = vec![header.map(str::to_owned)];
    all.extend(rows);
    let width = |column: usize| all.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _infallible = write!(line, "{cell:<width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn address(address: Address) -> String {
    match address {
        Address::WILDCARD_V4 | Address::WILDCARD_V6 => "*".into(),
        address => IpAddr::from(address).to_string(),
    }
}

fn endpoint(address: Address, port: u16) -> String {
    std::net::SocketAddr::new(address.into(), port).to_string()
}

fn kind(kind: u32) -> &'static str {
    match kind {
        KIND_CLUSTER_IP => "ClusterIP",
        KIND_NODE_PORT => "NodePort",
        KIND_EXTERNAL_IP => "ExternalIP",
        KIND_LOAD_BALANCER => "LoadBalancer",
        _ => "unknown",
    }
}
