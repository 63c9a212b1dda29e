//! The cluster on the kernels that users have: Debian's 6.1 (no TCX) and 6.12, pure cgroup v2; and
//! on a host whose process 1 is systemd.

use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_local::image;
use bowline_tests::harness::{bin_dir, turn};

/// Where `tests/tools.sh` has unpacked the kernels; the test command sets it.
fn tools() -> PathBuf {
    let folder = std::env::var_os("BOWLINE_TEST_TOOLS").expect(
        "BOWLINE_TEST_TOOLS is not set: run `make test`, or tests/tools.sh DIR and set it to DIR",
    );
    PathBuf::from(folder)
}

/// Runs `guests/SCRIPT` as root in a guest with this kernel, and gives what it printed.
fn guest(kernel: &str, script: &str, init: &str) -> String {
    let _turn = turn();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = tests.parent().expect("the tests are in the project");
    let folder = tempfile::tempdir().expect("there is room in /tmp");
    // Packed here, natively: it takes the emulated processor ten times as long.
    image::addons(&bin_dir(), folder.path()).expect("every binary is built");
    let text = std::fs::read_to_string(tests.join("guests").join(script))
        .expect("the guest's script is part of the project")
        .replace("@BIN@", &bin_dir().display().to_string())
        .replace("@IMAGES@", &folder.path().display().to_string())
        .replace("@PROJECT@", &project.display().to_string());
    let path = folder.path().join("script.sh");
    std::fs::write(&path, text).expect("it can be written");
    let output = Command::new(tests.join("guests/boot.sh"))
        .env("GUEST_INIT", init)
        .arg(tools().join(kernel))
        .arg(&path)
        .output()
        .expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn one_node_cluster_answers(kernel: &str, how: &str) {
    let text = guest(kernel, "cluster.sh", "");
    assert!(text.contains("ALL ANSWERED"), "the guest says why, above");
    assert!(text.to_lowercase().contains(how), "the proxy should have used {how}");
}

#[test]
fn a_cluster_answers_on_debian_s_6_1() {
    one_node_cluster_answers("kernel-6.1", "clsact");
}

#[test]
fn a_cluster_answers_on_debian_s_6_12() {
    one_node_cluster_answers("kernel-6.12", "tcx");
}

#[test]
fn systemd_s_units_restart_what_dies_and_containers_live_on() {
    let text = guest("kernel-6.1", "hosts.sh", "systemd");
    assert!(text.contains("HOSTS HOLD"), "the guest says why, above");
}
