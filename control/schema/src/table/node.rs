//! Nodes.

use serde_json::Value;

use super::Cells;
use super::cell::{NONE, Row, UNKNOWN, join_or, text_of};

pub(super) const LAYOUT: (&str, Cells) = (
    "Name|Status|Roles|Age|Version|Internal-IP+|External-IP+|OS-Image+|Kernel-Version+\
     |Container-Runtime+",
    cells,
);

fn cells(row: &Row<'_>) -> Vec<Value> {
    let mut status = match row.condition("Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    }
    .to_owned();
    if row.at("/spec/unschedulable") == true {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| -> Value {
        let found = row.list("/status/addresses").iter().find(|a| a["type"] == kind);
        found.map_or(NONE, |a| text_of(a, "address")).into()
    };
    vec![
        row.name(),
        status.into(),
        join_or(&roles(row), NONE).into(),
        row.age(),
        row.text("/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        row.or("/status/nodeInfo/osImage", UNKNOWN),
        row.or("/status/nodeInfo/kernelVersion", UNKNOWN),
        row.or("/status/nodeInfo/containerRuntimeVersion", UNKNOWN),
    ]
}

fn roles(row: &Row<'_>) -> Vec<String> {
    let mut roles = Vec::new();
    for (label, value) in row.at("/metadata/labels").as_object().into_iter().flatten() {
        if let Some(role) = label.strip_prefix("node-role.kubernetes.io/") {
            roles.push(role.to_owned());
        } else if label == "kubernetes.io/role" {
            roles.extend(value.as_str().map(str::to_owned));
        }
    }
    roles.retain(|r| !r.is_empty());
    roles.sort();
    roles.dedup();
    roles
}
