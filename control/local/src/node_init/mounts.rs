//! A node's private view of the machine's files.
//!
//! | in the node | is |
//! |---|---|
//! | `/` | the host's, private to the node |
//! | `/etc`, `/opt`, `/var/lib` | an overlay: the host's, what the node writes is its own |
//! | `/var/lib/{bowline,cni,kubelet}`, `/var/log`, `/tmp` | folders of the node's disk |
//! | `/run`, `/dev/shm` | new, in memory |
//! | `/proc`, `/sys`, cgroups, `/sys/fs/bpf` | the node's own |
//! | `/run/bowline/{bin,shared,node}` | Bowline's binaries, the cluster's shared folder, the node's |

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::spec::Spec;
use crate::cgroup::{self, INIT_LEAF, Layout};
use crate::mountinfo;
use crate::plan::{BIN_IN_NODE, SHARED_IN_NODE};

/// Where a node sees its own folder of the host.
pub(crate) const NODE_IN_NODE: &str = "/run/bowline/node";

/// Overlays over the host's folders: their place and their folder below `overlay/`.
const OVERLAYS: [(&str, &str); 3] = [("/etc", "etc"), ("/opt", "opt"), ("/var/lib", "var-lib")];

/// Folders on the node's disk, at the same path below `disk/`.
pub(crate) const DISK: [&str; 5] =
    ["/var/lib/bowline", "/var/lib/cni", "/var/lib/kubelet", "/var/log", "/tmp"];

/// Below these, the host's mounts are of no use in a node, and holding them would keep the host
/// from removing what is mounted (network namespaces, other containers' file systems).
const DETACHED: [&str; 5] = ["/run", "/var/lib", "/var/log", "/tmp", "/sys"];

/// What a kubelet sets for the whole machine: the node gets files of its own instead.
const MACHINE_SYSCTLS: [&str; 5] = [
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "vm/overcommit_memory",
];

/// systemd-resolved's own address means nothing in another network namespace; this file has the
/// real ones.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Why the node's files can't be arranged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("take the node's mounts apart from the host's")]
    Separate(#[source] io::Error),
    #[error("open {0} for the node")]
    Source(PathBuf, #[source] io::Error),
    #[error("mount {kind} on {target} in the node")]
    Mount { kind: &'static str, target: PathBuf, source: io::Error },
    #[error("write {0} in the node")]
    Write(PathBuf, #[source] io::Error),
    #[error("arrange the node's cgroups")]
    Cgroups(#[source] io::Error),
}

/// Arranges everything, in the new mount namespace.
pub(crate) fn make(spec: &Spec, layout: &Layout) -> Result<(), MountError> {
    change(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)
        .map_err(MountError::Separate)?;
    let own_files = Files::read(spec);
    let trees = Trees::open(spec)?;
    detach_host_mounts().map_err(MountError::Separate)?;
    filesystem("tmpfs", "/run", "mode=755")?;
    place(&trees.node, NODE_IN_NODE)?;
    place(&trees.shared, SHARED_IN_NODE)?;
    place(&trees.bin, BIN_IN_NODE)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    change(None, BIN_IN_NODE, None, read_only, None).map_err(at("read-only", BIN_IN_NODE))?;
    for folder in ["/run/netns", "/run/lock"] {
        make_folder(folder)?;
    }
    for (target, name) in OVERLAYS {
        overlay(target, name)?;
    }
    for target in DISK {
        let source = format!("{NODE_IN_NODE}/disk{target}");
        make_folder(target)?;
        change(Some(&source), target, None, MsFlags::MS_BIND, None).map_err(at("bind", target))?;
    }
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))
        .map_err(|error| MountError::Write("/tmp".into(), error))?;
    own_files.write()?;
    filesystem("tmpfs", "/dev/shm", "mode=1777")?;
    kernel_filesystems(layout)?;
    private_sysctls()?;
    change(None, "/", None, MsFlags::MS_REC | MsFlags::MS_SHARED, None)
        .map_err(MountError::Separate)
}

/// The host's folders that the node needs, held while the host's mounts are taken away.
struct Trees {
    node: OwnedFd,
    shared: OwnedFd,
    bin: OwnedFd,
}

impl Trees {
    fn open(spec: &Spec) -> Result<Self, MountError> {
        let tree = |path: &Path| {
            crate::sys::open_tree(path).map_err(|error| MountError::Source(path.to_owned(), error))
        };
        Ok(Self { node: tree(&spec.dir)?, shared: tree(&spec.shared)?, bin: tree(&spec.bin)? })
    }
}

fn place(tree: &OwnedFd, target: &str) -> Result<(), MountError> {
    make_folder(target)?;
    crate::sys::move_mount(tree.as_fd(), Path::new(target)).map_err(at("bind", target))
}

/// Files of `/etc` that differ from the host's.
struct Files {
    hosts: String,
    hostname: String,
    resolv: String,
}

impl Files {
    /// Before the host's mounts are gone: `/etc/resolv.conf` may be a link to `/run`.
    fn read(spec: &Spec) -> Self {
        let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolv = match has_reachable_server(&resolv) {
            true => resolv,
            false => fs::read_to_string(RESOLVED).unwrap_or(resolv),
        };
        Self { hosts: spec.hosts.clone(), hostname: format!("{}\n", spec.name), resolv }
    }

    fn write(&self) -> Result<(), MountError> {
        let files = [
            ("/etc/hosts", &self.hosts),
            ("/etc/hostname", &self.hostname),
            ("/etc/resolv.conf", &self.resolv),
        ];
        for (path, text) in files {
            // Removed first: writing through a link would reach for its target.
            let _ = fs::remove_file(path);
            write(path, text)?;
        }
        Ok(())
    }
}

/// Whether some name server is not on the loopback, which is another one in the node.
fn has_reachable_server(resolv: &str) -> bool {
    resolv
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim)
        .any(|server| !server.starts_with("127.") && server != "::1")
}

fn detach_host_mounts() -> io::Result<()> {
    let mounts = mountinfo::read()?;
    for folder in DETACHED {
        for point in mountinfo::below(&mounts, Path::new(folder)) {
            // Gone already with one above it, or hidden below another: both are what we want.
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
    }
    Ok(())
}

fn overlay(target: &str, name: &str) -> Result<(), MountError> {
    let folder = format!("{NODE_IN_NODE}/overlay/{name}");
    for part in ["upper", "work"] {
        make_folder(&format!("{folder}/{part}"))?;
    }
    let options = format!("lowerdir={target},upperdir={folder}/upper,workdir={folder}/work");
    change(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(&options))
        .map_err(at("overlay", target))
}

fn kernel_filesystems(layout: &Layout) -> Result<(), MountError> {
    filesystem("proc", "/proc", "")?;
    // Refused only where nothing was mounted.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    filesystem("sysfs", "/sys", "")?;
    cgroups(layout)?;
    if Path::new("/sys/fs/bpf").exists() {
        filesystem("bpf", "/sys/fs/bpf", "mode=700")?;
    }
    if Path::new("/dev/mqueue").exists() {
        filesystem("mqueue", "/dev/mqueue", "")?;
    }
    Ok(())
}

/// The hierarchies where the host has them; their root is the node's own group.
fn cgroups(layout: &Layout) -> Result<(), MountError> {
    if !layout.is_pure_v2() {
        filesystem("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    }
    for hierarchy in &layout.hierarchies {
        let point = hierarchy.point.to_str().unwrap_or("/sys/fs/cgroup");
        make_folder(point)?;
        match &hierarchy.v1 {
            None => filesystem("cgroup2", point, "")?,
            Some(name) => {
                filesystem("cgroup", point, name)?;
                link_controllers(&hierarchy.point, name);
            }
        }
    }
    let v2 = layout.v2();
    let leaf = v2.join(INIT_LEAF);
    fs::create_dir_all(&leaf)
        .and_then(|()| fs::write(leaf.join("cgroup.procs"), "0"))
        .map_err(MountError::Cgroups)?;
    if layout.is_pure_v2() {
        cgroup::delegate(v2);
    }
    Ok(())
}

/// `cpu -> cpu,cpuacct`, as every distribution has it.
fn link_controllers(point: &Path, name: &str) {
    let (Some(parent), Some(folder)) = (point.parent(), point.file_name()) else { return };
    for controller in name.split(',').filter(|part| *part != "none" && !part.contains('=')) {
        // There already where the folder has the controller's own name.
        let _ = symlink(folder, parent.join(controller));
    }
}

fn private_sysctls() -> Result<(), MountError> {
    let folder = "/run/bowline/sysctl";
    for name in MACHINE_SYSCTLS {
        let target = format!("/proc/sys/{name}");
        let Ok(value) = fs::read_to_string(&target) else { continue };
        let copy = format!("{folder}/{}", name.replace('/', "."));
        make_folder(folder)?;
        write(&copy, &value)?;
        change(Some(&copy), &target, None, MsFlags::MS_BIND, None).map_err(at("bind", &target))?;
    }
    Ok(())
}

fn filesystem(kind: &'static str, target: &str, options: &str) -> Result<(), MountError> {
    let options = Some(options).filter(|options| !options.is_empty());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    change(Some(kind), target, Some(kind), flags, options).map_err(at(kind, target))
}

fn change(
    source: Option<&str>,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> io::Result<()> {
    Ok(mount(source, target, kind, flags, options)?)
}

fn at(kind: &'static str, target: &str) -> impl FnOnce(io::Error) -> MountError {
    let target = PathBuf::from(target);
    move |source| MountError::Mount { kind, target, source }
}

fn make_folder(path: &str) -> Result<(), MountError> {
    fs::create_dir_all(path).map_err(|error| MountError::Write(path.into(), error))
}

fn write(path: &str, text: &str) -> Result<(), MountError> {
    fs::write(path, text).map_err(|error| MountError::Write(path.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_the_loopback_does_not_serve_a_node() {
        assert!(!has_reachable_server("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!has_reachable_server(""));
        assert!(has_reachable_server("nameserver 127.0.0.1\nnameserver 192.0.2.1\n"));
    }
}
