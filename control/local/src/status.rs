//! What a cluster looks like now, for `bowline local status -o json`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnetwork::Ipv4Network;
use serde::Serialize;

/// A whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The cluster's name.
    pub name: String,
    /// Everything that it keeps on disk.
    pub state_dir: PathBuf,
    /// Shared by the host and all nodes.
    pub shared_dir: PathBuf,
    /// The nodes' network.
    pub subnet: Ipv4Network,
    /// The host in that network.
    pub gateway: Ipv4Addr,
    /// The host's link into it.
    pub host_link: String,
    /// The network namespace with the bridge, as `ip netns` names it.
    pub netns: String,
    /// Bytes on disk under `state_dir`.
    pub disk_bytes: u64,
    /// In the order of their numbers.
    pub nodes: Vec<NodeStatus>,
}

/// Whether a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// PID 1 of the node lives.
    Running,
    /// It does not: crashed, or not yet booted.
    Down,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// `n1`, `n2` and so on.
    pub name: String,
    /// In the cluster's subnet.
    pub address: Ipv4Addr,
    /// Whether PID 1 lives.
    pub state: NodeState,
    /// PID 1 of the node, as the host numbers it; enter the node with `nsenter -t`.
    pub init_pid: Option<i32>,
    /// Processes in the node, containers included.
    pub processes: usize,
    /// Resident bytes of all of them together, shared pages counted once for each.
    pub resident_bytes: u64,
    /// The node's cgroup below the root of every hierarchy.
    pub cgroup: String,
    /// The node's disk.
    pub dir: PathBuf,
    /// Bytes on it.
    pub disk_bytes: u64,
    /// containerd's socket as seen inside the node.
    pub containerd_socket: PathBuf,
    /// The same socket as the host can open it, while the node runs.
    pub containerd_socket_on_host: Option<PathBuf>,
    /// In the order of their start.
    pub units: Vec<UnitStatus>,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    /// Unique on its node.
    pub name: String,
    /// As the host numbers it; `None` between two runs.
    pub pid: Option<i32>,
    /// How often it was started again since the node's boot.
    pub restarts: u64,
    /// Its output.
    pub log: PathBuf,
}
