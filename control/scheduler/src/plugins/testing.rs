//! Small pods and nodes for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::snapshot::{NodeInfo, PodInfo};

/// A pod in `default` that requests `requests`.
pub(crate) fn pod(name: &str, requests: Value) -> PodInfo {
    pod_of(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}))
}

pub(crate) fn pod_of(value: Value) -> PodInfo {
    PodInfo::new(Arc::new(serde_json::from_value(value).expect("a valid pod")))
}

/// A node that has `allocatable` and its name as hostname label.
pub(crate) fn node(name: &str, allocatable: Value) -> NodeInfo {
    node_of(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": allocatable}}))
}

pub(crate) fn node_of(value: Value) -> NodeInfo {
    let node: k8s_openapi::api::core::v1::Node =
        serde_json::from_value(value).expect("a valid node");
    let mut info = NodeInfo::new(node.metadata.name.as_deref().unwrap_or_default());
    info.set_node(Arc::new(node));
    info
}
