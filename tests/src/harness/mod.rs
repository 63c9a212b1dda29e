//! A real cluster for a test: three namespaced nodes, real containerd, real kubectl.
//!
//! The cluster `test` is brought up by the first test that wants it and kept for the next; one test
//! has it at a time (a file lock). Each test has a namespace of its own, removed at its end. A test
//! that fails prints what is needed to see why.

mod diagnosis;
mod kubectl;
mod traffic;
mod wait;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_local::image::Image;
use bowline_local::{Cluster, Node, Silent};
use nix::fcntl::{Flock, FlockArg};

pub use kubectl::Kubectl;
pub use traffic::{Running, reports_of};
pub use wait::{eventually, eventually_some};

/// Nodes of the cluster that the scenarios run on.
pub const NODES: usize = 3;
/// Seconds of silence after which a node counts as lost, in tests.
pub const NODE_GRACE_SECONDS: u64 = 5;
/// The image of servers and clients in tests: busybox and `/bin/testkit`.
pub const TESTKIT_IMAGE: &str = "bowline/testkit:0.1.0";

const NAME: &str = "test";

/// The cluster, for as long as one test holds it.
pub struct TestCluster {
    cluster: Cluster,
    kubectl: Kubectl,
    namespace: String,
    _turn: Flock<File>,
}

/// The folder of the binaries under test: beside the test's own.
pub fn bin_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its path");
    let folder = own.parent().expect("a program is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    folder.to_owned()
}

/// The one cluster of this machine is used by one test at a time.
pub fn turn() -> Flock<File> {
    assert!(
        nix::unistd::geteuid().is_root(),
        "cluster tests make namespaces and load eBPF programs: run them as root (sudo -E make test)"
    );
    let file = File::create("/run/lock/bowline-tests.lock").expect("the lock file can be made");
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("lock")
}

/// Runs the `bowline` command under test; its output when it succeeds.
pub fn bowline(arguments: &[&str]) -> String {
    let output = Command::new(bin_dir().join("bowline"))
        .args(arguments)
        .output()
        .expect("bowline was built with the tests");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "bowline {arguments:?} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

impl TestCluster {
    /// The cluster with a fresh namespace named after the test.
    pub fn get(test: &str) -> Self {
        let turn = turn();
        let kubeconfig = std::env::temp_dir().join("bowline-test.kubeconfig");
        let up = [
            "local".to_owned(),
            format!("--cluster={NAME}"),
            "up".to_owned(),
            format!("--nodes={NODES}"),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--server-arg=--node-monitor-grace={NODE_GRACE_SECONDS}"),
            "--agent-arg=--lease-period=1".to_owned(),
        ];
        bowline(&up.iter().map(String::as_str).collect::<Vec<_>>());
        let cluster = Cluster::open(NAME, None).expect("its record is whole").expect("it is up");
        load_testkit(&cluster);
        let namespace = format!("t-{test}-{}", std::process::id());
        let kubectl = Kubectl::newest(&kubeconfig).in_namespace(&namespace);
        kubectl.run(&["create", "namespace", &namespace]);
        let this = Self { cluster, kubectl, namespace, _turn: turn };
        eventually("the namespace has its default service account", 10, || {
            this.kubectl.try_run(&["get", "serviceaccount", "default"]).map(drop)
        });
        this
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A node by its name, `n1` to `n3`.
    pub fn node(&self, name: &str) -> Node {
        self.cluster.node(name).expect("the cluster has this node")
    }

    /// Addresses of all nodes, as a client outside uses them.
    pub fn node_addresses(&self) -> Vec<String> {
        self.cluster.plan().nodes.iter().map(|node| node.address.to_string()).collect()
    }

    /// Runs a command in a node to its end; its output.
    pub fn in_node(&self, node: &str, command: &[&str]) -> String {
        let output = self.node(node).exec(command).expect("the node runs commands");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// Waits until all nodes are Ready and all add-ons run.
    pub fn converged(&self) {
        eventually("all nodes are Ready and all add-ons run", 90, || {
            let nodes = self.kubectl.try_run(&["get", "nodes", "--no-headers"])?;
            let ready = nodes.lines().filter(|line| line.contains(" Ready")).count();
            let sets = self.kubectl.try_run(&[
                "get", "daemonset", "-n", "kube-system", "-o",
                "jsonpath={range .items[*]}{.metadata.name}={.status.numberReady}/{.status.desiredNumberScheduled} {end}",
            ])?;
            let wanted = format!("{NODES}/{NODES}");
            let whole = sets.split_whitespace().filter(|set| set.ends_with(&wanted)).count();
            if ready == NODES && whole == 2 { Ok(()) } else { Err(format!("{nodes}{sets}")) }
        });
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            diagnosis::print(&self.cluster, &self.kubectl);
        }
        let _gone = self.kubectl.try_run(&[
            "delete",
            "namespace",
            &self.namespace,
            "--wait=false",
            "--ignore-not-found",
        ]);
    }
}

/// Packs the test program and busybox into an image on every node, once for each build of it.
pub(crate) fn load_testkit(cluster: &Cluster) {
    let program = bin_dir().join("bowline-testkit");
    let stamp = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let archive = cluster.plan().shared_dir().join("testkit.tar");
    if stamp(&archive).is_some() && stamp(&archive) >= stamp(&program) {
        return;
    }
    let beside = archive.with_extension("tar.new");
    Image::busybox(TESTKIT_IMAGE)
        .expect("busybox-static is installed by the set-up")
        .file(&program, "/bin/testkit", 0o755)
        .write(&beside)
        .expect("the image can be written");
    cluster.load(&beside, &Silent).expect("every node takes the image");
    std::fs::rename(&beside, &archive).expect("the archive's name is free");
}
