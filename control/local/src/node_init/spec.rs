//! What a node's PID 1 is told: a JSON file in the node's folder.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::{NodePlan, Plan, Unit};

/// The node of one [`NodePlan`] with everything around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// The node's hostname, and the name of its port on the bridge.
    pub(crate) name: String,
    /// In the cluster's network.
    pub(crate) address: Ipv4Addr,
    /// Of the cluster's network.
    pub(crate) prefix: u8,
    /// The host in the cluster's network.
    pub(crate) gateway: Ipv4Addr,
    /// The file of the network namespace with the bridge.
    pub(crate) lan: PathBuf,
    /// The node's group in every cgroup hierarchy.
    pub(crate) cgroup: String,
    /// The node's folder on the host: `disk/`, `overlay/`, `logs/`, this spec.
    pub(crate) dir: PathBuf,
    /// Seen by all nodes of the cluster.
    pub(crate) shared: PathBuf,
    /// Bowline's binaries on the host.
    pub(crate) bin: PathBuf,
    /// `/etc/hosts` with the names of all nodes.
    pub(crate) hosts: String,
    /// What to keep running.
    pub(crate) units: Vec<Unit>,
}

impl Spec {
    pub(crate) fn new(plan: &Plan, node: &NodePlan, lan: PathBuf, units: Vec<Unit>) -> Self {
        Self {
            name: node.name.clone(),
            address: node.address,
            prefix: plan.subnet.prefix(),
            gateway: plan.gateway,
            lan,
            cgroup: node.cgroup.clone(),
            dir: plan.node_dir(&node.name),
            shared: plan.shared_dir(),
            bin: plan.bin_dir.clone(),
            hosts: hosts_file(&plan.nodes),
            units,
        }
    }

    /// Where the spec of a node is kept, below the node's folder.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("spec.json")
    }

    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::from)
    }
}

/// `/etc/hosts` of every node.
pub(crate) fn hosts_file(nodes: &[NodePlan]) -> String {
    let names = nodes.iter().map(|node| format!("{} {}\n", node.address, node.name));
    "127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_owned() + &names.collect::<String>()
}
