//! Clusters of namespaced nodes on one machine, without Docker or virtual machines.
//!
//! A node is its own net, mount, cgroup, uts, ipc and pid namespaces, held by a small init
//! ([`node_init`]) that mounts the node's private folders and keeps its units running. The nodes
//! meet on a bridge in a network namespace of its own, which one veth joins to the host: the host
//! is the nodes' gateway and the "client outside the cluster".
//!
//! ```text
//!  Cluster::up(options, workload)          record (cluster.json) before every act
//!    ├─ lan          bridge, host veth, masquerade
//!    └─ node n1..nN  node-init SPEC: cgroups → namespaces → mounts → network → units
//! ```
//!
//! The crate also holds what the agent and the CLI share: [`containerd`] (configure, start, adopt,
//! restart) and [`image`] (deterministic OCI archives without a registry).

mod cgroup;
mod cluster;
pub mod containerd;
pub mod image;
mod logs;
mod machine;
mod mountinfo;
mod net;
mod node;
pub mod node_init;
mod plan;
mod process;
mod progress;
mod record;
mod remove;
mod status;
mod sys;

pub use cgroup::CgroupError;
pub use cluster::{Cluster, Error, Up};
pub use net::lan::LanError;
pub use node::{Node, NodeError};
pub use plan::{
    BIN_IN_NODE, MAX_NAME, MAX_NODES, NodePlan, Options, Plan, PlanError, SHARED_IN_NODE, Unit,
    Workload, check_name, default_state_dir,
};
pub use progress::{Progress, Silent};
pub use remove::RemoveError;
pub use status::{NodeState, NodeStatus, Status, UnitStatus};
