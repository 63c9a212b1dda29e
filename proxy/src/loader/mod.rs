//! Loads the kernel programs, pins their maps and links, and takes over what an earlier run left.
//!
//! Below the BPF directory (by default `/sys/fs/bpf/bowline`) lies a directory for each version of
//! the map layout: the maps by name, `links/` and `programs/`. Maps and links outlive the agent, so
//! traffic goes on while it is dead or replaced. [`Dataplane::start`] may run at any time: maps are
//! taken over if they are what this version expects, and each program is replaced in its link.

mod cgroup;
pub mod layout;
mod pins;
mod programs;
mod selftest;
pub mod sys;
mod uplink;

use std::io;
use std::path::{Path, PathBuf};

pub use cgroup::find_root;
pub use pins::unload;
pub use programs::PROGRAM_NAMES;
pub use selftest::netns_cookie;
pub use uplink::{UplinkKind, detect_uplinks};

use crate::maps::{BpfMaps, OpenError};

/// Where the BPF directory is by default.
pub const DEFAULT_DIRECTORY: &str = "/sys/fs/bpf/bowline";

/// The oldest kernel that has all that the programs use.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// What to load, and onto what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The BPF directory; on a bpf file system.
    pub directory: PathBuf,
    /// The cgroup whose sockets are served; `None`: the root of process 1's cgroup2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// Below which cgroup the self-test connects from; `None`: the root of process 1's mount.
    pub selftest_parent: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { directory: DEFAULT_DIRECTORY.into(), cgroup_root: None, selftest_parent: None }
    }
}

impl Config {
    /// The directory of this layout version's pins.
    pub fn pins(&self) -> PathBuf {
        pins_below(&self.directory)
    }
}

/// The directory of this layout version's pins below a BPF directory.
pub fn pins_below(directory: &Path) -> PathBuf {
    directory.join(bowline_abi::VERSION.to_string())
}

/// Why the dataplane could not be loaded or taken away.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel is too old.
    #[error(
        "kernel {found} is too old: the service load balancer needs {}.{} or newer; boot a newer \
         kernel (Debian 12's own is 6.1)", OLDEST_KERNEL.0, OLDEST_KERNEL.1
    )]
    OldKernel {
        /// `uname -r`.
        found: String,
    },
    /// The kernel lacks a feature.
    #[error("this kernel has no {feature}: {remedy}")]
    MissingFeature {
        /// Its name.
        feature: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The BPF directory is not on a bpf file system.
    #[error(
        "{path} is not on a bpf file system: mount one (`mount -t bpf bpf /sys/fs/bpf`), or let \
         the container see the host's (a hostPath volume of /sys/fs/bpf)"
    )]
    NoBpfFs {
        /// The directory.
        path: PathBuf,
    },
    /// A file of a pin or of procfs could not be used.
    #[error("{act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A pinned map is not what this version expects.
    #[error(transparent)]
    Map(#[from] OpenError),
    /// The embedded object could not be loaded.
    #[error("load the kernel programs (is the agent privileged?)")]
    Object {
        /// Why it failed.
        source: Box<aya::EbpfError>,
    },
    /// The kernel refused a program.
    #[error("load the kernel program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why it failed; with the verifier's log, if it was the verifier.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached.
    #[error("attach {program} to {target}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The cgroup or interface.
        target: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No cgroup2 mount was found.
    #[error(
        "process 1 has no cgroup2 mount: mount one (`mount -t cgroup2 cgroup2 /sys/fs/cgroup`), \
         or name it with --cgroup-root"
    )]
    NoCgroup2,
    /// The programs do not serve sockets of other cgroups.
    #[error(
        "{root} is the wrong cgroup root: a connect from {tried} did not reach the service load \
         balancer; name the host's cgroup2 root with --cgroup-root, and run the agent with hostPID"
    )]
    WrongCgroupRoot {
        /// What the programs are attached to.
        root: PathBuf,
        /// The cgroup that the self-test connected from.
        tried: PathBuf,
    },
    /// The self-test could not be done.
    #[error("self-test: {act}")]
    SelfTest {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl LoadError {
    fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { act, path, source }
    }
}

/// The loaded dataplane of this node. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Dataplane {
    /// The maps.
    pub maps: BpfMaps,
    pins: PathBuf,
    cgroup_root: PathBuf,
}

impl Dataplane {
    /// Loads the programs, or takes over and replaces those of an earlier run; serves the sockets
    /// of all cgroups below the root when it returns. Uplinks come by
    /// [`Dataplane::attach_uplink`].
    pub fn start(config: &Config) -> Result<Self, LoadError> {
        check_kernel()?;
        let cgroup_root = match &config.cgroup_root {
            Some(root) => root.clone(),
            None => find_root()?,
        };
        pins::prepare(&config.directory)?;
        let pins = config.pins();
        pins::compare(&pins)?;
        programs::load_and_attach(&pins, &cgroup_root)?;
        let mut maps = BpfMaps::open(&pins)?;
        let parent = match &config.selftest_parent {
            Some(parent) => parent.clone(),
            None => find_root().unwrap_or_else(|_| cgroup_root.clone()),
        };
        selftest::connect_from_another_cgroup(&mut maps, &cgroup_root, &parent)?;
        Ok(Self { maps, pins, cgroup_root })
    }

    /// What the socket hooks are attached to.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// Attaches the packet programs to an Ethernet interface, or replaces those of an earlier
    /// run there.
    pub fn attach_uplink(&self, interface: &str) -> Result<UplinkKind, LoadError> {
        uplink::attach(&self.pins, interface)
    }
}

fn check_kernel() -> Result<(), LoadError> {
    let found = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(LoadError::file("read", Path::new("/proc/sys/kernel/osrelease")))?;
    let found = found.trim().to_owned();
    let mut numbers = found.split(['.', '-', '+']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL {
        return Err(LoadError::OldKernel { found });
    }
    sys::membarrier().map_err(|_| LoadError::MissingFeature {
        feature: "membarrier(MEMBARRIER_CMD_GLOBAL)",
        remedy: "use a kernel with CONFIG_MEMBARRIER, and boot it without nohz_full",
    })
}
