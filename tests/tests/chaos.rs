//! Things die, one after the other, under load. Nobody may notice.

use std::time::Duration;

use bowline_tests::harness::{Running, TESTKIT_IMAGE, TestCluster, eventually};
use bowline_tests::kit::report::Report;

/// How often every DNS worker is killed.
const DNS_KILLS: usize = 5;

/// A load of every kind that must not break, from each node and from outside.
struct Watchers {
    loads: Vec<(String, Running)>,
}

impl Watchers {
    fn start(cluster: &TestCluster, clients: &[String]) -> Self {
        let address = cluster.kubectl().jsonpath(&["service", "web"], "{.spec.clusterIP}");
        let (name, target) = ("web:80".to_owned(), format!("{address}:80"));
        let full_name = format!("web.{}.svc.cluster.local", cluster.namespace());
        let mut loads = Vec::new();
        for client in clients {
            for arguments in [
                &["load", &name, "--seconds=140", "--pause-ms=20", "--timeout-ms=4000"][..],
                &["load", &target, "--seconds=140", "--pause-ms=10"],
                &["hold", &target, "--seconds=140", "--count=5"],
                &["dns", &full_name, "--seconds=140", "--pause-ms=50", "--timeout-ms=3000"],
            ] {
                let what = format!("{} in {client}", arguments[..2].join(" "));
                loads.push((what, cluster.start_in_pod(client, arguments)));
            }
        }
        let port = cluster.node_port("web");
        for address in cluster.node_addresses() {
            let target = format!("{address}:{port}");
            for arguments in [
                &["load", &target, "--seconds=140", "--pause-ms=10"][..],
                &["hold", &target, "--seconds=140", "--count=5"],
            ] {
                let what = format!("{} outside by {address}", arguments[0]);
                loads.push((what, cluster.start_outside(arguments)));
            }
        }
        Self { loads }
    }

    fn end(self) -> Vec<(String, Report)> {
        self.loads.into_iter().map(|(what, load)| (what, load.end())).collect()
    }
}

fn assert_nothing_was_felt(victim: &str, reports: &[(String, Report)]) {
    let mut hurt = Vec::new();
    for (what, report) in reports {
        assert!(report.ok > 20, "{victim}: {what} hardly ran: {report:?}");
        if report.failed > 0 {
            hurt.push(format!("{what}: {report:?}"));
        }
    }
    assert!(hurt.is_empty(), "the death of {victim} was felt:\n{}", hurt.join("\n"));
}

/// Kills a process of a node by what `pkill` matches, and checks that there was one.
fn kill(cluster: &TestCluster, node: &str, matcher: &[&str]) {
    signal(cluster, node, "-KILL", matcher);
}

fn signal(cluster: &TestCluster, node: &str, signal: &str, matcher: &[&str]) {
    let mut command = vec!["pkill", signal];
    command.extend(matcher);
    let output = cluster.node(node).exec(&command).expect("the node runs commands");
    assert!(output.status.success(), "no process matched {matcher:?} on {node}");
}

fn kill_unit(cluster: &TestCluster, node: &str, unit: &str) {
    let pid = cluster.node(node).unit_pid(unit).expect("the node has the unit").expect("it runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it can be killed");
    eventually("its supervisor starts it anew", 20, || {
        match cluster.node(node).unit_pid(unit).map_err(|error| error.to_string())? {
            Some(new) if new != pid => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Lets the load go on for a while after everything has converged: late damage shows then.
fn settle(cluster: &TestCluster) {
    cluster.converged();
    std::thread::sleep(Duration::from_secs(2));
}

fn under_watch(test: &str, victim: &str, act: impl FnOnce(&TestCluster)) {
    let cluster = TestCluster::get(test);
    cluster.converged();
    let clients = cluster.client_pods();
    cluster.servers("web", 4, "  type: NodePort\n", "");
    let watchers = Watchers::start(&cluster, &clients);
    std::thread::sleep(Duration::from_secs(1));
    act(&cluster);
    settle(&cluster);
    assert_nothing_was_felt(victim, &watchers.end());
}

#[test]
fn killing_the_proxy_breaks_nothing_and_pods_still_come_up() {
    under_watch("kill-proxy", "bowline-proxy", |cluster| {
        // Stopped first, as a dead one would be back before the newcomer has begun.
        for node in ["n1", "n2", "n3"] {
            signal(cluster, node, "-STOP", &["-x", "bowline-proxy"]);
        }
        cluster.kubectl().apply(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: newcomer}\nspec:\n  nodeName: n2\n\
             \x20 containers: [{name: c, image: 'bowline/testkit:0.1.0', command: [testkit, serve]}]\n",
        );
        cluster.kubectl().run(&[
            "wait",
            "pod",
            "newcomer",
            "--for=condition=Ready",
            "--timeout=30s",
        ]);
        let address = cluster.kubectl().jsonpath(&["pod", "newcomer"], "{.status.podIP}");
        for client in ["client-n1", "client-n2", "client-n3"] {
            let report =
                cluster.testkit(client, &["load", &format!("{address}:8080"), "--requests=10"]);
            assert_eq!((report.ok, report.failed), (10, 0), "{client} -> newcomer: {report:?}");
        }
        for node in ["n1", "n2", "n3"] {
            kill(cluster, node, &["-x", "bowline-proxy"]);
        }
    });
}

#[test]
fn killing_the_dns_worker_loses_no_query() {
    under_watch("kill-dns-worker", "the DNS worker", |cluster| {
        // Dense: what is lost while no worker lives is a matter of milliseconds.
        let name = format!("web.{}.svc.cluster.local", cluster.namespace());
        let dense = ["dns", &name, "--seconds=140", "--pause-ms=2", "--timeout-ms=3000"];
        let loads = ["client-n1", "client-n2", "client-n3"].map(|client| {
            (format!("dense queries in {client}"), cluster.start_in_pod(client, &dense))
        });
        for _ in 0..DNS_KILLS {
            for node in ["n1", "n2", "n3"] {
                kill(cluster, node, &["-f", "self/exe worker --zone"]);
            }
            // A worker that lives shorter than half a second is replaced later and later.
            std::thread::sleep(Duration::from_millis(700));
        }
        let reports: Vec<_> = loads.into_iter().map(|(what, load)| (what, load.end())).collect();
        assert_nothing_was_felt("the DNS worker", &reports);
    });
}

#[test]
fn killing_the_apiserver_breaks_nothing_and_loses_nothing() {
    under_watch("kill-server", "the control plane", |cluster| {
        let kubectl = cluster.kubectl();
        for number in 0..20 {
            kubectl.run(&["create", "configmap", &format!("kept-{number}"), "--from-literal=a=b"]);
        }
        kill_unit(cluster, "n1", "server");
        eventually("everything acknowledged is there", 30, || {
            let names = kubectl.try_run(&["get", "configmaps", "-o", "name"])?;
            let kept = names.lines().filter(|name| name.contains("/kept-")).count();
            if kept == 20 { Ok(()) } else { Err(names) }
        });
    });
}

#[test]
fn killing_a_kubelet_breaks_nothing() {
    under_watch("kill-kubelet", "a kubelet", |cluster| {
        let uids =
            "{range .items[*]}{.metadata.uid}{.status.containerStatuses[*].restartCount} {end}";
        let before = cluster.kubectl().jsonpath(&["pods"], uids);
        let containerd = || cluster.in_node("n2", &["pgrep", "-x", "containerd"]);
        let adopted = containerd();
        kill_unit(cluster, "n2", "agent");
        cluster.converged();
        assert_eq!(adopted, containerd(), "containerd died with the agent");
        let after = cluster.kubectl().jsonpath(&["pods"], uids);
        assert_eq!(before, after, "pods were replaced or restarted");
    });
}

#[test]
fn killing_containerd_breaks_nothing() {
    under_watch("kill-containerd", "containerd", |cluster| {
        kill(cluster, "n3", &["-x", "containerd"]);
        eventually("containerd runs again", 30, || {
            let found = cluster.in_node("n3", &["pgrep", "-x", "containerd"]);
            if found.trim().is_empty() { Err("it does not".into()) } else { Ok(()) }
        });
        cluster.kubectl().apply(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: after}\nspec:\n  nodeName: n3\n\
             \x20 containers: [{name: c, image: 'bowline/testkit:0.1.0', command: [testkit, serve]}]\n",
        );
        cluster.kubectl().run(&["wait", "pod", "after", "--for=condition=Ready", "--timeout=30s"]);
    });
}

#[test]
fn killing_the_whole_dns_container_of_a_node_fails_lookups_there_for_300_ms_at_most() {
    let cluster = TestCluster::get("kill-dns");
    cluster.converged();
    let clients = cluster.client_pods();
    let name = "kubernetes.default.svc.cluster.local";
    let load = cluster.start_in_pod(
        &clients[1],
        &["dns", name, "--seconds=60", "--pause-ms=10", "--timeout-ms=300"],
    );
    std::thread::sleep(Duration::from_secs(1));
    // PID 1 of the container: everything in it dies.
    kill(&cluster, "n2", &["-f", "bowline-dns run"]);
    settle(&cluster);
    let report = load.end();
    assert!(report.ok > 100, "{report:?}");
    let (first, last) = (report.failure_times.first(), report.failure_times.last());
    let window = last.unwrap_or(&0.0) - first.unwrap_or(&0.0);
    println!("lookups failed for {:.0} ms: {:?}", window * 1000.0, report.errors);
    assert!(window <= 0.3, "lookups failed for {window} s: {report:?}");
}

/// Containers, folders and cgroups of a pod on a node.
fn left_of_pod(cluster: &TestCluster, node: &str, uid: &str) -> String {
    let script = format!(
        "ctr -a /run/bowline/containerd.sock -n k8s.io containers ls -q \
         'labels.\"io.kubernetes.pod.uid\"=={uid}'; \
         find /var/lib/kubelet/pods /var/log/pods /sys/fs/cgroup -maxdepth 6 -name '*{uid}*'"
    );
    cluster.in_node(node, &["sh", "-c", &script])
}

#[test]
fn a_crashed_node_s_pods_are_replaced_and_it_comes_back_clean() {
    let cluster = TestCluster::get("node-crash");
    cluster.converged();
    let kubectl = cluster.kubectl();
    // Longer than the grace: endpoints must leave because the node is silent, not with their pods.
    let tolerations = "      terminationGracePeriodSeconds: 1\n      tolerations:\n\
        \x20     - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 8}\n\
        \x20     - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 8}\n";
    cluster.servers("web", 6, "", tolerations);
    let on_n3 = |path| {
        kubectl.jsonpath(&["pods", "-l", "app=web", "--field-selector=spec.nodeName=n3"], path)
    };
    let lost = on_n3("{.items[*].metadata.uid}");
    let forgotten = on_n3("{.items[0].metadata.name}");
    assert!(!lost.is_empty(), "no pod ran on n3");
    cluster.node("n3").crash().expect("the node can be killed");
    let endpoints_of_n3 = || {
        kubectl.try_run(&[
            "get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o",
            r#"jsonpath={range .items[*].endpoints[?(@.nodeName=="n3")]}{.conditions.ready}{"\n"}{end}"#,
        ])
    };
    let took = eventually("no endpoint on the dead node is ready", 20, || {
        let states = endpoints_of_n3()?;
        if states.contains("true") { Err(states) } else { Ok(()) }
    });
    println!("endpoints left after {took:?}");
    assert!(took < Duration::from_secs(9), "the grace is 5 s, endpoints left after {took:?}");
    eventually("six servers are ready elsewhere", 60, || {
        let nodes = kubectl.try_run(&[
            "get", "pods", "-l", "app=web", "-o",
            r#"jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.spec.nodeName}{"\n"}{end}"#,
        ])?;
        let alive = nodes.lines().filter(|node| *node == "n1" || *node == "n2").count();
        if alive == 6 { Ok(()) } else { Err(nodes) }
    });
    // Of this one the node is never told that it ended: it must find out.
    kubectl.run(&["delete", "pod", &forgotten, "--force", "--grace-period=0"]);
    cluster.node("n3").boot().expect("the node boots");
    cluster.converged();
    eventually("its old pods are gone from it and from the API", 60, || {
        let pods = kubectl.try_run(&["get", "pods", "-l", "app=web", "-o", "name"])?;
        if pods.lines().count() == 6 { Ok(()) } else { Err(pods) }
    });
    eventually("nothing of them is left on the node", 60, || {
        let left: String = lost.split(' ').map(|uid| left_of_pod(&cluster, "n3", uid)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    // It takes new work.
    kubectl.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: again}\nspec:\n  nodeName: n3\n\
         \x20 containers: [{name: c, image: 'bowline/testkit:0.1.0', command: [testkit, serve]}]\n",
    );
    kubectl.run(&["wait", "pod", "again", "--for=condition=Ready", "--timeout=60s"]);
}

#[test]
fn a_node_that_others_called_lost_soon_says_again_that_it_is_ready() {
    let cluster = TestCluster::get("node-lost");
    cluster.converged();
    let kubectl = cluster.kubectl();
    eventually("the kubelet has nothing new to say of its own", 20, || {
        let images = kubectl.try_run(&["get", "node", "n2", "-o=jsonpath={.status.images}"])?;
        if images.contains(TESTKIT_IMAGE) { Ok(()) } else { Err(images) }
    });
    // By a PUT: Debian's kubectl knows no --subresource.
    let path = "/api/v1/nodes/n2/status";
    eventually("the node's status is overwritten", 10, || {
        let text = kubectl.try_run(&["get", "--raw", path])?;
        let mut node: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let conditions = node["status"]["conditions"].as_array_mut().expect("a node has them");
        let ready = conditions.iter_mut().find(|condition| condition["type"] == "Ready");
        ready.expect("it is among them")["status"] = "Unknown".into();
        let put = ["replace", "--raw", path, "-f", "-"];
        let output = kubectl.output_with_input(&put, &node.to_string());
        let said = String::from_utf8_lossy(&output.stdout);
        // The kubelet may have written in between.
        let done = output.status.success() && said.contains("\"Unknown\"");
        if done {
            Ok(())
        } else {
            Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
        }
    });
    let took = eventually("the kubelet puts it right", 20, || {
        let path = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status} {.spec.taints}";
        let found = kubectl.try_run(&["get", "node", "n2", path])?;
        if found == "True " { Ok(()) } else { Err(found) }
    });
    println!("Ready again after {took:?}");
    cluster.converged();
}
