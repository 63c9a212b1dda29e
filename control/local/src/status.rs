//! What a cluster looks like now, for `bowline local status -o json`.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnetwork::Ipv4Network;
use serde::Serialize;

use crate::cgroup::Layout;
use crate::cluster::{Cluster, Error};
use crate::containerd;
use crate::node::Node;
use crate::plan;
use crate::process::{find_init, node_pid, resident_bytes};

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
    /// Bytes on disk: the nodes' and what they share.
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

/// What st_blocks counts in.
const BLOCK_BYTES: u64 = 512;

pub(crate) fn of(cluster: &Cluster) -> Result<Status, Error> {
    let layout = Layout::read()?;
    let plan = cluster.plan();
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node_status(node, &layout)).collect();
    let of_nodes: u64 = nodes.iter().map(|node| node.disk_bytes).sum();
    Ok(Status {
        name: plan.name.clone(),
        state_dir: plan.state_dir.clone(),
        shared_dir: plan.shared_dir(),
        subnet: plan.subnet,
        gateway: plan.gateway,
        host_link: plan.host_link(),
        netns: plan::lan_netns(&plan.name),
        disk_bytes: of_nodes + disk_bytes(&plan.shared_dir()),
        nodes,
    })
}

fn node_status(node: &Node, layout: &Layout) -> NodeStatus {
    let plan = node.plan();
    let init_pid = find_init(layout, &plan.cgroup);
    let members = layout.members(&plan.cgroup);
    let socket = containerd::Config::default().socket;
    let on_host =
        init_pid.map(|pid| PathBuf::from(format!("/proc/{pid}/root{}", socket.display())));
    let host_pid = |pid: i32| members.iter().copied().find(|&member| node_pid(member) == Some(pid));
    let units = node.unit_records().into_iter().map(|unit| UnitStatus {
        pid: unit.pid.and_then(host_pid),
        restarts: unit.restarts,
        log: node.dir().join("logs").join(format!("{}.log", unit.name)),
        name: unit.name,
    });
    NodeStatus {
        name: plan.name.clone(),
        address: plan.address,
        state: if init_pid.is_some() { NodeState::Running } else { NodeState::Down },
        init_pid,
        processes: members.len(),
        resident_bytes: members.iter().map(|&pid| resident_bytes(pid)).sum(),
        cgroup: plan.cgroup.clone(),
        dir: node.dir(),
        disk_bytes: disk_bytes(&node.dir()),
        containerd_socket: socket,
        containerd_socket_on_host: on_host.filter(|path| path.exists()),
        units: units.collect(),
    }
}

/// What a folder takes on the disk. Files that vanish meanwhile count nothing.
fn disk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => data.blocks() * BLOCK_BYTES + disk_bytes(&entry.path()),
            Ok(data) => data.blocks() * BLOCK_BYTES,
            Err(_) => 0,
        })
        .sum()
}
