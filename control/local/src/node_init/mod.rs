//! A node's PID 1: `bowline local node-init SPEC`.
//!
//! Two processes. The *launcher* joins the node's cgroups, enters new namespaces and forks; its
//! child is PID 1 of the node: it mounts, makes the network, reports through a pipe and then keeps
//! the units running until it is told to stop. The launcher waits for the report, hands it on
//! (stdout and exit 0, or stderr and exit 1) and leaves.
//!
//! The launcher's stdin is the cluster's lock file: whoever waits for the lock knows that no
//! half-made node is still being made, also when `up` itself was killed.

pub(crate) mod mounts;
pub(crate) mod spec;
pub(crate) mod supervise;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns, unshare};

use crate::cgroup::{CgroupError, Layout};
use crate::net::lan::BRIDGE;
use crate::net::link::{Links, Peer, mac_of};
use crate::sys;
use spec::Spec;

/// The node's link into the cluster's network.
const UPLINK: &str = "eth0";

/// What the init writes when the node is made; anything else is an error's text.
const READY: &str = "ready";

/// Sysctls of the node's own network namespace.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    // Bridged frames would otherwise pass iptables rules that are meant for routed packets.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
];

/// Why a node can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("read the node's spec {0}")]
    Spec(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("open the cluster's network namespace {0}")]
    Lan(PathBuf, #[source] io::Error),
    #[error("make the node's namespaces")]
    Namespaces(#[source] io::Error),
    #[error("start the node's first process")]
    Fork(#[source] io::Error),
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error("join the node's network")]
    Network(#[source] io::Error),
    #[error("set the node's hostname")]
    Hostname(#[source] io::Error),
    #[error("open the log {0}")]
    Log(PathBuf, #[source] io::Error),
    #[error("watch the node's units")]
    Supervise(#[source] io::Error),
    #[error("{0}")]
    Reported(String),
}

/// Runs `node-init SPEC`: makes the node of the spec file, reports that it runs, and leaves its
/// PID 1 behind.
///
/// Must be called before the process starts any thread: new pid namespaces hold new processes
/// only, and a fork keeps one thread.
#[must_use]
pub fn main(spec: &Path) -> ExitCode {
    match launch(spec) {
        Ok(Side::Launcher(init)) => {
            // `up` may have been killed meanwhile: then nobody reads this.
            let _ = writeln!(io::stdout(), "{init}");
            ExitCode::SUCCESS
        }
        Ok(Side::Init) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

enum Side {
    /// With the host's pid of the node's init.
    Launcher(i32),
    /// The init itself, at the end of the node's life.
    Init,
}

fn launch(path: &Path) -> Result<Side, InitError> {
    sys::close_inherited().map_err(InitError::Fork)?;
    let spec = Spec::read(path).map_err(|error| InitError::Spec(path.to_owned(), error))?;
    let layout = Layout::read()?;
    layout.join(&spec.cgroup)?;
    let lan = File::open(&spec.lan)
        .and_then(|lan| {
            setns(lan.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Links::open()
        })
        .map_err(|error| InitError::Lan(spec.lan.clone(), error))?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID,
    )
    .map_err(|error| InitError::Namespaces(error.into()))?;
    let (report, reporter) = io::pipe().map_err(InitError::Fork)?;
    match sys::fork_single_threaded().map_err(InitError::Fork)? {
        Some(init) => {
            drop(reporter);
            await_report(report)?;
            Ok(Side::Launcher(init.as_raw()))
        }
        None => {
            drop(report);
            run_init(&spec, &layout, lan, reporter);
            Ok(Side::Init)
        }
    }
}

fn await_report(mut report: impl Read) -> Result<(), InitError> {
    let mut text = String::new();
    report.read_to_string(&mut text).map_err(InitError::Fork)?;
    match text.as_str() {
        READY => Ok(()),
        "" => Err(InitError::Reported("the node's first process died without a word".to_owned())),
        error => Err(InitError::Reported(error.to_owned())),
    }
}

/// The life of PID 1. Errors before the report go through the pipe, later ones to the log.
fn run_init(spec: &Spec, layout: &Layout, lan: Links, mut reporter: impl Write) {
    let made = make_node(spec, layout, lan)
        .and_then(|()| supervise::Supervisor::new(spec, layout.v2()).map_err(InitError::Supervise));
    let supervisor = match made {
        Ok(supervisor) => supervisor,
        Err(error) => {
            let _ = reporter.write_all(chain(&error).as_bytes());
            return;
        }
    };
    let _ = reporter.write_all(READY.as_bytes());
    drop(reporter);
    if let Err(error) = supervisor.run() {
        eprintln!("{}", chain(&InitError::Supervise(error)));
    }
}

fn make_node(spec: &Spec, layout: &Layout, lan: Links) -> Result<(), InitError> {
    detach_from_terminal(&spec.dir)?;
    // The host's /proc still shows this namespace; it is replaced below.
    let own = File::open("/proc/self/ns/net").map_err(InitError::Network)?;
    mounts::make(spec, layout)?;
    nix::unistd::sethostname(&spec.name).map_err(|error| InitError::Hostname(error.into()))?;
    join_network(spec, lan, &own).map_err(InitError::Network)
}

/// Own session, stdin from nowhere, stdout and stderr to the init's log. Replacing stdin also lets
/// go of the cluster's lock.
fn detach_from_terminal(dir: &Path) -> Result<(), InitError> {
    let _ = nix::unistd::setsid();
    let path = dir.join("logs/init.log");
    let open = || -> io::Result<()> {
        let log: OwnedFd = OpenOptions::new().create(true).append(true).open(&path)?.into();
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        nix::unistd::dup2_stdout(&log)?;
        nix::unistd::dup2_stderr(&log)?;
        Ok(())
    };
    open().map_err(|error| InitError::Log(path.clone(), error))
}

fn join_network(spec: &Spec, mut lan: Links, own: &File) -> io::Result<()> {
    let bridge = lan.index(BRIDGE)?.ok_or(io::ErrorKind::NotFound)?;
    // Of a node that crashed a moment ago: its namespace may not be gone yet.
    lan.delete(&spec.name)?;
    let peer = Peer { name: UPLINK, netns: own.as_fd(), mac: mac_of(spec.address) };
    lan.add_veth(&spec.name, Some(bridge), peer)?;
    let mut links = Links::open()?;
    for name in ["lo", UPLINK] {
        let index = links.index(name)?.ok_or(io::ErrorKind::NotFound)?;
        if name == UPLINK {
            links.add_address(index, spec.address, spec.prefix)?;
        }
        links.set_up(index)?;
    }
    links.add_default_route(spec.gateway)?;
    for (name, value) in SYSCTLS {
        // Absent where the kernel lacks IPv6 or the bridge filter.
        match fs::write(Path::new("/proc/sys").join(name), value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
