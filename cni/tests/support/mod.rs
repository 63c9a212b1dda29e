//! Real network namespaces for the plugin's tests: a node, its pods, and the binary run in it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use bowline_cni::link::{Netlink, Netns};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

/// How long anything that should happen may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// `false`, and a line that says so, where the test can't run.
pub(crate) fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: it makes network namespaces, which needs root");
    }
    root
}

/// A network namespace, held by a bind mount.
pub(crate) struct Space {
    pub(crate) path: PathBuf,
    pub(crate) netns: Netns,
}

impl Space {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        File::create(&path).expect("a file to mount on");
        let target = path.clone();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)
                .expect("the namespace is mounted");
        })
        .join()
        .expect("the thread ends");
        let netns = Netns::open(&path).expect("it is a network namespace");
        netns.enter(|| ip("link set lo up")).expect("enter");
        Space { path, netns }
    }

    pub(crate) fn netlink(&self) -> Netlink {
        self.netns.enter(Netlink::open).expect("enter").expect("netlink")
    }

    pub(crate) fn inside<T>(&self, run: impl FnOnce() -> T) -> T {
        self.netns.enter(run).expect("enter")
    }

    /// Runs `ip` in here; it must succeed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.inside(|| ip(arguments))
    }

    /// Whether a connection from here to `listener` in `other` carries bytes both ways.
    pub(crate) fn reaches(&self, other: &Space, address: IpAddr) -> bool {
        let listener = other.inside(|| TcpListener::bind((address, 0)).expect("listen"));
        let target = listener.local_addr().expect("bound");
        let echo = thread::spawn(move || {
            listener.set_nonblocking(true).expect("non-blocking");
            let until = Instant::now() + DEADLINE;
            while Instant::now() < until {
                if let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nonblocking(false).expect("blocking");
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("a byte comes");
                    stream.write_all(&byte).expect("it goes back");
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let reached = self.inside(|| exchange(target));
        echo.join().expect("the echo ends");
        reached
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

fn exchange(target: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&target, Duration::from_secs(2)) else {
        return false;
    };
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"x"
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node with its state directory.
pub(crate) struct Node {
    pub(crate) space: Space,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ranges: Vec<&'static str>,
}

/// What a run of the plugin gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) ok: bool,
    pub(crate) stdout: Value,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn code(&self) -> u64 {
        self.stdout["code"].as_u64().unwrap_or_default()
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.stdout["ips"].as_array().expect("a result with addresses");
        let text = |ip: &Value| ip["address"].as_str().expect("text").to_owned();
        let host = |text: String| text.split('/').next().and_then(|host| host.parse().ok());
        ips.iter().map(|ip| host(text(ip)).expect("an address")).collect()
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let space = Space::new(dir.path(), "node");
        // As on any node, some link comes before the pods'. (The kernel takes a second to tell that
        // a link has a carrier if both ends of the pair happen to have the same number.)
        space.ip("link add first0 type veth peer name first1");
        Node { space, dir, ranges: vec!["10.244.1.0/24", "fd00:244:1::/64"] }
    }

    pub(crate) fn pod(&self, name: &str) -> Space {
        Space::new(self.dir.path(), name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn config(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "bowline", "type": "bowline-cni",
            "ranges": self.ranges, "stateDir": self.state(),
        })
    }

    pub(crate) fn command(&self, act: &str, id: &str, netns: Option<&Path>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline-cni"));
        command
            .env_clear()
            .env("CNI_COMMAND", act)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={id};K8S_POD_UID=u"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(netns) = netns {
            command.env("CNI_NETNS", netns);
        }
        command
    }

    /// Runs the plugin in the node's namespace with these bytes as its configuration.
    pub(crate) fn run_raw(&self, act: &str, id: &str, netns: Option<&Path>, stdin: &[u8]) -> Ran {
        let mut command = self.command(act, id, netns);
        let mut child = self.space.inside(|| command.spawn().expect("the plugin starts"));
        child.stdin.take().expect("piped").write_all(stdin).expect("it reads its configuration");
        read(child.wait_with_output().expect("it ends"))
    }

    pub(crate) fn run(&self, act: &str, id: &str, netns: Option<&Path>) -> Ran {
        self.run_raw(act, id, netns, self.config().to_string().as_bytes())
    }

    /// ADD that must succeed.
    pub(crate) fn add(&self, id: &str, pod: &Space) -> Ran {
        let ran = self.run("ADD", id, Some(&pod.path));
        assert!(ran.ok, "ADD {id}: {ran:?}");
        ran
    }

    pub(crate) fn del(&self, id: &str) {
        let ran = self.run("DEL", id, None);
        assert!(ran.ok, "DEL {id}: {ran:?}");
    }

    pub(crate) fn check(&self, id: &str, pod: &Space, result: &Value) -> Ran {
        let mut config = self.config();
        config["prevResult"] = result.clone();
        self.run_raw("CHECK", id, Some(&pod.path), config.to_string().as_bytes())
    }

    /// Names of the node's links that are the plugin's.
    pub(crate) fn links(&self) -> Vec<String> {
        let links = self.space.netlink().links().expect("links");
        let names = links.into_iter().map(|link| link.name);
        names.filter(|name| name.starts_with("bwl")).collect()
    }

    /// Names of the files in a directory of the state.
    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.state().join(directory)) else { return vec![] };
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    /// Nothing of any pod is on the node.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.links(), [] as [&str; 0], "links on the node");
        assert_eq!(self.files("addresses"), [] as [&str; 0], "addresses in use");
        assert_eq!(self.files("attachments"), [] as [&str; 0], "attachments");
        assert!(!self.space.ip("route").contains("10.244."), "routes on the node");
    }
}

pub(crate) fn read(output: Output) -> Ran {
    let stdout = match output.stdout.as_slice() {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes).expect("stdout is JSON"),
    };
    Ran {
        ok: output.status.success(),
        stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
