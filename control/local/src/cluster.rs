//! The cluster as a whole: up, down, status, load.

use std::path::{Path, PathBuf};

use crate::node::Node;
use crate::plan::{Options, Plan, PlanError, Workload};
use crate::progress::Progress;
use crate::status::Status;

/// Why an act on a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options don't make a cluster.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// A cluster that exists on this machine.
#[derive(Debug, Clone)]
pub struct Cluster {
    plan: Plan,
}

/// What [`Cluster::up`] did.
#[derive(Debug)]
pub struct Up {
    /// The running cluster.
    pub cluster: Cluster,
    /// The nodes that were booted; empty when the cluster ran already.
    pub booted: Vec<String>,
}

impl Cluster {
    /// Makes the cluster, or completes one that is there in part. A running one is left as it is.
    ///
    /// # Errors
    /// Names what could not be done; `down` removes whatever was made until then.
    pub fn up(
        options: &Options,
        workload: &dyn Workload,
        progress: &dyn Progress,
    ) -> Result<Up, Error> {
        let _ = (options, workload, progress);
        unreachable!("thin body")
    }

    /// Removes everything of the cluster of that name. Succeeds when there is none.
    ///
    /// # Errors
    /// Names what is still there.
    pub fn down(
        name: &str,
        state_dir: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let _ = (name, state_dir, progress);
        unreachable!("thin body")
    }

    /// The cluster of that name, `None` when there is none.
    ///
    /// # Errors
    /// When its record can't be read.
    pub fn open(name: &str, state_dir: Option<&Path>) -> Result<Option<Self>, Error> {
        let _ = (name, state_dir);
        unreachable!("thin body")
    }

    /// Its names and addresses.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All nodes, running or not.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        Vec::new()
    }

    /// One node.
    ///
    /// # Errors
    /// When no node has that name; the message lists those that exist.
    pub fn node(&self, name: &str) -> Result<Node, Error> {
        let _ = name;
        unreachable!("thin body")
    }

    /// What the cluster looks like now.
    ///
    /// # Errors
    /// When the machine's process table or the cluster's folder can't be read.
    pub fn status(&self) -> Result<Status, Error> {
        unreachable!("thin body")
    }

    /// Brings an OCI or docker archive into every running node's containerd; the names of the
    /// images that it held.
    ///
    /// # Errors
    /// Names the node and what its containerd said.
    pub fn load(&self, archive: &Path, progress: &dyn Progress) -> Result<Vec<String>, Error> {
        let _ = (archive, progress);
        unreachable!("thin body")
    }

    /// The log file of a unit, on the host.
    ///
    /// # Errors
    /// When there is no such node or unit; the message lists those that exist.
    pub fn log_file(&self, node: &str, unit: &str) -> Result<PathBuf, Error> {
        let _ = (node, unit);
        unreachable!("thin body")
    }
}
