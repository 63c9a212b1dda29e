//! One node: run programs in it, crash it, boot it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

use crate::cgroup::{CgroupError, Layout};
use crate::containerd;
use crate::node_init::mounts::DISK;
use crate::node_init::spec::Spec;
use crate::node_init::supervise::UnitRecord;
use crate::plan::{BIN_IN_NODE, NodePlan};
use crate::process::{find_init, node_pid, open_init, wait_for_death};
use crate::record::{Lock, Record, write_whole};
use crate::sys;

/// How long a shutdown may take beyond the units' own times.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How long the dead of a crash may take to leave their cgroups.
const DEATH: Duration = Duration::from_secs(15);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why an act on a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// PID 1 of the node does not live.
    #[error("node {0} is down: boot it first")]
    Down(String),
    /// The cgroups.
    #[error("node {node}")]
    Cgroup {
        /// The node.
        node: String,
        /// What about its cgroups.
        source: CgroupError,
    },
    /// Its files on the host.
    #[error("write the files of the node in {0}")]
    Files(PathBuf, #[source] io::Error),
    /// The init program does not start.
    #[error("run {program} for node {node}")]
    Launch {
        /// The node.
        node: String,
        /// The init program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The init program could not make the node.
    #[error("node {node} does not boot: {message}")]
    Boot {
        /// The node.
        node: String,
        /// What it said.
        message: String,
    },
    /// A program in the node.
    #[error("run {program} in node {node}")]
    Exec {
        /// The node.
        node: String,
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process that should have gone.
    #[error("stop node {node}")]
    Stop {
        /// The node.
        node: String,
        /// What kept it.
        source: io::Error,
    },
    /// No such unit.
    #[error("node {node} has no unit {asked}: choose one of {present}")]
    NoUnit {
        /// The node.
        node: String,
        /// The name that was given.
        asked: String,
        /// Names that exist.
        present: String,
    },
    /// containerd refused an archive.
    #[error("node {node}: containerd does not import the archive: {message}")]
    Import {
        /// The node.
        node: String,
        /// What it said.
        message: String,
    },
    /// Another command works on the cluster.
    #[error("lock the cluster of node {0}")]
    Lock(String, #[source] io::Error),
}

/// A node of a cluster, running or not.
#[derive(Debug, Clone)]
pub struct Node {
    record: Arc<Record>,
    plan: NodePlan,
}

impl Node {
    pub(crate) fn new(record: Arc<Record>, plan: NodePlan) -> Self {
        Self { record, plan }
    }

    /// Its name and address.
    #[must_use]
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// The node's folder on the host: `disk/`, `logs/`, `overlay/`.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.record.plan.node_dir(&self.plan.name)
    }

    /// Where the host has a file of the node's own disk (`/var/lib/bowline`, `/var/lib/kubelet`,
    /// `/var/lib/cni`, `/var/log`, `/tmp`), whether the node runs or not. Other paths are only to
    /// be had through [`exec`](Self::exec).
    #[must_use]
    pub fn host_path(&self, path: &Path) -> Option<PathBuf> {
        let on_disk = DISK.iter().any(|folder| path.starts_with(folder));
        on_disk.then(|| self.dir().join("disk").join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// PID 1 of the node, as the host numbers it; `None` when the node is down.
    #[must_use]
    pub fn init_pid(&self) -> Option<i32> {
        Layout::read().ok().and_then(|layout| find_init(&layout, &self.plan.cgroup))
    }

    /// Starts a command in the node: in all of its namespaces, and in its cgroups before it runs.
    /// Standard streams, arguments and environment are the command's own; the program is looked up
    /// in the node, Bowline's binaries first unless the command sets a PATH.
    ///
    /// # Errors
    /// When the node is down or the program can't be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child, NodeError> {
        let layout = self.layout()?;
        let init = self.running(&layout)?;
        let program = command.get_program().to_string_lossy().into_owned();
        if command.get_envs().all(|(name, _)| name != "PATH") {
            command.env("PATH", format!("{BIN_IN_NODE}:{PATH}"));
        }
        let cgroups = layout.procs_files(&self.plan.cgroup).map_err(|e| self.cgroup_error(e))?;
        let start = || -> io::Result<Child> {
            let for_child = init.try_clone()?;
            sys::join_before_exec(&mut command, cgroups, for_child);
            // A thread of its own: its children are born in the node's pid namespace from now on.
            let spawn = move || {
                setns(init.as_fd(), CloneFlags::CLONE_NEWPID)?;
                command.spawn()
            };
            let thread = std::thread::Builder::new().name("enter".to_owned()).spawn(spawn)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the entering thread panicked")))
        };
        start().map_err(|source| NodeError::Exec { node: self.plan.name.clone(), program, source })
    }

    /// Runs a command in the node to its end and returns what it wrote.
    ///
    /// # Errors
    /// When the node is down or the program can't be started; not when it fails.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, command: &[S]) -> Result<Output, NodeError> {
        let program = command.first().map_or_else(Default::default, AsRef::as_ref);
        let mut full = Command::new(program);
        full.args(command.iter().skip(1));
        full.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(full)?.wait_with_output().map_err(|source| NodeError::Exec {
            node: self.plan.name.clone(),
            program: program.to_string_lossy().into_owned(),
            source,
        })
    }

    /// As a power cut: kill -9 of PID 1, so of everything in the node. Its disk stays.
    ///
    /// # Errors
    /// When it does not die.
    pub fn crash(&self) -> Result<(), NodeError> {
        let layout = self.layout()?;
        let Some(init) = open_init(&layout, &self.plan.cgroup) else { return Ok(()) };
        sys::pidfd_kill(init.as_fd(), Signal::SIGKILL as i32)
            .and_then(|()| wait_for_death(&init, DEATH))
            .and_then(|()| self.wait_until_empty(&layout))
            .map_err(|source| NodeError::Stop { node: self.plan.name.clone(), source })
    }

    /// As a shutdown: units are stopped in order, then PID 1 leaves. Its disk stays.
    ///
    /// # Errors
    /// When it does not leave in time.
    pub fn shut_down(&self) -> Result<(), NodeError> {
        let layout = self.layout()?;
        let Some(init) = open_init(&layout, &self.plan.cgroup) else { return Ok(()) };
        let units = self.spec().map(|spec| spec.units).unwrap_or_default();
        let stop: u64 = units.iter().map(|unit| unit.stop_timeout_ms).sum();
        sys::pidfd_kill(init.as_fd(), Signal::SIGTERM as i32)
            .and_then(|()| wait_for_death(&init, Duration::from_millis(stop) + SHUTDOWN_GRACE))
            .and_then(|()| self.wait_until_empty(&layout))
            .map_err(|source| NodeError::Stop { node: self.plan.name.clone(), source })
    }

    /// Starts a node that is down, with the units that it had. A running node is left as it is.
    ///
    /// # Errors
    /// Names what its init could not do.
    pub fn boot(&self) -> Result<(), NodeError> {
        let lock = Lock::take(&self.record.plan.name)
            .map_err(|error| NodeError::Lock(self.plan.name.clone(), error))?;
        let layout = self.layout()?;
        if find_init(&layout, &self.plan.cgroup).is_some() {
            return Ok(());
        }
        self.boot_locked(&layout, &lock, &self.spec()?)
    }

    pub(crate) fn boot_locked(
        &self,
        layout: &Layout,
        lock: &Lock,
        spec: &Spec,
    ) -> Result<(), NodeError> {
        let group = &self.plan.cgroup;
        // A machine that boots has fresh cgroups.
        layout
            .destroy(group)
            .and_then(|()| layout.create(group))
            .map_err(|error| self.cgroup_error(error))?;
        let path = Spec::path(&spec.dir);
        serde_json::to_vec_pretty(spec)
            .map_err(io::Error::from)
            .and_then(|bytes| write_whole(&path, &bytes))
            .and_then(|()| forget(&spec.dir.join("units.json")))
            .map_err(|error| NodeError::Files(spec.dir.clone(), error))?;
        let (program, arguments) =
            self.record.init.split_first().ok_or_else(|| NodeError::Boot {
                node: self.plan.name.clone(),
                message: "no init program was given".to_owned(),
            })?;
        let launch = || -> io::Result<Output> {
            let stdin = Stdio::from(lock.share()?);
            Command::new(program).args(arguments).arg(&path).stdin(stdin).output()
        };
        let output = launch().map_err(|source| NodeError::Launch {
            node: self.plan.name.clone(),
            program: program.clone(),
            source,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NodeError::Boot { node: self.plan.name.clone(), message })
    }

    /// The host's pid of a unit's main process; `None` between two runs.
    ///
    /// # Errors
    /// When the node has no unit of that name.
    pub fn unit_pid(&self, unit: &str) -> Result<Option<i32>, NodeError> {
        self.check_unit(unit)?;
        let records = self.unit_records();
        let Some(pid) = records.into_iter().find(|r| r.name == unit).and_then(|r| r.pid) else {
            return Ok(None);
        };
        let layout = self.layout()?;
        let members = layout.members(&self.plan.cgroup);
        Ok(members.into_iter().find(|&member| node_pid(member) == Some(pid)))
    }

    /// The names of the node's units in the order of their start.
    ///
    /// # Errors
    /// When the node's spec can't be read.
    pub fn units(&self) -> Result<Vec<String>, NodeError> {
        Ok(self.spec()?.units.into_iter().map(|unit| unit.name).collect())
    }

    pub(crate) fn check_unit(&self, unit: &str) -> Result<(), NodeError> {
        let units = self.units()?;
        if units.iter().any(|name| name == unit) {
            return Ok(());
        }
        Err(NodeError::NoUnit {
            node: self.plan.name.clone(),
            asked: unit.to_owned(),
            present: units.join(", "),
        })
    }

    /// What the init says of its units, with pids as the node numbers them.
    pub(crate) fn unit_records(&self) -> Vec<UnitRecord> {
        let bytes = fs::read(self.dir().join("units.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Brings an archive into the node's containerd; the names of its images.
    pub(crate) fn import(&self, archive: File) -> Result<Vec<String>, NodeError> {
        let mut command = Command::new("ctr");
        command.args(containerd::import_arguments(&containerd::Config::default().socket, "-"));
        command.stdin(archive).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.spawn(command)?.wait_with_output().map_err(|source| NodeError::Exec {
            node: self.plan.name.clone(),
            program: "ctr".to_owned(),
            source,
        })?;
        if output.status.success() {
            return Ok(containerd::imported_names(&String::from_utf8_lossy(&output.stdout)));
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NodeError::Import { node: self.plan.name.clone(), message })
    }

    fn spec(&self) -> Result<Spec, NodeError> {
        let path = Spec::path(&self.dir());
        Spec::read(&path).map_err(|error| NodeError::Files(path, error))
    }

    fn layout(&self) -> Result<Layout, NodeError> {
        Layout::read().map_err(|error| self.cgroup_error(error))
    }

    fn cgroup_error(&self, source: CgroupError) -> NodeError {
        NodeError::Cgroup { node: self.plan.name.clone(), source }
    }

    fn running(&self, layout: &Layout) -> Result<OwnedFd, NodeError> {
        open_init(layout, &self.plan.cgroup).ok_or_else(|| NodeError::Down(self.plan.name.clone()))
    }

    fn wait_until_empty(&self, layout: &Layout) -> io::Result<()> {
        let deadline = Instant::now() + DEATH;
        while !layout.members(&self.plan.cgroup).is_empty() {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Makes the folders of a node's disk.
pub(crate) fn make_folders(dir: &Path) -> io::Result<()> {
    let disk = DISK.iter().map(|folder| format!("disk{folder}"));
    for folder in disk.chain(["logs".to_owned(), "overlay".to_owned()]) {
        fs::create_dir_all(dir.join(folder))?;
    }
    Ok(())
}

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
