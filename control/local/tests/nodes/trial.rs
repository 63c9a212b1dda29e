//! Small clusters for tests, taken down when the test ends.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bowline_local::{Cluster, Node, NodePlan, Options, Plan, Silent, Unit, Workload};

/// A unit on every node that answers TCP with the node's name.
pub(crate) struct Greeters;

pub(crate) const PORT: u16 = 7777;

impl Workload for Greeters {
    fn units(&self, _: &Plan, _: &NodePlan) -> Vec<Unit> {
        let port = PORT.to_string();
        vec![Unit::new("greeter", ["busybox", "nc", "-ll", "-p", &port, "-e", "/bin/hostname"])]
    }
}

pub(crate) fn options(name: &str, nodes: u16) -> Options {
    let init = PathBuf::from(env!("CARGO_BIN_EXE_bowline-node-init"));
    Options {
        name: name.to_owned(),
        nodes,
        state_dir: None,
        subnet: None,
        bin_dir: init.parent().expect("a folder").to_owned(),
        init: vec![init.into()],
    }
}

/// Takes the cluster down also when the test fails.
pub(crate) struct Guard(pub(crate) &'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        Cluster::down(self.0, None, &Silent).expect("down");
    }
}

pub(crate) fn up(name: &'static str, nodes: u16) -> (Cluster, Vec<String>, Guard) {
    let guard = Guard(name);
    let up = Cluster::up(&options(name, nodes), &Greeters, &Silent).expect("up");
    (up.cluster, up.booted, guard)
}

pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn output(node: &Node, command: &[&str]) -> String {
    let output = node.exec(command).expect("exec");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
