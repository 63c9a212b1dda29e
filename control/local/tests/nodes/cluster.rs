//! Nodes on this machine, as root: made, entered, crashed, removed, and nothing left.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::trial::{Greeters, Guard, PORT, eventually, options, output, up};
use bowline_local::{Cluster, NodePlan, NodeState, Options, Plan, Silent, Unit, Workload};

#[test]
fn three_nodes_reach_each_other_and_the_host_reaches_them() {
    let (cluster, booted, _guard) = up("t-reach", 3);
    assert_eq!(booted, ["n1", "n2", "n3"]);
    for node in cluster.nodes() {
        for other in cluster.nodes() {
            let address = other.plan().address;
            let ask = format!("busybox timeout 2 busybox nc {address} {PORT} </dev/null");
            let heard = eventually("a node's answer", || {
                Some(output(&node, &["sh", "-c", &ask])).filter(|text| !text.is_empty())
            });
            assert_eq!(heard, other.plan().name);
        }
        let host = (node.plan().address, PORT);
        TcpStream::connect(host).expect("the host reaches a node");
    }
}

#[test]
fn a_command_runs_in_every_namespace_and_cgroup_of_its_node() {
    let (cluster, _, _guard) = up("t-exec", 2);
    let node = cluster.node("n2").expect("n2");
    assert_eq!(output(&node, &["hostname"]), "n2");
    let groups = output(&node, &["cat", "/proc/self/cgroup"]);
    for line in groups.lines() {
        let path = line.rsplit(':').next().expect("a path");
        assert!(path == "/" || path == "/init", "outside of the node's cgroups: {line}");
    }
    let init = node.init_pid().expect("an init");
    for kind in ["net", "mnt", "cgroup", "uts", "ipc", "pid"] {
        let theirs = std::fs::read_link(format!("/proc/{init}/ns/{kind}")).expect("a namespace");
        let own = output(&node, &["readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(own, theirs.to_string_lossy(), "another {kind} namespace");
    }
    let failed = node.exec(&["sh", "-c", "echo no >&2; exit 3"]).expect("it runs");
    assert_eq!((failed.status.code(), failed.stderr.as_slice()), (Some(3), b"no\n".as_slice()));
    let absent = node.exec(&["no-such-program"]).expect_err("it is absent");
    assert!(absent.to_string().contains("no-such-program in node n2"), "{absent}");
}

#[test]
fn nodes_see_neither_each_others_files_nor_change_the_hosts() {
    let (cluster, _, _guard) = up("t-files", 2);
    let (one, two) = (cluster.node("n1").expect("n1"), cluster.node("n2").expect("n2"));
    let write = "for d in /etc /opt /run /tmp /var/lib /var/lib/kubelet /var/lib/bowline /var/log \
                 /dev/shm /sys/fs/bpf; do mkdir $d/bowline-mark || exit 1; done; \
                 echo 10 > /proc/sys/kernel/panic; hostname changed";
    let before = std::fs::read_to_string("/proc/sys/kernel/panic").expect("a sysctl");
    let wrote = one.exec(&["sh", "-c", write]).expect("it runs");
    assert!(wrote.status.success(), "{}", String::from_utf8_lossy(&wrote.stderr));
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").expect("a sysctl"), before);
    let look = "ls -d /etc/bowline-mark /opt/bowline-mark /run/bowline-mark /tmp/bowline-mark \
                /var/lib/bowline-mark /var/lib/*/bowline-mark /var/log/bowline-mark \
                /dev/shm/bowline-mark /sys/fs/bpf/bowline-mark 2>/dev/null";
    assert_eq!(output(&two, &["sh", "-c", look]), "");
    let host = Command::new("sh").args(["-c", look]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&host.stdout), "");
    let shared = cluster.plan().shared_dir().join("note");
    std::fs::write(&shared, "for all").expect("the host writes");
    for node in [&one, &two] {
        assert_eq!(output(node, &["cat", "/run/bowline/shared/note"]), "for all");
    }
    assert!(output(&two, &["cat", "/etc/hosts"]).contains(" n1"), "nodes know each other by name");
}

#[test]
fn a_crashed_node_boots_again_with_its_disk_and_up_leaves_what_runs() {
    let (cluster, _, _guard) = up("t-crash", 2);
    let (one, two) = (cluster.node("n1").expect("n1"), cluster.node("n2").expect("n2"));
    output(&one, &["sh", "-c", "echo kept > /var/lib/bowline/kept; echo gone > /run/gone"]);
    let survivor = two.init_pid();
    one.crash().expect("crash");
    assert_eq!(one.init_pid(), None);
    assert!(one.exec(&["true"]).expect_err("it is down").to_string().contains("n1 is down"));
    assert_eq!(cluster.status().expect("status").nodes[0].state, NodeState::Down);
    one.boot().expect("boot");
    assert_eq!(output(&one, &["cat", "/var/lib/bowline/kept"]), "kept");
    assert_eq!(output(&one, &["sh", "-c", "cat /run/gone 2>/dev/null"]), "");
    let address = (one.plan().address, PORT);
    eventually("the node's unit answers", || TcpStream::connect(address).ok());
    one.shut_down().expect("shut down");
    let again = Cluster::up(&options("t-crash", 2), &Greeters, &Silent).expect("up again");
    assert_eq!(again.booted, ["n1"], "only what was down is booted");
    assert_eq!(two.init_pid(), survivor, "the running node was touched");
    let third = Cluster::up(&options("t-crash", 2), &Greeters, &Silent).expect("up again");
    assert!(third.booted.is_empty());
    let more = Cluster::up(&options("t-crash", 3), &Greeters, &Silent).expect("one more");
    assert_eq!(more.booted, ["n3"]);
    let hosts = output(&one, &["cat", "/etc/hosts"]);
    assert!(hosts.contains(" n3"), "an older node does not know the new one: {hosts}");
    let fewer = Cluster::up(&options("t-crash", 1), &Greeters, &Silent).expect_err("fewer");
    assert!(fewer.to_string().contains("bowline local down"), "{fewer}");
}

#[test]
fn a_unit_that_dies_is_started_again_and_its_log_goes_on() {
    let (cluster, _, _guard) = up("t-unit", 1);
    let node = cluster.node("n1").expect("n1");
    let pid = eventually("the unit runs", || node.unit_pid("greeter").expect("a unit"));
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
    assert!(killed.success());
    let next = eventually("the unit runs again", || {
        node.unit_pid("greeter").expect("a unit").filter(|&next| next != pid)
    });
    let status = cluster.status().expect("status");
    let unit = &status.nodes[0].units[0];
    assert_eq!((unit.pid, unit.restarts), (Some(next), 1));
    assert!(status.nodes[0].processes >= 2 && status.nodes[0].resident_bytes > 0);
    let mut log = Vec::new();
    node.copy_log("init", &mut log, None).expect("a log");
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(log.contains("greeter ended: killed by SIGKILL"), "{log}");
    let error = node.unit_pid("nothing").expect_err("no such unit").to_string();
    assert!(error.contains("choose one of greeter"), "{error}");
}

#[test]
fn a_command_can_be_fed_and_read_while_it_runs() {
    let (cluster, _, _guard) = up("t-pipe", 1);
    let mut cat = Command::new("cat");
    cat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = cluster.node("n1").expect("n1").spawn(cat).expect("cat");
    child.stdin.take().expect("a pipe").write_all(b"through").expect("written");
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.stdout, b"through");
}

#[test]
fn a_network_that_somebody_removed_comes_back_with_up() {
    let _guard = Guard("t-net");
    // One that no other test takes while it is free.
    let subnet = Some("10.213.7.0/24".parse().expect("a subnet"));
    let options = Options { subnet, ..options("t-net", 2) };
    let cluster = Cluster::up(&options, &Greeters, &Silent).expect("up").cluster;
    let removed = Command::new("ip").args(["netns", "delete", "bowline-t-net"]).status();
    assert!(removed.expect("ip runs").success());
    let link = Command::new("ip").args(["link", "delete", "bowline-t-net"]).status();
    assert!(link.expect("ip runs").success());
    let again = Cluster::up(&options, &Greeters, &Silent).expect("up");
    assert_eq!(again.booted, ["n1", "n2"]);
    let address = (cluster.plan().nodes[1].address, PORT);
    eventually("the node's unit answers", || TcpStream::connect(address).ok());
}

#[test]
fn a_folder_or_subnet_of_somebody_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mine"), "precious").expect("written");
    let with_folder = Options { state_dir: Some(folder.path().to_owned()), ..options("t-own", 1) };
    let error = Cluster::up(&with_folder, &Greeters, &Silent).expect_err("not an empty folder");
    assert!(error.to_string().contains("is not empty"), "{error}");
    Cluster::down("t-own", Some(folder.path()), &Silent).expect("down");
    assert!(folder.path().join("mine").exists(), "down removed a file that is not the cluster's");

    let (cluster, _, _guard) = up("t-own", 1);
    let taken = Options { subnet: Some(cluster.plan().subnet), ..options("t-own2", 1) };
    let error = Cluster::up(&taken, &Greeters, &Silent).expect_err("the subnet is taken");
    assert!(error.to_string().contains("choose another"), "{error}");
    Cluster::down("t-own2", None, &Silent).expect("down");
    let other =
        Options { subnet: Some("10.99.0.0/29".parse().expect("one")), ..options("t-own", 1) };
    let error = Cluster::up(&other, &Greeters, &Silent).expect_err("it has another subnet");
    assert!(error.to_string().contains("bowline local down"), "{error}");
}

#[test]
fn down_leaves_nothing_and_may_be_repeated() {
    let before = Machine::look("t-down");
    let (cluster, _, guard) = up("t-down", 3);
    let during = Machine::look("t-down");
    assert_ne!(before, during, "the look at the machine sees nothing");
    drop(cluster);
    drop(guard);
    Machine::look("t-down").assert_same(&before);
    Cluster::down("t-down", None, &Silent).expect("nothing to do is no error");
    assert!(Cluster::open("t-down", None).expect("readable").is_none());
}

/// This test program again, to run and kill a whole `up` or `down` as a process.
fn child(act: &str, cluster: &str) -> Child {
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "cluster::the_part_of_the_child_that_is_killed"])
        .env(KILLED_CHILD, format!("{act} {cluster}"))
        .stdout(Stdio::null())
        .spawn()
        .expect("a child")
}

/// Kills it after a while; whether it was done already.
fn kill_after(mut child: Child, while_: Duration) -> bool {
    std::thread::sleep(while_);
    let done = child.try_wait().expect("a state").is_some();
    child.kill().expect("killed");
    child.wait().expect("dead");
    done
}

/// Kills `up` ever later, from its start to its end, and looks at what the next command makes of
/// the remains.
#[test]
fn a_killed_up_is_removed_or_completed() {
    const NAME: &str = "t-kill";
    let _guard = Guard(NAME);
    let before = Machine::look(NAME);
    let mut whole = 0;
    for round in 0..30 {
        whole += u32::from(kill_after(child("up", NAME), Duration::from_millis(2) * round));
        if round % 2 == 1 {
            let up = Cluster::up(&options(NAME, 2), &Greeters, &Silent).expect("completed");
            for node in up.cluster.nodes() {
                let hostname = output(&node, &["hostname"]);
                assert_eq!(hostname, node.plan().name, "round {round}");
                let address = (node.plan().address, PORT);
                eventually("the unit answers", || TcpStream::connect(address).ok());
            }
        }
        Cluster::down(NAME, None, &Silent).expect("down");
        Machine::look(NAME).assert_same(&before);
    }
    assert!(whole < 25, "the kills came too late to test anything: {whole} of 30");
}

#[test]
fn a_killed_down_is_finished_by_the_next() {
    const NAME: &str = "t-kdown";
    let _guard = Guard(NAME);
    let before = Machine::look(NAME);
    let mut whole = 0;
    for round in 0..10 {
        Cluster::up(&options(NAME, 2), &Greeters, &Silent).expect("up");
        whole += u32::from(kill_after(child("down", NAME), Duration::from_millis(5) * round));
        if round % 2 == 1 {
            Cluster::up(&options(NAME, 2), &Greeters, &Silent).expect("up on the remains");
        }
        Cluster::down(NAME, None, &Silent).expect("down");
        Machine::look(NAME).assert_same(&before);
    }
    assert!(whole < 9, "the kills came too late to test anything: {whole} of 10");
}

/// Says what to do to which cluster.
const KILLED_CHILD: &str = "BOWLINE_LOCAL_TEST_KILLED_CHILD";

/// Does nothing unless a test above runs it as a process of its own.
#[test]
fn the_part_of_the_child_that_is_killed() {
    let Ok(order) = std::env::var(KILLED_CHILD) else { return };
    match order.split_once(' ') {
        Some(("up", name)) => drop(Cluster::up(&options(name, 2), &Greeters, &Silent)),
        Some((_, name)) => Cluster::down(name, None, &Silent).expect("down"),
        None => panic!("{order}"),
    }
}

/// Two units that tell when they are told to stop; the first one does not obey.
struct Stoppers;

impl Workload for Stoppers {
    fn units(&self, _: &Plan, _: &NodePlan) -> Vec<Unit> {
        let unit = |name: &str, then: &str| {
            let script = format!(
                "trap 'echo {name} >> /tmp/stopped; {then}' TERM; echo ready; \
                 while :; do sleep 0.02; done"
            );
            Unit::new(name, ["sh", "-c", &script])
        };
        let stubborn = Unit { stop_timeout_ms: 300, ..unit("stubborn", ":") };
        vec![stubborn, unit("obedient", "exit 0")]
    }
}

#[test]
fn a_shutdown_stops_units_in_reverse_order_and_kills_what_does_not_obey() {
    let _guard = Guard("t-stop");
    let up = Cluster::up(&options("t-stop", 1), &Stoppers, &Silent).expect("up");
    let node = up.cluster.node("n1").expect("n1");
    for unit in ["stubborn", "obedient"] {
        eventually("the unit listens", || {
            let mut log = Vec::new();
            node.copy_log(unit, &mut log, None).expect("a log");
            (log == b"ready\n").then_some(())
        });
    }
    let start = Instant::now();
    node.shut_down().expect("shut down");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "the stubborn one had no time: {took:?}");
    assert!(took < Duration::from_secs(3), "it was waited for in vain: {took:?}");
    let order = node.host_path(Path::new("/tmp/stopped")).expect("on the node's disk");
    assert_eq!(std::fs::read_to_string(order).expect("written"), "obedient\nstubborn\n");
}
