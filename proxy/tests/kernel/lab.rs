//! A place of its own for each test: network and mount namespace, bpf file system, cgroup.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use bowline_proxy::loader::{self, Config, Dataplane};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// What a test works in. The process runs nothing else: the test runner starts one for each test.
pub(crate) struct Lab {
    pub(crate) config: Config,
    cgroup: PathBuf,
    home: PathBuf,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Moves the calling thread (and threads that it starts) into a new lab.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "kernel tests need root: run them with sudo");
        let mounts = loader::find_root().expect("this machine has a cgroup2 mount");
        let name = format!(
            "bowline-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = mounts.join(&name);
        fs::create_dir(&cgroup).expect("make a cgroup");
        fs::create_dir(cgroup.join("client")).expect("make a cgroup");
        let home = mounts.join(own_cgroup().trim_start_matches('/'));
        enter(&cgroup.join("client"));

        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private /");
        let bpf = Path::new("/sys/fs/bpf");
        mount(Some("bpf"), bpf, Some("bpf"), MsFlags::empty(), none).expect("mount bpf");
        // A network namespace's own sysctls are seen through a procfs mounted in it.
        ip("link set lo up");
        let config = Config {
            directory: bpf.join("bowline"),
            cgroup_root: Some(cgroup.clone()),
            selftest_parent: Some(cgroup.clone()),
        };
        Self { config, cgroup, home }
    }

    /// Loads the programs, or loads them again.
    pub(crate) fn start(&self) -> Dataplane {
        Dataplane::start(&self.config).unwrap_or_else(|error| panic!("start: {}", chain(&error)))
    }

    /// A cgroup that the programs do not serve.
    pub(crate) fn leave_cgroup(&self) {
        enter(&self.home);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        enter(&self.home);
        for _ in 0..200 {
            let _ = fs::remove_dir(self.cgroup.join("client"));
            if fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// An error with its causes, as the agent prints it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn own_cgroup() -> String {
    let text = fs::read_to_string("/proc/self/cgroup").expect("read the own cgroup");
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.expect("a cgroup2 line").to_owned()
}

fn enter(cgroup: &Path) {
    let mut procs = fs::OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"))
        .expect("open cgroup.procs");
    procs.write_all(b"0").expect("enter the cgroup");
}

/// Runs `ip` in the calling thread's network namespace.
pub(crate) fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

fn run(command: &mut Command) {
    let output = command.output().expect("start ip (package iproute2)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

/// Another network namespace.
pub(crate) struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// A new one, with its loopback interface up.
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            ip("link set lo up");
            OwnedFd::from(fs::File::open("/proc/thread-self/ns/net").expect("open the namespace"))
        });
        Self { fd: made.join().expect("make a namespace") }
    }

    /// A name for `ip link set ... netns`.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Starts a thread that runs in this namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let fd = self.fd.try_clone().expect("duplicate a descriptor");
        std::thread::spawn(move || {
            setns(&fd, CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        })
    }

    /// Runs something in this namespace and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
