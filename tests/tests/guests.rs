//! The cluster on the kernels that users have: Debian's 6.1 (no TCX) and 6.12, pure cgroup v2.

use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_tests::harness::{bin_dir, turn};

/// Where `tests/tools.sh` has unpacked the kernels; the test command sets it.
fn tools() -> PathBuf {
    let folder = std::env::var_os("BOWLINE_TEST_TOOLS").expect(
        "BOWLINE_TEST_TOOLS is not set: run `make test`, or tests/tools.sh DIR and set it to DIR",
    );
    PathBuf::from(folder)
}

fn one_node_cluster_answers(kernel: &str, how: &str) {
    let _turn = turn();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let demo = root.parent().expect("the tests are in the project").join("deploy/demo.yaml");
    let script = std::fs::read_to_string(root.join("guests/cluster.sh"))
        .expect("the guest's script is part of the project")
        .replace("@BIN@", &bin_dir().display().to_string())
        .replace("@DEMO@", &demo.display().to_string());
    let path = std::env::temp_dir().join(format!("bowline-guest-{kernel}-{}", std::process::id()));
    std::fs::write(&path, script).expect("it can be written");
    let output = Command::new(root.join("guests/boot.sh"))
        .arg(tools().join(kernel))
        .arg(&path)
        .output()
        .expect("bash runs");
    std::fs::remove_file(&path).expect("it was ours");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(text.contains("ALL ANSWERED"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.to_lowercase().contains(how), "the proxy should have used {how}:\n{text}");
}

#[test]
fn a_cluster_answers_on_debian_s_6_1() {
    one_node_cluster_answers("kernel-6.1", "clsact");
}

#[test]
fn a_cluster_answers_on_debian_s_6_12() {
    one_node_cluster_answers("kernel-6.12", "tcx");
}
