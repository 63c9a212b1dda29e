//! One node: run programs in it, crash it, boot it.

use std::process::{Child, Command, Output};

use crate::cluster::Error;
use crate::plan::NodePlan;

/// A node of a cluster, running or not.
#[derive(Debug, Clone)]
pub struct Node {
    plan: NodePlan,
}

impl Node {
    /// Its name and address.
    #[must_use]
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// PID 1 of the node, as the host numbers it; `None` when the node is down.
    #[must_use]
    pub fn init_pid(&self) -> Option<i32> {
        None
    }

    /// Starts a command in the node: in all of its namespaces, and in its cgroups before it runs.
    /// Standard streams, arguments and environment are the command's own; the program is looked up
    /// in the node.
    ///
    /// # Errors
    /// When the node is down or the program can't be started.
    pub fn spawn(&self, command: Command) -> Result<Child, Error> {
        let _ = command;
        unreachable!("thin body")
    }

    /// Runs a command in the node to its end and returns what it wrote.
    ///
    /// # Errors
    /// When the node is down or the program can't be started; not when it fails.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, command: &[S]) -> Result<Output, Error> {
        let _ = command.len();
        unreachable!("thin body")
    }

    /// As a power cut: kill -9 of PID 1, so of everything in the node. Its disk stays.
    ///
    /// # Errors
    /// When it can't be killed.
    pub fn crash(&self) -> Result<(), Error> {
        unreachable!("thin body")
    }

    /// As a shutdown: units are stopped in order, then PID 1 leaves. Its disk stays.
    ///
    /// # Errors
    /// When it does not leave in time.
    pub fn shut_down(&self) -> Result<(), Error> {
        unreachable!("thin body")
    }

    /// Starts a node that is down, with the units that it had. A running node is left as it is.
    ///
    /// # Errors
    /// Names what its init could not do.
    pub fn boot(&self) -> Result<(), Error> {
        unreachable!("thin body")
    }

    /// The host's pid of a unit's main process; `None` between two runs.
    ///
    /// # Errors
    /// When the node has no unit of that name.
    pub fn unit_pid(&self, unit: &str) -> Result<Option<i32>, Error> {
        let _ = unit;
        unreachable!("thin body")
    }
}
