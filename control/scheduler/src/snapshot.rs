//! The scheduler's picture of the cluster: nodes, the pods on them, and what those take. Pure.
//!
//! A pod counts on a node from the moment that the scheduler chose the node (it is *assumed*), not
//! only when the API says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bowline_api::informer::Key;
use bowline_api::matching::Labels;
use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, Pod, PodAffinity, PodAntiAffinity, PodSpec, Taint, Toleration,
};
use kube::Resource;

use crate::resources::{self, Resources};

/// A host port that a pod takes: address, protocol, port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

/// A pod with what the plugins ask of it, worked out once.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Resources,
    pub(crate) score_requests: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) priority: i32,
    /// UID of the controller, for default spreading.
    pub(crate) owner: Option<String>,
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let owners = pod.meta().owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller == Some(true));
        Self {
            key: Key::of(pod.as_ref()),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            requests: resources::requests(&pod),
            score_requests: resources::score_requests(&pod),
            ports: host_ports(&pod),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            owner: owner.map(|owner| owner.uid.clone()),
            pod,
        }
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    pub(crate) fn node_affinity(&self) -> Option<&NodeAffinity> {
        self.spec()?.affinity.as_ref()?.node_affinity.as_ref()
    }

    pub(crate) fn affinity(&self) -> Option<&PodAffinity> {
        self.spec()?.affinity.as_ref()?.pod_affinity.as_ref()
    }

    pub(crate) fn anti_affinity(&self) -> Option<&PodAntiAffinity> {
        self.spec()?.affinity.as_ref()?.pod_anti_affinity.as_ref()
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    spec.iter()
        .flat_map(|spec| &spec.containers)
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                address: port
                    .host_ip
                    .clone()
                    .filter(|ip| !ip.is_empty())
                    .unwrap_or("0.0.0.0".into()),
                protocol: port.protocol.clone().unwrap_or("TCP".into()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

/// A node and what its pods take of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeInfo {
    pub(crate) name: String,
    /// None while only its pods are known.
    pub(crate) node: Arc<Node>,
    pub(crate) known: bool,
    pub(crate) allocatable: Resources,
    pub(crate) max_pods: i64,
    pub(crate) pods: Vec<Arc<PodInfo>>,
    pub(crate) requested: Resources,
    pub(crate) score_requested: Resources,
}

impl NodeInfo {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        (self.allocatable, self.max_pods) = resources::allocatable(&node);
        self.node = node;
        self.known = true;
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.score_requested.add(&pod.score_requests);
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(place) = self.pods.iter().position(|pod| pod.uid == uid) {
            let pod = self.pods.swap_remove(place);
            self.requested.subtract(&pod.requests);
            self.score_requested.subtract(&pod.score_requests);
        }
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.node.metadata.labels.as_ref()
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }
}

/// All nodes by name, and where each pod is.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    /// UID -> node name.
    places: HashMap<String, String>,
    namespaces: HashMap<String, Labels>,
}

impl Cluster {
    /// Nodes that exist, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.known)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|node| node.known)
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = (&NodeInfo, &Arc<PodInfo>)> {
        self.nodes().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }

    pub(crate) fn set_node(&mut self, name: &str, node: Option<Arc<Node>>) {
        match node {
            Some(node) => {
                let info = self.nodes.entry(name.to_owned()).or_insert_with(|| NodeInfo::new(name));
                info.set_node(node);
            }
            None => {
                if let Some(info) = self.nodes.get_mut(name) {
                    info.known = false;
                    if info.pods.is_empty() {
                        self.nodes.remove(name);
                    }
                }
            }
        }
    }

    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    pub(crate) fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Puts the pod on the node, and takes it off any other.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        self.places.insert(pod.uid.clone(), node.to_owned());
        self.nodes.entry(node.to_owned()).or_insert_with(|| NodeInfo::new(node)).add(pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        let Some(name) = self.places.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&name) {
            info.remove(uid);
            if info.pods.is_empty() && !info.known {
                self.nodes.remove(&name);
            }
        }
        true
    }

    pub(crate) fn place_of(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(String::as_str)
    }
}
