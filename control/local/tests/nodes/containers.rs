//! containerd inside of nodes, as an agent runs it: containers, images, crash and boot.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::trial::{Guard, eventually, options, output};
use bowline_local::containerd::{Config, Containerd};
use bowline_local::image::Image;
use bowline_local::{BIN_IN_NODE, Cluster, Node, NodePlan, Plan, Silent, Unit, Workload};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Set in the units: then the test program is the agent.
const AGENT: &str = "BOWLINE_LOCAL_TEST_AGENT";

/// This test program again, as a small agent on every node.
struct Agents;

impl Workload for Agents {
    fn units(&self, plan: &Plan, _: &NodePlan) -> Vec<Unit> {
        let own = std::env::current_exe().expect("a path");
        let own = own.strip_prefix(&plan.bin_dir).expect("below the folder of the binaries");
        let program = format!("{BIN_IN_NODE}/{}", own.display());
        let mut unit =
            Unit::new("agent", [program.as_str(), "--exact", "containers::the_agent_in_a_node"]);
        unit.env.insert(AGENT.to_owned(), "1".to_owned());
        vec![unit]
    }
}

/// Does nothing unless a node runs it as its agent.
#[tokio::test]
async fn the_agent_in_a_node() {
    if std::env::var_os(AGENT).is_some() {
        let containerd = Containerd::ensure(Config::default()).await.expect("containerd");
        containerd.supervise(CancellationToken::new()).await;
    }
}

const IMAGE: &str = "docker.io/bowline/trial:1";

fn ctr(node: &Node, arguments: &str) -> String {
    let script = format!("ctr -a /run/bowline/containerd.sock -n k8s.io {arguments} 2>&1");
    output(node, &["sh", "-c", &script])
}

fn wait_for_containerd(node: &Node) {
    eventually("containerd answers", || {
        let there = node.exec(&["sh", "-c", "ctr -a /run/bowline/containerd.sock version"]);
        there.expect("exec").status.success().then_some(())
    });
}

#[test]
fn containers_run_in_nodes_and_outlive_agent_and_containerd() {
    let _guard = Guard("t-ctr");
    let up = Cluster::up(&options("t-ctr", 2), &Agents, &Silent).expect("up");
    let nodes = up.cluster.nodes();
    nodes.iter().for_each(wait_for_containerd);
    let archive = up.cluster.plan().shared_dir().join("trial.tar");
    Image::busybox(IMAGE).expect("busybox").write(&archive).expect("written");
    assert_eq!(up.cluster.load(&archive, &Silent).expect("loaded"), [IMAGE]);
    let docker = up.cluster.plan().shared_dir().join("docker.tar");
    docker_archive(&docker, "app:2");
    let loaded = up.cluster.load(&docker, &Silent).expect("loaded");
    assert_eq!(loaded, ["docker.io/library/app:2"], "a docker archive");
    let broken = up.cluster.load(&std::env::current_exe().expect("a path"), &Silent);
    let error = broken.expect_err("a program is no archive").to_string();
    assert!(error.contains("does not import the archive"), "{error}");
    let status = up.cluster.status().expect("status");
    let socket = status.nodes[1].containerd_socket_on_host.clone().expect("a socket");
    assert!(socket.exists(), "{}", socket.display());

    for node in &nodes {
        let run = ctr(node, &format!("run --rm {IMAGE} once hostname"));
        assert!(!run.contains("rror"), "{run}");
    }
    let node = &nodes[0];
    ctr(node, &format!("run -d --cgroup /kubepods/x {IMAGE} long sleep 1000"));
    let task = || ctr(node, "tasks ls").lines().find(|l| l.contains("long")).map(str::to_owned);
    let before = task().expect("it runs");
    assert!(before.contains("RUNNING"), "{before}");

    let agent = eventually("an agent", || node.unit_pid("agent").expect("a unit"));
    kill(agent);
    eventually("the next agent", || {
        node.unit_pid("agent").expect("a unit").filter(|p| *p != agent)
    });
    assert_eq!(task().as_ref(), Some(&before), "the agent's death ended a container");
    let containerd = containerd_pid(node).expect("containerd");
    kill(containerd);
    eventually("the next containerd", || containerd_pid(node).filter(|pid| *pid != containerd));
    wait_for_containerd(node);
    assert_eq!(task(), Some(before), "containerd's death ended a container");

    node.crash().expect("crash");
    node.boot().expect("boot");
    wait_for_containerd(node);
    assert!(ctr(node, "images ls -q").contains(IMAGE), "images are on the node's disk");
    assert!(task().is_none(), "a task survived the crash of its node");
}

/// As `docker save` wrote it until version 25: a layer, a configuration, a manifest.
fn docker_archive(path: &Path, tag: &str) {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "file", b"content");
    let layer = layer.into_inner().expect("in memory");
    let digest: String = Sha256::digest(&layer).iter().map(|b| format!("{b:02x}")).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["{tag}"],"Layers":["l.tar"]}}]"#);
    let mut archive = tar::Builder::new(std::fs::File::create(path).expect("a file"));
    append(&mut archive, "l.tar", &layer);
    append(&mut archive, "c.json", config.as_bytes());
    append(&mut archive, "manifest.json", manifest.as_bytes());
    archive.finish().expect("written");
}

fn append(archive: &mut tar::Builder<impl std::io::Write>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).expect("written");
}

fn kill(pid: i32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
    assert!(status.success());
}

/// The host's pid of the node's containerd.
fn containerd_pid(node: &Node) -> Option<i32> {
    let mut command = Command::new("busybox");
    command.args(["pidof", "containerd"]).stdout(Stdio::piped());
    let listed = node.spawn(command).expect("pidof").wait_with_output().expect("its end");
    let inside = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
    let status = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let init = node.init_pid()?;
    let own = std::fs::read_link(format!("/proc/{init}/ns/pid")).ok()?;
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut here = pids.filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|space| space == own)
    });
    here.find(|&pid| {
        status(pid).is_some_and(|text| {
            let line = text.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
            !inside.is_empty() && line.split_whitespace().last() == Some(inside.as_str())
        })
    })
}

/// How long a test of this file may take is bounded by `eventually`; a start of containerd by this.
#[test]
fn containerd_answers_soon_after_a_node_boots() {
    let _guard = Guard("t-soon");
    let start = std::time::Instant::now();
    let up = Cluster::up(&options("t-soon", 1), &Agents, &Silent).expect("up");
    wait_for_containerd(&up.cluster.nodes()[0]);
    println!("up and containerd answers: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));
}
