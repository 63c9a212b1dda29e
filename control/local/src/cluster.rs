//! The cluster as a whole: up, down, load.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnetwork::Ipv4Network;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

use crate::cgroup::{CgroupError, Layout};
use crate::net::lan::{self, LanError};
use crate::net::{nat, netns, subnet};
use crate::node::{self, Node, NodeError};
use crate::node_init::spec::{Spec, hosts_file};
use crate::plan::{self, NodePlan, Options, Plan, PlanError, Workload};
use crate::process::{find_init, in_parallel};
use crate::progress::Progress;
use crate::record::{Lock, Phase, Record};
use crate::{machine, record, remove, status};

/// Why an act on a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options don't make a cluster.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another command works on the same cluster.
    #[error("lock the cluster {0}: is another bowline local at work on it, or are you not root?")]
    Lock(String, #[source] io::Error),
    /// `cluster.json` is not to be read or written.
    #[error("read or write the cluster's record in {0}")]
    Record(PathBuf, #[source] io::Error),
    /// The state folder holds something else.
    #[error("{0} is not empty and holds no cluster: choose another state folder")]
    ForeignFolder(PathBuf),
    /// A folder can't be made.
    #[error("make the folder {0}")]
    Folder(PathBuf, #[source] io::Error),
    /// The cluster would have to give up nodes.
    #[error(
        "the cluster {name} has {present} nodes, {asked} were asked for: take it down first \
         (bowline local down)"
    )]
    Shrink {
        /// The cluster.
        name: String,
        /// Nodes that it has.
        present: usize,
        /// Nodes that were asked for.
        asked: u16,
    },
    /// The cluster lives on another network than the one asked for.
    #[error("the cluster {name} has the subnet {present}: take it down first (bowline local down)")]
    OtherSubnet {
        /// The cluster.
        name: String,
        /// Its subnet.
        present: Ipv4Network,
    },
    /// The machine uses the network already.
    #[error("the subnet {0} is in use on this machine for something else: choose another")]
    SubnetTaken(String),
    /// The machine has come to use the cluster's network for something else.
    #[error(
        "the subnet {subnet} of the cluster {name} is now in use on this machine for something \
         else: free it, or take the cluster down (bowline local down)"
    )]
    SubnetLost {
        /// The cluster.
        name: String,
        /// Its subnet.
        subnet: Ipv4Network,
    },
    /// The workload could not prepare.
    #[error("prepare the cluster's files")]
    Prepare(#[source] io::Error),
    /// The network.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// The cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// One node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// What is left of a cluster can't be removed.
    #[error(transparent)]
    Remove(#[from] remove::RemoveError),
    /// No such node.
    #[error("there is no node {asked}: choose one of {present}")]
    NoNode {
        /// The name that was given.
        asked: String,
        /// Names that exist.
        present: String,
    },
    /// The archive is not to be read.
    #[error("open the image archive {0}")]
    Archive(PathBuf, #[source] io::Error),
    /// The machine's tables or settings.
    #[error("read or change the machine's state")]
    Machine(#[source] io::Error),
}

/// A cluster that exists on this machine.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) record: Arc<Record>,
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
    /// Makes the cluster, or completes one that is there in part: nodes that are down are booted,
    /// nodes above those that exist are added. What runs is left as it is.
    ///
    /// # Errors
    /// Names what could not be done; `down` removes whatever was made until then.
    pub fn up(
        options: &Options,
        workload: &dyn Workload,
        progress: &dyn Progress,
    ) -> Result<Up, Error> {
        plan::check_name(&options.name)?;
        let lock = lock(&options.name)?;
        let layout = Layout::read()?;
        finish_removal(options, progress)?;
        // From the choice of a subnet until the host has an address in it, no other cluster chooses.
        let choosing = machine::Choosing::begin().map_err(Error::Machine)?;
        let mut record = planned(options)?;
        progress.step("network");
        write_record(&record)?;
        let mut links = lan::ensure(&record.plan)?;
        drop(choosing);
        let mut down = record.plan.nodes.clone();
        // A node without its port was cut off with the network that somebody removed.
        down.retain(|node| {
            let has_port = links.index(&node.name).is_ok_and(|port| port.is_some());
            find_init(&layout, &node.cgroup).is_none() || !has_port
        });
        if down.is_empty() && record.phase == Phase::Up {
            return Ok(Up { cluster: Self::of(record), booted: Vec::new() });
        }
        machine::delegate(&layout).map_err(Error::Machine)?;
        open_way_outside(&record.plan, progress);
        progress.step("files");
        make_folders(&record)?;
        workload.prepare(&record.plan).map_err(Error::Prepare)?;
        let shared = Arc::new(record.clone());
        let lan = netns::path(&plan::lan_netns(&record.plan.name));
        in_parallel(&down, |node| {
            progress.step(&format!("node {}", node.name));
            let units = workload.units(&record.plan, node);
            let spec = Spec::new(&record.plan, node, lan.clone(), units);
            Node::new(Arc::clone(&shared), node.clone()).boot_locked(&layout, &lock, &spec)
        })?;
        tell_names(&layout, &record.plan, &down);
        record.phase = Phase::Up;
        write_record(&record)?;
        let booted = down.into_iter().map(|node| node.name).collect();
        Ok(Up { cluster: Self::of(record), booted })
    }

    /// Removes everything of the cluster of that name, also what an `up` that was killed has left.
    /// Succeeds when there is nothing.
    ///
    /// # Errors
    /// Names what is still there.
    pub fn down(
        name: &str,
        state_dir: Option<&Path>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        plan::check_name(name)?;
        let lock = lock(name)?;
        let state_dir = state_dir.map_or_else(|| plan::default_state_dir(name), Path::to_owned);
        remove::everything(name, &state_dir, progress)?;
        lock.remove().map_err(|error| Error::Lock(name.to_owned(), error))
    }

    /// The cluster of that name, `None` when there is none.
    ///
    /// # Errors
    /// When its record can't be read.
    pub fn open(name: &str, state_dir: Option<&Path>) -> Result<Option<Self>, Error> {
        plan::check_name(name)?;
        let state_dir = state_dir.map_or_else(|| plan::default_state_dir(name), Path::to_owned);
        let record = Record::read(&state_dir).map_err(|error| Error::Record(state_dir, error))?;
        Ok(record.map(Self::of))
    }

    fn of(record: Record) -> Self {
        Self { record: Arc::new(record) }
    }

    /// Its names and addresses.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.record.plan
    }

    /// All nodes, running or not, in the order of their numbers.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let plans = self.record.plan.nodes.iter();
        plans.map(|node| Node::new(Arc::clone(&self.record), node.clone())).collect()
    }

    /// One node.
    ///
    /// # Errors
    /// When no node has that name; the message lists those that exist.
    pub fn node(&self, name: &str) -> Result<Node, Error> {
        let nodes = self.nodes();
        let names: Vec<_> = nodes.iter().map(|node| node.plan().name.clone()).collect();
        nodes
            .into_iter()
            .find(|node| node.plan().name == name)
            .ok_or_else(|| Error::NoNode { asked: name.to_owned(), present: names.join(", ") })
    }

    /// The log file of a unit, on the host; also of `init` and `containerd`, which are no units.
    ///
    /// # Errors
    /// When there is no such node or unit; the message lists those that exist.
    pub fn log_file(&self, node: &str, unit: &str) -> Result<PathBuf, Error> {
        Ok(self.node(node)?.log_file(unit)?)
    }

    /// What the cluster looks like now.
    ///
    /// # Errors
    /// When the machine's process table can't be read.
    pub fn status(&self) -> Result<status::Status, Error> {
        status::of(self)
    }

    /// Brings an OCI or docker archive into every node's containerd; the names of its images.
    ///
    /// # Errors
    /// Names the node and what its containerd said.
    pub fn load(&self, archive: &Path, progress: &dyn Progress) -> Result<Vec<String>, Error> {
        let open =
            || fs::File::open(archive).map_err(|error| Error::Archive(archive.to_owned(), error));
        drop(open()?);
        let names = in_parallel(&self.nodes(), |node| {
            progress.step(&format!("node {}: {}", node.plan().name, archive.display()));
            Ok::<_, Error>(node.import(open()?)?)
        })?;
        Ok(names.into_iter().next().unwrap_or_default())
    }
}

pub(crate) fn lock(name: &str) -> Result<Lock, Error> {
    Lock::take(name).map_err(|error| Error::Lock(name.to_owned(), error))
}

fn write_record(record: &Record) -> Result<(), Error> {
    record.write().map_err(|error| Error::Record(record.plan.state_dir.clone(), error))
}

/// What a `down` that was killed has begun can't be used again: the disks may be half gone.
fn finish_removal(options: &Options, progress: &dyn Progress) -> Result<(), Error> {
    let state_dir = state_dir(options);
    let present = Record::read(&state_dir).map_err(|e| Error::Record(state_dir.clone(), e))?;
    if present.is_some_and(|record| record.phase == Phase::Removing) {
        progress.note("an earlier `down` was interrupted: finishing it first");
        remove::everything(&options.name, &state_dir, progress)?;
    }
    Ok(())
}

fn state_dir(options: &Options) -> PathBuf {
    options.state_dir.clone().unwrap_or_else(|| plan::default_state_dir(&options.name))
}

/// The record that the options lead to: the one that is there with nodes added, or a new one.
fn planned(options: &Options) -> Result<Record, Error> {
    let state_dir = state_dir(options);
    let present = Record::read(&state_dir).map_err(|e| Error::Record(state_dir.clone(), e))?;
    let Some(present) = present else { return new_record(options, &state_dir) };
    if let Some(asked) = options.subnet
        && asked != present.plan.subnet
    {
        let name = present.plan.name;
        return Err(Error::OtherSubnet { name, present: present.plan.subnet });
    }
    if !subnet::is_free(present.plan.subnet, &taken_subnets(&options.name)?) {
        let name = present.plan.name;
        return Err(Error::SubnetLost { name, subnet: present.plan.subnet });
    }
    let plan = Plan::new(options, present.plan.subnet)?;
    if plan.nodes.len() < present.plan.nodes.len() {
        return Err(Error::Shrink {
            name: plan.name,
            present: present.plan.nodes.len(),
            asked: options.nodes,
        });
    }
    let phase = if plan == present.plan { present.phase } else { Phase::Making };
    Ok(Record { phase, plan, init: init_of(options), ..present })
}

fn new_record(options: &Options, state_dir: &Path) -> Result<Record, Error> {
    make_own(state_dir)?;
    let taken = taken_subnets(&options.name)?;
    let subnet = match options.subnet {
        Some(asked) if !subnet::is_free(asked, &taken) => {
            return Err(Error::SubnetTaken(asked.to_string()));
        }
        Some(asked) => asked,
        None => subnet::choose(&taken)
            .ok_or_else(|| Error::SubnetTaken("192.168.77.0/24 and all after it".to_owned()))?,
    };
    let plan = Plan::new(options, subnet)?;
    // Neither containerd's snapshots nor the nodes' overlays can lie on an overlay.
    let volatile =
        statfs(state_dir).is_ok_and(|state| state.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    Ok(Record { phase: Phase::Making, plan, init: init_of(options), volatile })
}

/// Makes the state folder, readable by root alone as the cluster's keys are in it. One with anything
/// else in it is somebody else's.
fn make_own(state_dir: &Path) -> Result<(), Error> {
    let error = |error| Error::Folder(state_dir.to_owned(), error);
    fs::create_dir_all(state_dir).map_err(error)?;
    let mut entries = fs::read_dir(state_dir).map_err(error)?.flatten();
    if entries.any(|entry| !record::is_unfinished(&entry.path())) {
        return Err(Error::ForeignFolder(state_dir.to_owned()));
    }
    fs::set_permissions(state_dir, fs::Permissions::from_mode(0o700)).map_err(error)
}

/// The networks that the machine uses without this cluster.
fn taken_subnets(name: &str) -> Result<Vec<Ipv4Network>, Error> {
    let table = fs::read_to_string("/proc/net/route").map_err(Error::Machine)?;
    Ok(subnet::routes(&table, &plan::host_link(name)))
}

fn init_of(options: &Options) -> Vec<String> {
    options.init.iter().map(|part| part.to_string_lossy().into_owned()).collect()
}

fn make_folders(record: &Record) -> Result<(), Error> {
    let plan = &record.plan;
    let nodes = plan.state_dir.join("nodes");
    for folder in [&plan.shared_dir(), &nodes] {
        fs::create_dir_all(folder).map_err(|error| Error::Folder(folder.clone(), error))?;
    }
    if record.volatile {
        remove::mount_memory(&nodes).map_err(|error| Error::Folder(nodes.clone(), error))?;
    }
    for node in &plan.nodes {
        let folder = plan.node_dir(&node.name);
        node::make_folders(&folder).map_err(|error| Error::Folder(folder, error))?;
    }
    Ok(())
}

/// Nodes that ran before others were added learn the new ones' names.
fn tell_names(layout: &Layout, plan: &Plan, booted: &[NodePlan]) {
    let hosts = hosts_file(&plan.nodes);
    for node in plan.nodes.iter().filter(|node| !booted.contains(node)) {
        let Some(init) = find_init(layout, &node.cgroup) else { continue };
        if let Err(error) = fs::write(format!("/proc/{init}/root/etc/hosts"), &hosts) {
            tracing::warn!(node = node.name, %error, "the node's /etc/hosts is not renewed");
        }
    }
}

/// Lets the nodes reach what the machine reaches. A cluster works without it, so what can't be
/// done is said and no more.
fn open_way_outside(plan: &Plan, progress: &dyn Progress) {
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    if !subnet::has_default(&table) {
        return progress.note("this machine has no default route, so the nodes have none outside");
    }
    let opened =
        machine::forward_packets().and_then(|()| nat::ensure(&nat::table(&plan.name), plan.subnet));
    match nat::forward_is_dropped() {
        Ok(Some(chain)) => {
            let link = plan.host_link();
            progress.note(&format!(
                "the firewall of this machine drops what it forwards (policy of {chain}), so nodes \
                 reach nothing beyond it; inside the cluster nothing is missing. To let them out: \
                 iptables -I FORWARD -i {link} -j ACCEPT; iptables -I FORWARD -o {link} -j ACCEPT"
            ));
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "the machine's firewall is not readable"),
    }
    if let Err(error) = opened {
        progress.note(&format!(
            "nodes reach this machine but nothing beyond it, as the kernel refuses a masquerade \
             rule ({error}); inside the cluster nothing is missing"
        ));
    }
}
