//! The kubelet against a real containerd: static pods, looked at from the outside only — through the
//! HTTPS server, the log files and the runtime's processes.
//!
//! Needs root, containerd, runc and a static busybox; says so by name where one is missing.

mod client;
mod machine;

use std::time::Duration;

use machine::Machine;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// Runs a shell command that ends at once on SIGTERM.
fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": machine::IMAGE, "imagePullPolicy": "Never",
        "command": ["sh", "-c", format!("trap exit TERM; {script}")]})
}

/// What keeps a container running.
const STAY: &str = "while true; do sleep 0.1 & wait; done";

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = json!(3);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn state(pod: &Value, container: usize) -> &Value {
    &pod["status"]["containerStatuses"][container]
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_sidecars_and_volumes_come_in_order() {
    let Some(mut machine) = Machine::new("order").await else { return };
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let mut init = shell("init", "echo init >> /v/order");
    let mut side = shell("side", &format!("echo side >> /v/order; {STAY}"));
    let mut main = shell("main", &format!("echo main >> /v/order; cat /v/order; {STAY}"));
    for c in [&mut init, &mut side, &mut main] {
        c["volumeMounts"] = mount.clone();
    }
    side["restartPolicy"] = json!("Always");
    let spec = json!({"initContainers": [init, side], "containers": [main],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]});
    machine.apply(&pod("order", spec));
    machine.start().await;
    machine.until("order", SOON, is_ready).await;
    assert_eq!(machine.logs("order", "main", "").await, "init\nside\nmain\n");
    assert_eq!(machine.logs("order", "main", "tailLines=1").await, "main\n");

    machine.remove("order");
    machine.until_gone("order", SOON).await;
    machine.assert_clean();
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_over_its_limit_is_oom_killed_and_restarts_with_backoff() {
    let Some(mut machine) = Machine::new("oom").await else { return };
    let mut eater = shell("eater", "x=a; while true; do x=$x$x; done");
    eater["resources"] = json!({"limits": {"memory": "16Mi"}});
    machine.apply(&pod("oom", json!({"containers": [eater]})));
    machine.start().await;
    let looping = |pod: &Value| state(pod, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let seen = machine.until("oom", SOON, looping).await;
    let last = &state(&seen, 0)["lastState"]["terminated"];
    assert_eq!(
        (last["reason"].as_str(), last["exitCode"].as_i64()),
        (Some("OOMKilled"), Some(137))
    );
    assert_eq!(state(&seen, 0)["restartCount"], 1, "the first restart is immediate");
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_and_port_forward_carry_bytes_both_ways() {
    let Some(mut machine) = Machine::new("bytes").await else { return };
    let script = format!("mkdir /w; echo hello > /w/f; httpd -p 8080 -h /w; {STAY}");
    machine.apply(&pod("bytes", json!({"containers": [shell("main", &script)]})));
    machine.start().await;
    machine.until("bytes", SOON, is_ready).await;
    let (output, code) =
        machine.exec("bytes", "main", &["sh", "-c", "read x; echo $x; exit 3"], b"in\n").await;
    assert_eq!((output.as_slice(), code), (&b"in\n"[..], 3));
    let answer = machine.port_forward("bytes", 8080, b"GET /f HTTP/1.0\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.") && answer.ends_with("hello\n"), "{answer}");
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_kubelet_adopts_what_runs_and_ends_what_was_removed_meanwhile() {
    let Some(mut machine) = Machine::new("adopt").await else { return };
    machine.apply(&pod("stays", json!({"containers": [shell("main", STAY)]})));
    machine.apply(&pod("goes", json!({"containers": [shell("main", STAY)]})));
    machine.start().await;
    let before = machine.until("stays", SOON, is_ready).await;
    machine.until("goes", SOON, is_ready).await;
    machine.stop_kubelet().await;
    machine.remove("goes");
    machine.start().await;
    let after = machine.until("stays", SOON, is_ready).await;
    assert_eq!(state(&before, 0)["containerID"], state(&after, 0)["containerID"]);
    assert_eq!(state(&after, 0)["restartCount"], 0);
    machine.until_containers(1, SOON).await;
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_liveness_probe_restarts_the_container_and_its_last_words_are_told() {
    let Some(mut machine) = Machine::new("probe").await else { return };
    let mut sick = shell("sick", &format!("echo bye > /dev/termination-log; {STAY}"));
    sick["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    machine.apply(&pod("probe", json!({"containers": [sick]})));
    machine.start().await;
    let restarted = |pod: &Value| state(pod, 0)["restartCount"] == 1;
    let seen = machine.until("probe", SOON, restarted).await;
    assert_eq!(state(&seen, 0)["lastState"]["terminated"]["message"], "bye\n");
    machine.stop().await;
}
