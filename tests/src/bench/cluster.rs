//! A one-node cluster of the bench's own: up at its start, removed at its end.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, ensure};
use bowline_local::{Cluster, Node};

use crate::harness::{Kubectl, TESTKIT_IMAGE, bin_dir, load_testkit};

/// The cluster's name, for `bowline local --cluster bench ...`.
pub const NAME: &str = "bench";
/// Its only node.
pub const NODE: &str = "n1";
/// The pod that sends requests.
pub const CLIENT: &str = "client";
/// The pod that answers them.
pub const SERVER: &str = "server";
/// The port on which it does, straight and behind the cluster's services.
pub const SERVER_PORT: u16 = 8080;
/// The port of a second, equal server in the same pod, behind the iptables rules: one server would
/// mistake their clients' connections for repeats of those that it has just closed.
pub const SECOND_PORT: u16 = 8081;

/// The cluster while the bench runs; dropping it removes the cluster.
pub struct BenchCluster {
    cluster: Cluster,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
}

impl BenchCluster {
    /// Brings it up afresh; what a run before has left goes first.
    pub fn up() -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the bench makes namespaces and loads eBPF programs: run it as root"
        );
        let kubeconfig = std::env::temp_dir().join("bowline-bench.kubeconfig");
        local(&["down"])?;
        let removed_on_failure = Removal;
        let file = format!("--kubeconfig={}", kubeconfig.display());
        local(&["up", "--nodes=1", &file])?;
        let cluster =
            Cluster::open(NAME, None)?.context("the cluster came up and has no record")?;
        load_testkit(&cluster);
        std::mem::forget(removed_on_failure);
        let kubectl = Kubectl::newest(&kubeconfig).in_namespace("default");
        Ok(Self { cluster, kubeconfig, kubectl })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn node(&self) -> anyhow::Result<Node> {
        Ok(self.cluster.node(NODE)?)
    }

    /// containerd's socket, as this process can open it.
    pub fn containerd_socket(&self) -> anyhow::Result<PathBuf> {
        let status = self.cluster.status()?;
        let node = status.nodes.into_iter().find(|node| node.name == NODE);
        node.and_then(|node| node.containerd_socket_on_host).context("the node has no containerd")
    }

    /// Standard output of a kubectl command.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl.try_run(arguments).map_err(|error| anyhow!(error))
    }

    /// Makes the client and the server and waits until they are ready; the server's address.
    pub fn start_pods(&self) -> anyhow::Result<std::net::Ipv4Addr> {
        let manifest = pod(CLIENT, "[sleep, infinity]", "")
            + "---\n"
            + &pod(
                SERVER,
                "[testkit, serve]",
                &format!(
                    "    readinessProbe: {{tcpSocket: {{port: {SERVER_PORT}}}, periodSeconds: 1}}\n\
                     \x20 - name: second\n    image: {TESTKIT_IMAGE}\n\
                     \x20   command: [testkit, serve, --port={SECOND_PORT}]\n\
                     \x20   readinessProbe: {{tcpSocket: {{port: {SECOND_PORT}}}, \
                     periodSeconds: 1}}\n"
                ),
            );
        let output = self.kubectl.output_with_input(&["apply", "-f", "-"], &manifest);
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ready = "--for=condition=Ready";
        self.kubectl(&["wait", "pod", CLIENT, SERVER, ready, "--timeout=60s"])?;
        let path = "-o=jsonpath={.status.podIP}";
        let address = self.kubectl(&["get", "pod", SERVER, path])?;
        address.trim().parse().with_context(|| format!("the server's address {address:?}"))
    }

    /// Output of a command that succeeds in the node, with `input` to read.
    pub fn in_node(&self, command: &[&str], input: &str) -> anyhow::Result<String> {
        let (program, arguments) = command.split_first().context("a command has a program")?;
        let mut full = Command::new(program);
        full.args(arguments);
        full.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.node()?.spawn(full)?;
        let mut stdin = child.stdin.take().context("standard input was piped")?;
        // None of the commands writes much before it has read its input whole.
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} in the node: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Removes the cluster when the user stops the bench (SIGINT), wherever it is then.
pub fn remove_when_stopped() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            eprintln!("bench: stopped; its cluster is removed");
            drop(Removal);
            std::process::exit(130);
        }
    });
    Ok(())
}

impl Drop for BenchCluster {
    fn drop(&mut self) {
        drop(Removal);
        let _may_be_gone = std::fs::remove_file(&self.kubeconfig);
    }
}

/// Removes the cluster when it is dropped.
struct Removal;

impl Drop for Removal {
    fn drop(&mut self) {
        if let Err(error) = local(&["down"]) {
            eprintln!(
                "the cluster is not removed whole, `bowline local --cluster {NAME} down`: {error}"
            );
        }
    }
}

/// `bowline local --cluster bench ...`, its progress on our standard error.
fn local(arguments: &[&str]) -> anyhow::Result<()> {
    let program = bin_dir().join("bowline");
    let status = Command::new(&program)
        .args(["local", "--cluster", NAME])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // A second control-C does not stop the removal.
        .process_group(if arguments == ["down"] { 0 } else { nix::unistd::getpgrp().as_raw() })
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    ensure!(status.success(), "bowline local {arguments:?} failed: {status}");
    Ok(())
}

fn pod(name: &str, command: &str, further: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n\
         \x20 terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n\
         \x20   image: {TESTKIT_IMAGE}\n    command: {command}\n{further}"
    )
}
