//! kubectl's commands do what they do on any cluster, with a current kubectl and with Debian's 1.20.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use bowline_tests::harness::{Kubectl, TESTKIT_IMAGE, TestCluster, eventually, eventually_some};

/// Ends what would wait for ever: a stream in which nothing comes fails, and does not hang.
const PATIENCE: &str = "--request-timeout=30s";

/// Runs `check` with every kubectl there is.
fn with_each(cluster: &TestCluster, mut check: impl FnMut(&Kubectl, &str)) {
    for (number, kubectl) in cluster.kubectl().versions().iter().enumerate() {
        println!("with kubectl {}", kubectl.version());
        check(kubectl, &format!("v{number}"));
    }
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

/// A pod that writes a line a tenth of a second.
fn talker(kubectl: &Kubectl, name: &str) {
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: talker}}}}\nspec:\n\
         \x20 terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n\
         \x20   image: {TESTKIT_IMAGE}\n\
         \x20   command: [sh, -c, 'i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done']\n"
    ));
    kubectl.run(&["wait", "pod", name, "--for=condition=Ready", "--timeout=60s"]);
}

#[test]
fn logs_exec_attach_and_cp_move_bytes_both_ways() {
    let cluster = TestCluster::get("streams");
    with_each(&cluster, |kubectl, id| {
        let pod = format!("talker-{id}");
        talker(kubectl, &pod);
        eventually("the pod has written three lines", 10, || {
            let logs = kubectl.run(&["logs", &pod]);
            if logs.starts_with("line 0\nline 1\nline 2\n") { Ok(()) } else { Err(logs) }
        });
        let tail = kubectl.run(&["logs", &pod, "--tail=2", "--timestamps"]);
        assert_eq!(tail.lines().count(), 2, "{tail}");
        contains(&tail, &["20", "T", "Z line "]);

        let mut follow = kubectl.start(&["logs", "-f", &pod, "--tail=1", PATIENCE]);
        let mut stdout = follow.stdout.take().expect("it was piped");
        let (mut seen, mut chunk) = (String::new(), [0; 256]);
        while seen.lines().count() < 5 {
            let read = stdout.read(&mut chunk).expect("kubectl goes on");
            assert!(read > 0, "logs -f ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        follow.kill().expect("it was still following");
        follow.wait().expect("it was killed");

        assert_eq!(kubectl.exec(&pod, &["echo", "hello"]), "hello\n");
        let echoed = kubectl.run_with_input(&["exec", "-i", &pod, "--", "cat"], "there and back");
        assert_eq!(echoed, "there and back");
        let failed = kubectl.output(&["exec", &pod, "--", "sh", "-c", "exit 7"]);
        assert_eq!(failed.status.code(), Some(7), "the command's exit code is kubectl's");
        // -t wants a terminal: script(1) gives one.
        let kubectl_line = format!("{:?}", kubectl.command(&["exec", "-it", &pod, "--", "tty"]));
        let output = Command::new("script")
            .args(["-qec", &kubectl_line, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .expect("script(1) is part of Debian's base");
        contains(&String::from_utf8_lossy(&output.stdout), &["/dev/pts/"]);

        attach_reaches_the_standard_input(kubectl, &format!("listener-{id}"));

        let folder = std::env::temp_dir().join(format!("bowline-cp-{}-{id}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let (there, back) = (folder.join("there"), folder.join("back"));
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&there, &bytes).expect("it can be written");
        let remote = format!("{pod}:/tmp/copy");
        kubectl.run(&["cp", &there.display().to_string(), &remote]);
        kubectl.run(&["cp", &remote, &back.display().to_string()]);
        assert_eq!(std::fs::read(&back).expect("it came back"), bytes, "cp changed the bytes");
        std::fs::remove_dir_all(&folder).expect("it was ours");
    });
}

/// A container that answers its standard input, and ends with it (`stdinOnce`).
fn attach_reaches_the_standard_input(kubectl: &Kubectl, pod: &str) {
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n\
         \x20 restartPolicy: Never\n  containers:\n  - name: main\n    image: {TESTKIT_IMAGE}\n\
         \x20   command: [cat]\n    stdin: true\n    stdinOnce: true\n"
    ));
    kubectl.run(&["wait", "pod", pod, "--for=condition=Ready", "--timeout=60s"]);
    let answer = kubectl.run_with_input(&["attach", "-i", pod], "over the wire\n");
    contains(&answer, &["over the wire"]);
    eventually("the container ended with its input", 30, || {
        let phase = kubectl.run(&["get", "pod", pod, "-o", "jsonpath={.status.phase}"]);
        if phase == "Succeeded" { Ok(()) } else { Err(phase) }
    });
}

#[test]
fn port_forward_carries_a_connection_to_a_pod() {
    let cluster = TestCluster::get("port-forward");
    cluster.servers("web", 1, "", "");
    with_each(&cluster, |kubectl, _| {
        let mut forward = kubectl.start(&["port-forward", "deployment/web", ":8080"]);
        let mut stdout = forward.stdout.take().expect("it was piped");
        let (mut text, mut byte) = (String::new(), [0; 1]);
        while !text.contains('\n') {
            assert_eq!(stdout.read(&mut byte).expect("it talks"), 1, "port-forward ended: {text}");
            text.push(char::from(byte[0]));
        }
        let port = text.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let port: u16 = port.and_then(|port| port.parse().ok()).expect(&text);
        for _ in 0..3 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it takes the request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            contains(&answer, &["200 OK", "web-"]);
        }
        forward.kill().expect("it still forwards");
        forward.wait().expect("it was killed");
    });
}

#[test]
fn get_shows_objects_in_every_form() {
    let cluster = TestCluster::get("get");
    cluster.servers("web", 2, "", "");
    with_each(&cluster, |kubectl, id| {
        contains(
            &kubectl.run(&["get", "pods"]),
            &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "1/1", "Running"],
        );
        contains(&kubectl.run(&["get", "pods", "-o", "wide"]), &["NODE", "IP", "10.244."]);
        contains(
            &kubectl.run(&["get", "deploy,rs,svc"]),
            &[
                "deployment.apps/web",
                "2/2",
                "replicaset.apps/web-",
                "service/web",
                "ClusterIP",
                "80/TCP,80/UDP",
            ],
        );
        contains(
            &kubectl.run(&["get", "nodes", "-o", "wide"]),
            &["n1", "Ready", "v1.35", "containerd://"],
        );
        let yaml = kubectl.run(&["get", "deployment", "web", "-o", "yaml"]);
        contains(
            &yaml,
            &[
                "apiVersion: apps/v1",
                "kind: Deployment",
                "revisionHistoryLimit: 10",
                "type: RollingUpdate",
            ],
        );
        assert_eq!(kubectl.jsonpath(&["deployment", "web"], "{.spec.replicas}"), "2");
        let columns = "custom-columns=N:.metadata.name,R:.spec.replicas";
        contains(&kubectl.run(&["get", "deployment", "-o", columns]), &["N", "R", "web", "2"]);
        contains(
            &kubectl.run(&["describe", "deployment", "web"]),
            &["Replicas:", "2 desired", "RollingUpdateStrategy", "Events:", "ScalingReplicaSet"],
        );
        contains(
            &kubectl.run(&["describe", "pod", "-l", "app=web"]),
            &["Status:", "Running", "Conditions:", "Scheduled", "Started"],
        );
        contains(
            &kubectl.run(&["describe", "node", "n1"]),
            &["Capacity:", "Allocated resources:", "PodCIDR:"],
        );
        contains(
            &kubectl.run(&["describe", "service", "web"]),
            &["Endpoints:", "10.244.", "Selector:"],
        );

        // get -w shows what changes.
        let watched = format!("watched-{id}");
        let mut watch = kubectl.start(&["get", "configmaps", "-w", "-o", "name", PATIENCE]);
        let mut stdout = watch.stdout.take().expect("it was piped");
        let (mut text, mut chunk) = (String::new(), [0; 256]);
        while !text.contains("kube-root-ca.crt") {
            let read = stdout.read(&mut chunk).expect("it talks");
            assert!(read > 0, "the watch ended: {text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        kubectl.run(&["create", "configmap", &watched, "--from-literal=k=v"]);
        while !text.contains(&watched) {
            let read = stdout.read(&mut chunk).expect("it talks");
            assert!(read > 0, "the watch ended: {text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        watch.kill().expect("it was still watching");
        watch.wait().expect("it was killed");
    });
}

/// Waits for these revisions of a deployment, with their causes.
fn history_is(kubectl: &Kubectl, deployment: &str, wanted: &[&str]) {
    eventually("the history has these revisions", 10, || {
        let text = kubectl.try_run(&["rollout", "history", deployment])?;
        let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let rows: Vec<_> =
            rows.filter(|row| row.starts_with(|c: char| c.is_ascii_digit())).collect();
        if rows == wanted { Ok(()) } else { Err(format!("{wanted:?}: {text}")) }
    });
}

#[test]
fn scale_rollout_label_annotate_wait_and_delete_work() {
    let cluster = TestCluster::get("verbs");
    with_each(&cluster, |kubectl, id| {
        let name = format!("app-{id}");
        let image = format!("--image={TESTKIT_IMAGE}");
        kubectl.run(&["create", "deployment", &name, &image, "--", "testkit", "serve"]);
        let deployment = format!("deployment/{name}");
        kubectl.run(&["rollout", "status", &deployment, "--timeout=60s"]);
        kubectl.run(&["scale", &deployment, "--replicas=3"]);
        kubectl.run(&["rollout", "status", &deployment, "--timeout=60s"]);
        assert_eq!(kubectl.jsonpath(&["deployment", &name], "{.status.availableReplicas}"), "3");
        kubectl.run(&["label", "deployment", &name, "tier=front"]);
        kubectl.run(&["annotate", "deployment", &name, "note=hello"]);
        contains(&kubectl.run(&["get", "deployment", "-l", "tier=front", "-o", "name"]), &[&name]);
        kubectl.run(&["label", "deployment", &name, "tier-"]);
        assert_eq!(kubectl.run(&["get", "deployment", "-l", "tier=front", "-o", "name"]), "");

        kubectl.run(&["set", "env", &deployment, "ROUND=2"]);
        kubectl.run(&["annotate", &deployment, "kubernetes.io/change-cause=second round"]);
        kubectl.run(&["rollout", "status", &deployment, "--timeout=60s"]);
        history_is(kubectl, &deployment, &["1 <none>", "2 second round"]);
        kubectl.run(&["rollout", "undo", &deployment]);
        kubectl.run(&["rollout", "status", &deployment, "--timeout=60s"]);
        history_is(kubectl, &deployment, &["2 second round", "3 <none>"]);
        assert_eq!(
            kubectl.jsonpath(&["deployment", &name], "{.spec.template.spec.containers[0].env}"),
            ""
        );
        kubectl.run(&["wait", &deployment, "--for=condition=Available", "--timeout=30s"]);
        kubectl.run(&["delete", &deployment]);
        eventually("the deployment's pods are collected", 30, || {
            let pods =
                kubectl.try_run(&["get", "pods", "-l", &format!("app={name}"), "-o", "name"])?;
            if pods.is_empty() { Ok(()) } else { Err(pods) }
        });
    });
}

#[test]
fn taint_cordon_and_drain_move_pods() {
    let cluster = TestCluster::get("drain");
    cluster.converged();
    with_each(&cluster, |kubectl, _| {
        kubectl.run(&["cordon", "n3"]);
        contains(&kubectl.run(&["get", "node", "n3"]), &["SchedulingDisabled"]);
        kubectl.run(&["uncordon", "n3"]);
        cluster.servers("web", 3, "", "      terminationGracePeriodSeconds: 1\n");
        kubectl.run(&[
            "drain",
            "n3",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=60s",
        ]);
        let left = kubectl.run(&[
            "get",
            "pods",
            "-l",
            "app=web",
            "--field-selector=spec.nodeName=n3",
            "-o",
            "name",
        ]);
        assert_eq!(left, "", "drain left pods behind");
        kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        kubectl.run(&["uncordon", "n3"]);

        kubectl.run(&["taint", "node", "n3", "only=me:NoSchedule"]);
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: kept-out}}\nspec:\n\
             \x20 terminationGracePeriodSeconds: 1\n  nodeSelector: {{kubernetes.io/hostname: n3}}\n\
             \x20 containers: [{{name: c, image: '{TESTKIT_IMAGE}', command: [testkit, serve]}}]\n"
        ));
        let reason = eventually_some("the scheduler says why the pod does not fit", 20, || {
            let text = kubectl.try_run(&["describe", "pod", "kept-out"])?;
            Ok(text.contains("FailedScheduling").then_some(text))
        });
        contains(
            &reason,
            &["0/3 nodes are available", "untolerated taint", "node affinity/selector"],
        );
        kubectl.run(&["taint", "node", "n3", "only-"]);
        kubectl.run(&["wait", "pod", "kept-out", "--for=condition=Ready", "--timeout=30s"]);
        kubectl.run(&["taint", "node", "n3", "only=me:NoExecute"]);
        eventually("the taint has the pod leave", 30, || {
            let found =
                kubectl.try_run(&["get", "pod", "kept-out", "--ignore-not-found", "-o", "name"])?;
            if found.is_empty() { Ok(()) } else { Err(found) }
        });
        kubectl.run(&["taint", "node", "n3", "only-"]);
        kubectl.run(&["delete", "deployment,service", "web"]);
    });
}

#[test]
fn access_and_discovery_questions_are_answered() {
    let cluster = TestCluster::get("discovery");
    with_each(&cluster, |kubectl, _| {
        assert_eq!(kubectl.run(&["auth", "can-i", "create", "pods"]).trim(), "yes");
        let no = kubectl.output(&["auth", "can-i", "create", "pods", "--as=jane"]);
        assert_eq!(String::from_utf8_lossy(&no.stdout).trim(), "no");
        contains(&kubectl.run(&["auth", "can-i", "--list"]), &["Resources", "Verbs", "*"]);
        contains(
            &kubectl.run(&["explain", "deployment.spec.strategy"]),
            &["rollingUpdate", "FIELD", "type"],
        );
        contains(&kubectl.run(&["explain", "pods.spec.containers"]), &["livenessProbe", "image"]);
        contains(
            &kubectl.run(&["api-resources"]),
            &[
                "pods",
                "po",
                "deployments",
                "deploy",
                "apps/v1",
                "endpointslices",
                "roles",
                "leases",
            ],
        );
        contains(
            &kubectl.run(&["api-versions"]),
            &["apps/v1", "v1", "rbac.authorization.k8s.io/v1"],
        );
        contains(&kubectl.run(&["version"]), &["v1.35"]);
        contains(&kubectl.run(&["cluster-info"]), &["is running at", "https://"]);
    });
}

#[test]
fn apply_twice_removes_what_the_second_lacks_and_diff_shows_it_before() {
    let cluster = TestCluster::get("apply");
    let manifest = |containers: &str, ports: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: app}}\nspec:\n  replicas: 1\n\
             \x20 selector: {{matchLabels: {{app: app}}}}\n  template:\n\
             \x20   metadata: {{labels: {{app: app}}}}\n\
             \x20   spec: {{terminationGracePeriodSeconds: 0, containers: [{containers}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: app}}\nspec:\n\
             \x20 selector: {{app: app}}\n  ports: [{ports}]\n"
        )
    };
    let container = |name: &str| {
        format!(
            "{{name: {name}, image: '{TESTKIT_IMAGE}', command: [sleep, infinity], env: [{{name: A, value: b}}]}}"
        )
    };
    let port = |name: &str, port: u16| format!("{{name: {name}, port: {port}}}");
    with_each(&cluster, |kubectl, id| {
        for style in [&["apply", "-f", "-"][..], &["apply", "--server-side", "-f", "-"]] {
            let two = manifest(
                &format!("{}, {}", container("one"), container("two")),
                &format!("{}, {}", port("a", 80), port("b", 81)),
            );
            let one = manifest(&container("one"), &port("a", 80));
            kubectl.run_with_input(style, &two);
            if !style.contains(&"--server-side") {
                let diff = kubectl.output_with_input(&["diff", "-f", "-"], &one);
                assert_eq!(diff.status.code(), Some(1), "diff says that there are differences");
                contains(&String::from_utf8_lossy(&diff.stdout), &["-", "name: two", "port: 81"]);
            }
            let containers = || {
                kubectl.jsonpath(&["deployment", "app"], "{.spec.template.spec.containers[*].name}")
            };
            assert_eq!(containers(), "one two", "{id} {style:?}: looking at it changed it");
            kubectl.run_with_input(style, &one);
            assert_eq!(containers(), "one", "{id} {style:?}: the container stayed");
            let ports = kubectl.jsonpath(&["service", "app"], "{.spec.ports[*].name}");
            assert_eq!(ports, "a", "{id} {style:?}: the port stayed");
            if !style.contains(&"--server-side") {
                let same = kubectl.output_with_input(&["diff", "-f", "-"], &one);
                assert_eq!(
                    same.status.code(),
                    Some(0),
                    "{}",
                    String::from_utf8_lossy(&same.stdout)
                );
            }
            kubectl.run_with_input(&["delete", "-f", "-"], &one);
        }
    });
}
