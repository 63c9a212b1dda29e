//! What a cluster is to look like: its name, nodes, addresses and the programs on each node.
//!
//! Everything here is pure: names and addresses follow from the cluster's name and the node's
//! number alone, so that `down` can find what an `up` that was killed half-way has left.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The most nodes that one cluster may have; each is a containerd and a kubelet.
pub const MAX_NODES: u16 = 64;

/// The longest name of a cluster.
pub const MAX_NAME: usize = 32;

/// Where the folder that all nodes share is seen inside each node.
pub const SHARED_IN_NODE: &str = "/run/bowline/shared";

/// Where the folder of Bowline's binaries is seen (read-only) inside each node.
pub const BIN_IN_NODE: &str = "/run/bowline/bin";

/// Starts every name of ours on the machine: links, network namespaces, cgroups, nftables tables.
pub(crate) const PREFIX: &str = "bowline-";

/// What Linux leaves for an interface's name.
const MAX_LINK: usize = 15;

/// Why a plan can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The name would not do as part of a link's, cgroup's or folder's name.
    #[error(
        "cluster name {0:?} is not usable: 1 to {MAX_NAME} lower-case letters, digits and '-', \
         first a letter"
    )]
    Name(String),
    /// No node at all, or more than one machine should carry.
    #[error("a cluster of {0} nodes is not possible: choose 1 to {MAX_NODES}")]
    Nodes(u16),
    /// Too few addresses for the gateway and the nodes.
    #[error("subnet {subnet} has no room for {nodes} nodes and a gateway: choose a larger one")]
    Subnet {
        /// The subnet that was asked for.
        subnet: Ipv4Network,
        /// How many nodes it was to hold.
        nodes: u16,
    },
}

/// What the caller of [`Cluster::up`](crate::Cluster::up) chooses.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's name, part of every name of ours on the machine.
    pub name: String,
    /// How many nodes: `n1`, `n2` and so on.
    pub nodes: u16,
    /// Where all of the cluster's files are; [`default_state_dir`] when `None`.
    pub state_dir: Option<PathBuf>,
    /// The nodes' network: the host is its first address, then the nodes from the second on.
    /// `None` takes 192.168.77.0/24, or the next one that is free on this machine.
    pub subnet: Option<Ipv4Network>,
    /// The folder with Bowline's binaries, seen in every node at [`BIN_IN_NODE`].
    pub bin_dir: PathBuf,
    /// The program and first arguments that run [`node_init::main`](crate::node_init::main) with
    /// the path appended: `bowline local node-init`.
    pub init: Vec<OsString>,
}

impl Options {
    /// Options with the defaults, for the running executable as `EXE local node-init SPEC`.
    ///
    /// # Errors
    /// When the path of the running executable can't be read.
    pub fn new(name: impl Into<String>, nodes: u16) -> io::Result<Self> {
        let executable = std::env::current_exe()?;
        let bin_dir = executable.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self {
            name: name.into(),
            nodes,
            state_dir: None,
            subnet: None,
            bin_dir,
            init: vec![executable.into(), "local".into(), "node-init".into()],
        })
    }
}

/// A program that a node's PID 1 keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// Unique on its node; names the log file and the cgroup.
    pub name: String,
    /// Program and arguments; a bare program name is looked up in [`BIN_IN_NODE`], then the PATH.
    pub command: Vec<String>,
    /// Added to the node's small environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long after SIGTERM SIGKILL follows when the node stops.
    #[serde(default = "Unit::default_stop_timeout")]
    pub stop_timeout_ms: u64,
}

impl Unit {
    /// A unit without extra environment.
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        command: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            stop_timeout_ms: Self::default_stop_timeout(),
        }
    }

    const fn default_stop_timeout() -> u64 {
        10_000
    }
}

/// What runs on the nodes.
pub trait Workload: Sync {
    /// Called once before any node starts, with the state folder made: writes what the units
    /// need into [`Plan::shared_dir`] (certificates, tokens, images).
    ///
    /// # Errors
    /// Whatever keeps the cluster from starting.
    fn prepare(&self, plan: &Plan) -> io::Result<()> {
        let _ = plan;
        Ok(())
    }

    /// The units of one node, in the order of their start; they stop in the reverse order.
    fn units(&self, plan: &Plan, node: &NodePlan) -> Vec<Unit>;
}

/// A validated cluster: every name and address that `up` will use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The cluster's name.
    pub name: String,
    /// Absolute; holds everything that the cluster keeps on disk.
    pub state_dir: PathBuf,
    /// The nodes' network.
    pub subnet: Ipv4Network,
    /// The host's address in it: the nodes' default gateway and the "client outside the cluster".
    pub gateway: Ipv4Addr,
    /// The nodes, `n1` first.
    pub nodes: Vec<NodePlan>,
    /// Bowline's binaries on the host.
    pub bin_dir: PathBuf,
}

/// One node of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// `n1`, `n2` and so on; also the node's hostname.
    pub name: String,
    /// From 1.
    pub number: u16,
    /// The node's address in the cluster's subnet.
    pub address: Ipv4Addr,
    /// The node's cgroup in every hierarchy, below its root.
    pub cgroup: String,
}

/// `/var/lib/bowline/local/NAME`.
#[must_use]
pub fn default_state_dir(name: &str) -> PathBuf {
    Path::new("/var/lib/bowline/local").join(name)
}

impl Plan {
    /// Checks the options and fixes every name and address, on the given subnet.
    ///
    /// # Errors
    /// A [`PlanError`] that names what to change.
    pub fn new(options: &Options, subnet: Ipv4Network) -> Result<Self, PlanError> {
        check_name(&options.name)?;
        if options.nodes == 0 || options.nodes > MAX_NODES {
            return Err(PlanError::Nodes(options.nodes));
        }
        // Network, gateway and broadcast are not for nodes.
        if subnet.size() < u32::from(options.nodes) + 3 {
            return Err(PlanError::Subnet { subnet, nodes: options.nodes });
        }
        let first = u32::from(subnet.network());
        let nodes = (1..=options.nodes)
            .map(|number| NodePlan {
                name: format!("n{number}"),
                number,
                address: Ipv4Addr::from(first + 1 + u32::from(number)),
                cgroup: format!("{PREFIX}{}-n{number}", options.name),
            })
            .collect();
        Ok(Self {
            name: options.name.clone(),
            state_dir: options
                .state_dir
                .clone()
                .unwrap_or_else(|| default_state_dir(&options.name)),
            subnet,
            gateway: Ipv4Addr::from(first + 1),
            nodes,
            bin_dir: options.bin_dir.clone(),
        })
    }

    /// A folder seen by every node at [`SHARED_IN_NODE`], writable from all.
    #[must_use]
    pub fn shared_dir(&self) -> PathBuf {
        self.state_dir.join("shared")
    }

    /// The folder of one node's disk.
    #[must_use]
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.state_dir.join("nodes").join(node)
    }

    /// The host's link into the cluster's network.
    #[must_use]
    pub fn host_link(&self) -> String {
        host_link(&self.name)
    }
}

/// Checks a cluster's name alone, for commands that make no plan.
///
/// # Errors
/// [`PlanError::Name`].
pub fn check_name(name: &str) -> Result<(), PlanError> {
    let good = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if good { Ok(()) } else { Err(PlanError::Name(name.to_owned())) }
}

/// The host's link of a cluster: its name, or a part of the name's digest where that is too long.
pub(crate) fn host_link(name: &str) -> String {
    let plain = format!("{PREFIX}{name}");
    if plain.len() <= MAX_LINK {
        return plain;
    }
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{}", &hex[..MAX_LINK - PREFIX.len()])
}

/// The network namespace that holds the cluster's bridge, by the name that `ip netns` shows.
pub(crate) fn lan_netns(name: &str) -> String {
    format!("{PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str, nodes: u16) -> Options {
        Options {
            name: name.to_owned(),
            nodes,
            state_dir: None,
            subnet: None,
            bin_dir: "/bin".into(),
            init: Vec::new(),
        }
    }

    fn subnet(text: &str) -> Ipv4Network {
        text.parse().expect("a subnet")
    }

    #[test]
    fn the_host_comes_first_and_the_nodes_follow() {
        let plan =
            Plan::new(&options("local", 3), subnet("192.168.77.0/24")).expect("a plan of three");
        assert_eq!(plan.gateway.to_string(), "192.168.77.1");
        let addresses: Vec<_> = plan.nodes.iter().map(|n| n.address.to_string()).collect();
        assert_eq!(addresses, ["192.168.77.2", "192.168.77.3", "192.168.77.4"]);
        assert_eq!(plan.nodes[2].cgroup, "bowline-local-n3");
    }

    #[test]
    fn link_names_fit_and_differ() {
        assert_eq!(host_link("local"), "bowline-local");
        let (a, b) = (host_link("a-rather-long-name"), host_link("a-rather-long-nama"));
        assert!(a.len() <= MAX_LINK && a != b, "{a} {b}");
    }

    #[test]
    fn names_that_would_leave_the_state_folder_are_refused() {
        for name in ["", "../x", "a/b", "-a", "A", "1a", &"a".repeat(MAX_NAME + 1)] {
            assert!(check_name(name).is_err(), "{name:?} passed");
        }
    }

    #[test]
    fn a_subnet_without_room_is_refused() {
        let result = Plan::new(&options("local", 6), subnet("10.0.0.0/29"));
        assert!(matches!(result, Err(PlanError::Subnet { .. })));
        assert!(Plan::new(&options("local", 5), subnet("10.0.0.0/29")).is_ok());
    }
}
