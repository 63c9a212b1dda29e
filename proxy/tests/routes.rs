//! Routes, masquerade and forwarding on real kernels: each test is a node in a network namespace of
//! its own, with its pod and the outside in two more. Needs root, `ip` and `nft`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use bowline_proxy::routes::{self, Config, Peers};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch;

/// A namespace that a thread holds, by a name for `ip link set ... netns`.
struct Held {
    path: String,
    /// Asks the thread to run something; it ends with the sender.
    jobs: std::sync::mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Held {
    fn new() -> Self {
        let (jobs, queue) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, path) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            ready.send(format!("/proc/{}/ns/net", nix::unistd::gettid())).expect("a waiting test");
            queue.into_iter().for_each(|job| job());
        });
        Self { path: path.recv().expect("the thread started"), jobs }
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = std::sync::mpsc::channel();
        let job = Box::new(move || drop(send.send(work())));
        self.jobs.send(job).expect("the namespace's thread lives");
        receive.recv().expect("the work did not panic")
    }
}

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh runs");
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {says}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The calling thread becomes a node: eth0 to the outside (which is 192.0.2.9), and a pod.
struct Node {
    pod: Held,
    outside: Held,
}

impl Node {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: run them with sudo");
        let _once = tracing_subscriber::fmt().with_test_writer().try_init();
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        let (pod, outside) = (Held::new(), Held::new());
        sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", outside.path));
        sh(&format!("ip link add pod0 type veth peer name eth0 netns {}", pod.path));
        sh("ip link set lo up; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up");
        sh("ip addr add 10.244.0.1/24 dev pod0; ip link set pod0 up");
        outside.run(|| {
            sh("ip link set lo up; ip addr add 192.0.2.9/24 dev eth0; ip link set eth0 up");
        });
        pod.run(|| {
            sh("ip addr add 10.244.0.5/24 dev eth0; ip link set eth0 up");
            sh("ip route add default via 10.244.0.1");
        });
        Self { pod, outside }
    }

    /// The address that the outside sees when the pod connects, if it can.
    fn source_seen_outside(&self) -> Option<IpAddr> {
        let listener = self.outside.run(|| TcpListener::bind("192.0.2.9:80").expect("a port"));
        listener.set_nonblocking(false).expect("a blocking listener");
        let connected = self.pod.run(|| {
            let to = SocketAddr::from(([192, 0, 2, 9], 80));
            TcpStream::connect_timeout(&to, Duration::from_millis(300))
        });
        let mut stream = connected.ok()?;
        let (mut accepted, from) = listener.accept().expect("a connection");
        stream.write_all(b"x").expect("it is open");
        accepted.read_exact(&mut [0]).expect("the byte comes");
        Some(from.ip())
    }
}

fn peers(nodes: &[(&str, &str, &str)], complete: bool) -> Peers {
    let mut peers = Peers::default();
    peers.complete = complete;
    for (name, address, range) in nodes {
        let json = serde_json::json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        peers.set(&serde_json::from_value(json).expect("the node parses"));
    }
    peers
}

const OWN: (&str, &str, &str) = ("here", "192.0.2.1", "10.244.0.0/24");
const OTHER: (&str, &str, &str) = ("there", "192.0.2.2", "10.244.1.0/24");
const ANOTHER: (&str, &str, &str) = ("yonder", "192.0.2.3", "10.244.2.0/24");

/// Runs the routes' task on this thread, in its namespace, while `test` drives it.
fn with_routes(first: Peers, test: impl AsyncFnOnce(watch::Sender<Peers>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (sender, receiver) = watch::channel(first);
        let cluster_cidrs = vec!["10.244.0.0/16".parse().expect("a literal")];
        let config = Config { node: "here".into(), cluster_cidrs };
        let task = tokio::task::LocalSet::new();
        task.spawn_local(routes::run(config, receiver));
        task.run_until(test(sender)).await;
    });
}

/// Waits until `found` says what is wanted.
async fn until(what: &str, found: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !found() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn our_routes() -> Vec<String> {
    let lines = sh("ip route show proto 196");
    let to_nodes = lines.lines().filter(|line| !line.starts_with("unreachable"));
    to_nodes.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn routes_follow_the_nodes() {
    let _node = Node::new();
    with_routes(peers(&[OWN, OTHER, ANOTHER], true), async |sender| {
        let (first, second) = (
            "10.244.1.0/24 via 192.0.2.2 dev eth0".to_owned(),
            "10.244.2.0/24 via 192.0.2.3 dev eth0".to_owned(),
        );
        until("both routes are there", || our_routes() == [first.clone(), second.clone()]).await;
        sh("ip route add 10.99.0.0/24 via 192.0.2.7");
        let moved = ("there", "192.0.2.4", "10.244.1.0/24");
        sender.send_replace(peers(&[OWN, moved], true));
        let wanted = "10.244.1.0/24 via 192.0.2.4 dev eth0".to_owned();
        until("the route moved, the gone node's went", || our_routes() == [wanted.clone()]).await;
        assert!(sh("ip route").contains("10.99.0.0/24"), "another's route is not ours to delete");
        assert!(
            sh("ip route show proto 196").contains("unreachable 10.244.0.0/24"),
            "what is for no pod of this node must not leave by the default route"
        );
        routes::remove_all().await.expect("they can be removed");
        assert_eq!(our_routes(), [""; 0]);
    });
}

#[test]
fn routes_stay_until_all_nodes_are_known() {
    let _node = Node::new();
    sh("ip route add 10.244.7.0/24 via 192.0.2.7 proto 196");
    with_routes(peers(&[OWN, OTHER], false), async |sender| {
        until("the new route is there", || our_routes().len() == 2).await;
        sender.send_replace(peers(&[OWN, OTHER], true));
        until("the stale one went", || our_routes().len() == 1).await;
    });
}

#[test]
fn a_node_off_the_link_leaves_the_others_routes_alone() {
    let _node = Node::new();
    let far = ("far", "198.51.100.7", "10.244.9.0/24");
    with_routes(peers(&[far, OWN, OTHER], true), async |_sender| {
        until("the reachable node's route is there", || our_routes().len() == 1).await;
        assert!(our_routes()[0].starts_with("10.244.1.0/24"));
    });
}

#[test]
fn pods_reach_the_outside_under_the_nodes_address() {
    let node = Node::new();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("root may write it");
    assert_eq!(node.source_seen_outside(), None);
    with_routes(peers(&[OWN], true), async |_sender| {
        let own: IpAddr = [192, 0, 2, 1].into();
        until("the pod gets out", || node.source_seen_outside() == Some(own)).await;
    });
    routes::remove_table().expect("it can be removed");
    routes::remove_table().expect("removing nothing succeeds");
    assert!(!sh("nft list tables").contains("bowline"));
}

#[test]
fn a_forward_chain_that_drops_lets_pods_through() {
    let node = Node::new();
    sh("nft add table ip filter; \
        nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
    sh("nft add table inet fw; \
        nft 'add chain inet fw forward_all { type filter hook forward priority 5; policy drop; }'");
    with_routes(peers(&[OWN], true), async |_sender| {
        until("the pod gets out", || node.source_seen_outside().is_some()).await;
    });
    let rules = || sh("nft list ruleset | grep -c 'bowline: pods' || true").trim().to_owned();
    assert_eq!(rules(), "4", "two rules in each chain\n{}", sh("nft list ruleset"));
    with_routes(peers(&[OWN], true), async |_sender| {
        until("the pod gets out", || node.source_seen_outside().is_some()).await;
    });
    assert_eq!(rules(), "4", "the second agent adds none");
    routes::undo_forwarding().expect("it can be undone");
    assert_eq!(rules(), "0");
}

#[test]
fn a_legacy_forward_chain_that_drops_lets_pods_through() {
    let node = Node::new();
    sh("iptables-legacy -P FORWARD DROP");
    with_routes(peers(&[OWN], true), async |_sender| {
        until("the pod gets out", || node.source_seen_outside().is_some()).await;
    });
    let rules =
        || sh("iptables-legacy -S FORWARD | grep -c 'bowline: pods' || true").trim().to_owned();
    assert_eq!(rules(), "2");
    routes::undo_forwarding().expect("it can be undone");
    assert_eq!(rules(), "0");
}
