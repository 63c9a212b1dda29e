//! `up` and `down`: nothing is changed twice, nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline_tests::harness::{bin_dir, bowline, eventually, turn};

/// A cluster of its own, so that others stay.
const NAME: &str = "--cluster=updown";

/// What `down` must leave as it was: everything on the machine that a cluster could touch.
fn traces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let lines = |command: &str| {
        let output = Command::new("sh").args(["-c", command]).output().expect("sh runs");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (kind, command) in [
        ("link", "ls /sys/class/net"),
        ("netns", "ls /run/netns 2>/dev/null"),
        ("mount", "awk '{print $5, $9}' /proc/self/mountinfo"),
        ("cgroup", "find /sys/fs/cgroup -type d -name '*bowline*'"),
        ("nft", "nft list tables 2>/dev/null"),
        ("iptables", "iptables-legacy-save 2>/dev/null | grep -v '^[#:]'"),
        ("pin", "find /sys/fs/bpf 2>/dev/null"),
        ("route", "ip route; ip -6 route"),
        (
            "file",
            "ls -d /var/lib/bowline/local/* /run/bowline* /var/lib/kubelet /etc/cni/net.d/*bowline* 2>/dev/null",
        ),
        (
            "process",
            "ps -eo args= | grep -E 'bowline|containerd|/pause' | grep -vE 'grep|nextest|cargo|deps/|rustc'",
        ),
        ("program", "ls /sys/fs/bpf; cat /proc/sys/net/ipv4/ip_forward"),
    ] {
        found.extend(lines(command).into_iter().map(|line| format!("{kind}: {line}")));
    }
    found
}

fn assert_nothing_left(before: &BTreeSet<String>) {
    eventually("nothing of the cluster is left", 10, || {
        let after = traces();
        let left: Vec<_> = after.difference(before).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
}

/// The processes that have a file open.
fn holders(file: &Path) -> Vec<String> {
    let open = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == file))
    };
    let processes = fs::read_dir("/proc").expect("proc is mounted").flatten();
    processes
        .map(|process| process.path())
        .filter(|process| open(process))
        .map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default())
        .collect()
}

#[test]
fn down_leaves_nothing_and_up_twice_changes_nothing() {
    let _turn = turn();
    bowline(&["local", NAME, "down"]);
    let before = traces();
    let kubeconfig = std::env::temp_dir().join("bowline-updown.kubeconfig");
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    let up = ["local", NAME, "up", "--nodes=2", &flag];
    // As `flock FILE make up` does it: with a descriptor that nobody told the cluster of.
    let lock = std::env::temp_dir().join("bowline-updown.lock");
    let script = format!("exec 9>{}; exec \"$0\" \"$@\"", lock.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(bin_dir().join("bowline")).args(up);
    assert!(command.status().expect("sh runs").success());
    let pids = || {
        let text = bowline(&["local", NAME, "status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        status["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|node| (node["initPid"].clone(), node["units"].to_string()))
            .collect::<Vec<_>>()
    };
    let first = pids();
    let text = bowline(&up);
    assert!(text.contains("nothing was changed"), "{text}");
    assert_eq!(first, pids(), "the second up restarted something");
    assert_eq!(holders(&lock), Vec::<String>::new(), "a lock that was given to up stays taken");
    bowline(&["local", NAME, "down"]);
    assert_nothing_left(&before);
    bowline(&["local", NAME, "down"]);
    fs::remove_file(lock).expect("it was ours");
    fs::remove_file(kubeconfig).expect("up wrote it");
}

#[test]
fn down_cleans_up_after_an_up_that_was_killed_at_any_moment() {
    let _turn = turn();
    bowline(&["local", NAME, "down"]);
    let before = traces();
    let kubeconfig = std::env::temp_dir().join("bowline-killed.kubeconfig");
    for after in [20_u64, 120, 300, 700, 1500, 3000] {
        let mut up = Command::new(bin_dir().join("bowline"))
            .args(["local", NAME, "up", "--nodes=2"])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was built");
        std::thread::sleep(Duration::from_millis(after));
        up.kill().expect("it can be killed");
        up.wait().expect("it was killed");
        bowline(&["local", NAME, "down"]);
        assert_nothing_left(&before);
    }
    let _absent = fs::remove_file(kubeconfig);
}
