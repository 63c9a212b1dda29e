//! The commands around a cluster: `bowline local`, and the folders that the server and the agent watch.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bowline_tests::harness::{NODES, TestCluster, bin_dir, bowline, eventually};

const CLUSTER: &str = "--cluster=test";

fn local(arguments: &[&str]) -> Output {
    Command::new(bin_dir().join("bowline"))
        .args(["local", CLUSTER])
        .args(arguments)
        .output()
        .expect("it was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What `status` says of a node: this process of the machine is in it, and has the word among its
/// arguments.
fn is_process(node: &serde_json::Value, pid: &serde_json::Value, word: &str) {
    let pid = pid.as_i64().unwrap_or_else(|| panic!("no pid of {word}: {node}"));
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}"))
            .unwrap_or_else(|error| panic!("{word} is not {pid} ({error}): {node}"))
    };
    let command = read("cmdline").replace('\0', " ");
    assert!(command.split(' ').any(|argument| argument == word), "{pid} is {command}, not {word}");
    let (cgroups, own) = (read("cgroup"), node["cgroup"].as_str().expect("a node has a cgroup"));
    let inside = |line: &str| line.split('/').any(|part| part == own);
    assert!(cgroups.lines().any(inside), "{pid} is not in {own} but in {cgroups}");
}

#[test]
fn status_tells_where_everything_is() {
    let cluster = TestCluster::get("status");
    let output = bowline(&["local", CLUSTER, "status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&output).expect("it is JSON");
    let nodes = status["nodes"].as_array().expect("it lists the nodes");
    assert_eq!(nodes.len(), NODES);
    for node in nodes {
        let name = node["name"].as_str().expect("a node has a name");
        let path = "{.status.addresses[?(@.type=='InternalIP')].address}";
        assert_eq!(node["address"], cluster.kubectl().jsonpath(&["node", name], path));
        is_process(node, &node["initPid"], "node-init");
        let socket = node["containerdSocketOnHost"].as_str().expect("it can be reached from here");
        assert!(Path::new(socket).exists(), "{socket} is not there");
        assert!(node["residentBytes"].as_u64() > Some(1 << 20), "{node}");
        assert!(node["diskBytes"].as_u64() > Some(1 << 20), "{node}");
        let units = node["units"].as_array().expect("it has units");
        assert_eq!(units.len(), if name == "n1" { 2 } else { 1 }, "{node}");
        for unit in units {
            is_process(node, &unit["pid"], unit["name"].as_str().expect("a unit has a name"));
        }
    }
    let table = bowline(&["local", CLUSTER, "status"]);
    assert!(table.contains("n3") && table.contains("Running"), "{table}");
}

#[test]
fn sh_runs_a_command_inside_a_node_and_logs_shows_a_unit_s() {
    let _cluster = TestCluster::get("sh");
    let output = local(&["sh", "n2", "sh", "-c", "hostname; cat /proc/self/cgroup; exit 7"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "the command's exit code is its own: {said}");
    assert!(said.starts_with("n2\n"), "{said}");
    // From inside, the node's cgroup is the root: a process that had not joined it would show `/..`.
    assert!(said.lines().skip(1).all(|line| !line.contains("/..")), "{said}");
    assert!(text(&local(&["logs", "n1", "server"]).stdout).contains("the apiserver listens"));
    let output = local(&["sh", "n9", "true"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("n9"), "{}", text(&output.stderr));
}

#[test]
fn load_brings_a_docker_archive_to_every_node() {
    let cluster = TestCluster::get("load");
    let folder = tempfile::tempdir().expect("a folder can be made");
    docker_archive(folder.path(), "example.test/loaded:1");
    bowline(&["local", CLUSTER, "load", &folder.path().join("image.tar").display().to_string()]);
    for node in 1..=NODES {
        let pod = format!("loaded-n{node}");
        cluster.kubectl().apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n\
             \x20 nodeName: n{node}\n  restartPolicy: Never\n  containers:\n  - name: main\n\
             \x20   image: example.test/loaded:1\n    imagePullPolicy: Never\n\
             \x20   command: [/bin/busybox, echo, from the archive]\n"
        ));
        eventually("the pod has run from the image", 30, || {
            let phase =
                cluster.kubectl().try_run(&["get", "pod", &pod, "-o=jsonpath={.status.phase}"])?;
            if phase == "Succeeded" { Ok(()) } else { Err(phase) }
        });
        assert_eq!(cluster.kubectl().run(&["logs", &pod]), "from the archive\n");
    }
}

/// An image as `docker save` writes it: `manifest.json`, a configuration, and layers as archives.
fn docker_archive(folder: &Path, tag: &str) {
    fs::create_dir(folder.join("bin")).expect("the folder is empty");
    fs::copy("/bin/busybox", folder.join("bin/busybox")).expect("busybox-static is installed");
    let run = |script: &str| {
        let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output();
        let output = output.expect("sh runs");
        assert!(output.status.success(), "{script}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let digest = run("tar cf layer.tar bin; sha256sum layer.tar | cut -c1-64");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest.trim())]},
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("config.json"), config.to_string()).expect("it can be written");
    fs::write(folder.join("manifest.json"), manifest.to_string()).expect("it can be written");
    run("tar cf image.tar manifest.json config.json layer.tar");
}

/// Writes a file in a node as an administrator would: whole, by a rename.
fn write_in_node(cluster: &TestCluster, node: &str, path: &str, content: &str) {
    let script = format!("mkdir -p $(dirname {path}); cat > {path}.new; mv {path}.new {path}");
    let mut child = Command::new(bin_dir().join("bowline"))
        .args(["local", CLUSTER, "sh", node, "sh", "-ec", &script])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("it was built");
    std::io::Write::write_all(&mut child.stdin.take().expect("it was piped"), content.as_bytes())
        .expect("it reads");
    assert!(
        child.wait().expect("it ends").success(),
        "{path} on {node} of {}",
        cluster.namespace()
    );
}

#[test]
fn the_server_applies_its_manifests_folder_and_again_when_it_changes() {
    let cluster = TestCluster::get("manifests");
    let namespace = cluster.namespace();
    let path = format!("/var/lib/bowline/server/manifests/{namespace}.yaml");
    let value = |wanted: &str| {
        eventually("the manifest is applied", 10, || {
            let what = ["get", "configmap", "from-a-file", "-o=jsonpath={.data.key}"];
            let found = cluster.kubectl().try_run(&what)?;
            if found == wanted { Ok(()) } else { Err(found) }
        });
    };
    let manifest = |data: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\n\
             metadata: {{name: from-a-file, namespace: {namespace}}}\ndata: {{key: {data}}}\n"
        )
    };
    write_in_node(&cluster, "n1", &path, &manifest("first"));
    value("first");
    // A file that can't be applied does not hold up those after it, nor its own next version.
    let wrong = path.replace(".yaml", "-before.yaml");
    write_in_node(&cluster, "n1", &wrong, "{{{ not YAML");
    write_in_node(&cluster, "n1", &path, &manifest("second"));
    value("second");
    write_in_node(&cluster, "n1", &wrong, &manifest("third"));
    value("third");
    cluster.in_node("n1", &["rm", &path, &wrong]);
}

#[test]
fn a_static_pod_runs_from_the_agent_s_folder_and_is_seen_through_the_api() {
    let cluster = TestCluster::get("static");
    let path = "/etc/kubernetes/manifests/still.yaml";
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: still, namespace: {}}}, spec: {{\
         terminationGracePeriodSeconds: 0, containers: [{{name: main, \
         image: 'bowline/testkit:0.1.0', command: [sleep, '3600']}}]}}}}",
        cluster.namespace()
    );
    write_in_node(&cluster, "n2", path, &manifest);
    eventually("its mirror shows that it runs", 30, || {
        let what = ["get", "pod", "still-n2", "-o=jsonpath={.status.phase} {.spec.nodeName}"];
        let found = cluster.kubectl().try_run(&what)?;
        if found == "Running n2" { Ok(()) } else { Err(found) }
    });
    assert_eq!(cluster.kubectl().exec("still-n2", &["echo", "here"]), "here\n");
    cluster.in_node("n2", &["rm", path]);
    eventually("it goes with its file", 30, || {
        let found = cluster.kubectl().run(&["get", "pods", "-o=name"]);
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}
