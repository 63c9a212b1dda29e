//! The nodes' cgroups on hybrid (v1 controllers beside a v2 tree) and pure v2 hosts.
//!
//! A node owns one folder of the same name in every hierarchy. In the v2 tree the node's own
//! processes live in leaves below it (`init`, `system/UNIT`), because a v2 group that hands
//! controllers to its children may hold no process itself.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mountinfo::{self, Mount};

/// The leaf of a node's v2 group that holds its init and what `exec` runs.
pub(crate) const INIT_LEAF: &str = "init";

/// Controllers that a node may hand to its pods on v2.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// How long killed processes may take to leave, and emptied groups to become removable.
const DEADLINE: Duration = Duration::from_secs(15);

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where the host has it.
    pub(crate) point: PathBuf,
    /// `None` for v2; else what names it in a v1 mount: `cpu,cpuacct` or `none,name=systemd`.
    pub(crate) v1: Option<String>,
}

/// All hierarchies of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) hierarchies: Vec<Hierarchy>,
}

/// Why cgroups can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// `/proc/self/mountinfo` can't be read.
    #[error("read the machine's mounts")]
    Mounts(#[source] io::Error),
    /// Nothing to attach socket programs to.
    #[error(
        "no cgroup2 file system is mounted: mount one \
         (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)"
    )]
    NoVersion2,
    /// A group can't be made or set up.
    #[error("make the cgroup {path}")]
    Create {
        /// The group's folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process can't enter a group.
    #[error("join the cgroup {path}")]
    Join {
        /// The group's folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Processes don't die or groups stay busy.
    #[error("the cgroup {path} is still in use (processes {pids:?})")]
    Busy {
        /// The group's folder.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<i32>,
    },
}

impl Layout {
    pub(crate) fn read() -> Result<Self, CgroupError> {
        Self::of(&mountinfo::read().map_err(CgroupError::Mounts)?)
    }

    /// Each hierarchy once, at its first mount.
    pub(crate) fn of(mounts: &[Mount]) -> Result<Self, CgroupError> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in mounts {
            let v1 = match mount.kind.as_str() {
                "cgroup2" => None,
                "cgroup" => Some(v1_name(&mount.options)),
                _ => continue,
            };
            if hierarchies.iter().all(|known| known.v1 != v1) {
                hierarchies.push(Hierarchy { point: mount.point.clone(), v1 });
            }
        }
        if hierarchies.iter().any(|hierarchy| hierarchy.v1.is_none()) {
            Ok(Self { hierarchies })
        } else {
            Err(CgroupError::NoVersion2)
        }
    }

    pub(crate) fn v2(&self) -> &Path {
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.v1.is_none());
        &v2.expect("Layout::of refuses a machine without v2").point
    }

    /// Whether v2 is the only version, so that its controllers are the ones that limit pods.
    pub(crate) fn is_pure_v2(&self) -> bool {
        self.hierarchies.len() == 1
    }

    /// Makes the group in every hierarchy. On v1 a cpuset must be filled before a process enters.
    pub(crate) fn create(&self, name: &str) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.point.join(name);
            let made = fs::create_dir_all(&path).and_then(|()| match &hierarchy.v1 {
                Some(v1) if v1.split(',').any(|controller| controller == "cpuset") => {
                    fill_cpuset(&hierarchy.point, &path)
                }
                _ => Ok(()),
            });
            made.map_err(|source| CgroupError::Create { path, source })?;
        }
        Ok(())
    }

    /// Moves the calling process into the group, in every hierarchy.
    pub(crate) fn join(&self, name: &str) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.point.join(name);
            fs::write(path.join("cgroup.procs"), "0")
                .map_err(|source| CgroupError::Join { path, source })?;
        }
        Ok(())
    }

    /// The open `cgroup.procs` files through which a process joins a running node.
    pub(crate) fn procs_files(&self, name: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |hierarchy: &Hierarchy| {
            let mut path = hierarchy.point.join(name);
            if hierarchy.v1.is_none() {
                path.push(INIT_LEAF);
            }
            open_procs(&path).map_err(|source| CgroupError::Join { path, source })
        };
        self.hierarchies.iter().map(open).collect()
    }

    /// Every process in the group or below it, in any hierarchy.
    pub(crate) fn members(&self, name: &str) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            collect_members(&hierarchy.point.join(name), &mut pids);
        }
        pids
    }

    /// The names of all groups at the top of any hierarchy that start with `prefix`.
    pub(crate) fn named(&self, prefix: &str) -> BTreeSet<String> {
        let entries = |hierarchy: &Hierarchy| fs::read_dir(&hierarchy.point).into_iter().flatten();
        self.hierarchies
            .iter()
            .flat_map(entries)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    /// Kills whatever is in the group and removes it from every hierarchy. The dead may stay in the
    /// process table until the machine's first process takes them; they hold nothing.
    pub(crate) fn destroy(&self, name: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + DEADLINE;
        let mut pause = Duration::from_millis(1);
        loop {
            let pids = self.members(name);
            for &pid in &pids {
                // A process that is gone already is what we want.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let busy = self.hierarchies.iter().map(|h| h.point.join(name)).find(|p| !remove(p));
            let Some(path) = busy else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(CgroupError::Busy { path, pids: pids.into_iter().collect() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Opens a group's `cgroup.procs` for joining it.
pub(crate) fn open_procs(group: &Path) -> io::Result<OwnedFd> {
    OpenOptions::new().write(true).open(group.join("cgroup.procs")).map(File::into)
}

/// Hands as many controllers as the kernel lets us to the children of a v2 group. What is refused
/// (a controller that is absent or bound to v1) costs the pods that limit, nothing else.
pub(crate) fn delegate(group: &Path) {
    for controller in undelegated(group) {
        set_controller(group, '+', &controller);
    }
}

/// The controllers that nodes can use and that the group has but does not hand to its children.
pub(crate) fn undelegated(group: &Path) -> Vec<String> {
    let words = |file| -> BTreeSet<String> {
        let text = fs::read_to_string(group.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let (available, handed) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let is_open = |name: &&str| available.contains(*name) && !handed.contains(*name);
    CONTROLLERS.iter().copied().filter(is_open).map(str::to_owned).collect()
}

/// Takes controllers from the children of a v2 group; one that another child uses stays.
pub(crate) fn withdraw(group: &Path, controllers: &[String]) {
    for controller in controllers {
        set_controller(group, '-', controller);
    }
}

fn set_controller(group: &Path, sign: char, controller: &str) {
    let wish = format!("{sign}{controller}");
    if let Err(error) = fs::write(group.join("cgroup.subtree_control"), &wish) {
        tracing::debug!(?group, wish, %error, "the kernel keeps its controllers as they are");
    }
}

fn v1_name(options: &str) -> String {
    let relevant = |option: &&str| {
        !matches!(*option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "none")
            && !option.starts_with("release_agent=")
    };
    let names: Vec<_> = options.split(',').filter(relevant).collect();
    let named_only = names.iter().all(|name| name.starts_with("name="));
    if named_only { format!("none,{}", names.join(",")) } else { names.join(",") }
}

fn fill_cpuset(parent: &Path, group: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(group.join(file))?.trim().is_empty() {
            fs::write(group.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    fs::write(group.join("cgroup.clone_children"), "1")
}

fn collect_members(group: &Path, pids: &mut BTreeSet<i32>) {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that this pid namespace can't see.
    pids.extend(procs.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0));
    for child in children(group) {
        collect_members(&child, pids);
    }
}

/// Removes a group and all below it; whether it is gone.
fn remove(group: &Path) -> bool {
    for child in children(group) {
        remove(&child);
    }
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_lists_each_hierarchy_once() {
        let mounts = mountinfo::parse(
            "1 0 0:1 / /sys/fs/cgroup rw - tmpfs t rw\n\
             2 0 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             4 0 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
             5 0 0:2 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
        let layout = Layout::of(&mounts).expect("a layout");
        let v1: Vec<_> = layout.hierarchies.iter().map(|h| h.v1.as_deref()).collect();
        assert_eq!(v1, [Some("cpu,cpuacct"), Some("none,name=systemd"), None]);
        assert_eq!(layout.v2(), Path::new("/sys/fs/cgroup/unified"));
        assert!(!layout.is_pure_v2());
    }

    #[test]
    fn a_pure_v2_host_is_seen_as_such() {
        let mounts = mountinfo::parse("4 0 0:4 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(Layout::of(&mounts).expect("a layout").is_pure_v2());
    }

    #[test]
    fn a_machine_without_v2_is_told_what_to_mount() {
        let mounts = mountinfo::parse("2 0 0:2 / /c rw - cgroup cgroup rw,cpu\n");
        let error = Layout::of(&mounts).expect_err("v1 alone is not enough");
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
    }
}
