//! Services as users meet them: reached by name, by node port, refused when empty.

use std::process::Command;
use std::time::{Duration, Instant};

use bowline_tests::harness::{NODES, TESTKIT_IMAGE, TestCluster, eventually, reports_of};
use bowline_tests::kit::report::Report;
use bowline_tests::kit::unix_seconds;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};

/// Requests from each node's client.
const REQUESTS: u64 = 600;

fn assert_fair(report: &Report, backends: usize, who: &str) {
    assert_eq!(report.failed, 0, "{who}: {report:?}");
    assert_eq!(report.ok, REQUESTS, "{who}: {report:?}");
    assert_eq!(report.backends.len(), backends, "{who}: not every backend answered: {report:?}");
    let least = REQUESTS / backends as u64 / 2;
    for (backend, answers) in &report.backends {
        assert!(
            *answers >= least,
            "{who}: {backend} got {answers}, less than half its share of {report:?}"
        );
    }
}

#[test]
fn a_service_s_name_reaches_all_its_backends_from_every_node() {
    let cluster = TestCluster::get("service-by-name");
    let kubectl = cluster.kubectl();
    let clients = cluster.client_pods();
    // As the user types it: create and expose, nothing else.
    kubectl.run(&[
        "create",
        "deployment",
        "web",
        "--replicas=6",
        &format!("--image={TESTKIT_IMAGE}"),
        "--",
        "testkit",
        "serve",
    ]);
    kubectl.run(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]);
    kubectl.run(&["rollout", "status", "deployment", "web", "--timeout=90s"]);
    wait_for_endpoints(&cluster, "web", 6);
    let requests = format!("--requests={REQUESTS}");
    for client in &clients {
        let report = cluster.testkit(client, &["load", "web:80", &requests, "--workers=4"]);
        assert_fair(&report, 6, client);
    }
}

#[test]
fn the_datagrams_of_one_socket_stay_on_one_backend() {
    let cluster = TestCluster::get("udp");
    let clients = cluster.client_pods();
    cluster.servers("echo", 4, "", "");
    let address = cluster.kubectl().jsonpath(&["service", "echo"], "{.spec.clusterIP}");
    let target = format!("{address}:80");
    for connected in [&[][..], &["--connected"]] {
        for client in &clients {
            let mut arguments = vec!["udp", &target, "--count=100", "--pause-ms=1"];
            arguments.extend(connected);
            let report = cluster.testkit(client, &arguments);
            assert_eq!((report.ok, report.failed), (100, 0), "{client} {connected:?}: {report:?}");
            assert_eq!(report.backends.len(), 1, "{client} {connected:?} moved: {report:?}");
        }
    }
    // Different sockets do spread: else the test above would pass with one backend for all.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..24 {
        seen.extend(
            cluster.testkit(&clients[0], &["udp", &target, "--count=1"]).backends.into_keys(),
        );
    }
    assert!(seen.len() > 1, "24 sockets all went to {seen:?}");
}

#[test]
fn a_node_port_answers_on_every_node_also_where_no_backend_runs() {
    let cluster = TestCluster::get("node-port");
    // One backend: at least two of the nodes have none.
    cluster.servers("web", 1, "  type: NodePort\n", "");
    let port = cluster.node_port("web");
    for address in cluster.node_addresses() {
        let target = format!("{address}:{port}");
        let report = cluster.start_outside(&["load", &target, "--requests=100"]).wait();
        assert_eq!((report.ok, report.failed), (100, 0), "{target}: {report:?}");
        let udp_port = cluster.kubectl().jsonpath(&["service", "web"], "{.spec.ports[1].nodePort}");
        let report =
            cluster.start_outside(&["udp", &format!("{address}:{udp_port}"), "--count=50"]).wait();
        assert_eq!((report.ok, report.failed), (50, 0), "UDP at {address}: {report:?}");
    }
    assert_eq!(cluster.node_addresses().len(), NODES);
}

#[test]
fn scale_to_zero_refuses_at_once_and_scale_up_answers_again() {
    let cluster = TestCluster::get("scale-to-zero");
    let kubectl = cluster.kubectl();
    let clients = cluster.client_pods();
    cluster.servers("web", 2, "  type: NodePort\n", "      terminationGracePeriodSeconds: 10\n");
    let port = cluster.node_port("web");
    let address = kubectl.jsonpath(&["service", "web"], "{.spec.clusterIP}");
    let outside = format!("{}:{port}", cluster.node_addresses()[1]);
    let inside_target = format!("{address}:80");

    // Both clients ask every few milliseconds, and note when the last answer and the first refusal were.
    let loads = vec![
        cluster
            .start_in_pod(&clients[0], &["load", &inside_target, "--seconds=12", "--pause-ms=2"]),
        cluster.start_outside(&["load", &outside, "--seconds=12", "--pause-ms=2"]),
    ];
    let slices = Watch::endpoints(&cluster, "web");
    kubectl.run(&["scale", "deployment", "web", "--replicas=0"]);
    let emptied = slices.emptied();
    for report in reports_of(loads) {
        assert!(report.failed > 0, "never refused: {report:?}");
        for (kind, count) in &report.errors {
            let refused = kind.contains("refused") || kind.contains("unreachable");
            // The servers leave at once at SIGTERM, and reset what they had taken.
            let cut = *count <= 2 && kind == "read: connection reset";
            assert!(refused || cut, "refused is what a client must see, not {kind}: {report:?}");
            println!("{kind}: {count} of {}", report.ok + report.failed);
        }
    }
    // From the slice's update on the wire to the first refusal, asked for anew in a tight loop.
    println!("slices were empty after {emptied:?}");
    for (who, started) in [("inside", Instant::now()), ("outside", Instant::now())] {
        let report = if who == "inside" {
            cluster.testkit(&clients[1], &["load", &inside_target, "--requests=20"])
        } else {
            cluster.start_outside(&["load", &outside, "--requests=20"]).wait()
        };
        assert_eq!((report.ok, report.failed), (0, 20), "{who}: {report:?}");
        assert!(report.slowest_ms < 50.0, "{who}: a refusal took {} ms", report.slowest_ms);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    kubectl.run(&["scale", "deployment", "web", "--replicas=1"]);
    kubectl.run(&["wait", "pod", "-l", "app=web", "--for=condition=Ready", "--timeout=30s"]);
    let ready = Instant::now();
    eventually("the service answers again", 5, || {
        let report = cluster.start_outside(&["load", &outside, "--requests=1"]).wait();
        if report.ok == 1 { Ok(()) } else { Err(format!("{:?}", report.errors)) }
    });
    assert!(ready.elapsed() < Duration::from_secs(1), "it took {:?} after Ready", ready.elapsed());
    let report = cluster.testkit(&clients[2], &["load", &inside_target, "--requests=20"]);
    assert_eq!((report.ok, report.failed), (20, 0), "inside: {report:?}");
}

#[test]
fn a_refusal_follows_the_slice_s_update_within_50_ms() {
    let cluster = TestCluster::get("refusal-latency");
    let clients = cluster.client_pods();
    // A service without a selector: its slice is ours to change, so the moment of the change is known.
    let pod = cluster.kubectl().jsonpath(&["pod", &clients[1]], "{.status.podIP}");
    cluster.kubectl().exec(&clients[1], &["sh", "-c", "setsid testkit serve >/dev/null 2>&1 &"]);
    cluster.kubectl().apply(&manual_slice(&pod));
    let address = cluster.kubectl().jsonpath(&["service", "manual"], "{.spec.clusterIP}");
    let target = format!("{address}:80");
    eventually("the hand-made slice is served", 10, || {
        let report = cluster.testkit(&clients[0], &["load", &target, "--requests=1"]);
        if report.ok == 1 { Ok(()) } else { Err(format!("{:?}", report.errors)) }
    });
    let outside = format!("{}:{}", cluster.node_addresses()[2], cluster.node_port("manual"));
    let loads = [
        ("inside", cluster.start_in_pod(&clients[0], &["load", &target, "--seconds=20"])),
        ("outside", cluster.start_outside(&["load", &outside, "--seconds=20"])),
    ];
    let updated = empty_manual_slice(&cluster);
    for (who, load) in loads {
        let report = load.end();
        assert!(report.ok > 0 && report.failed > 0, "{who}: one of both is missing: {report:?}");
        let late = (report.last_ok_began - updated) * 1000.0;
        println!("{who}: the last answered began at {late:.1} ms; then {:?}", report.errors);
        assert!(late < 50.0, "{who}: answered {late:.1} ms after the slice's update: {report:?}");
    }
}

/// When the update was acknowledged. kubectl would end some 30 ms later.
fn empty_manual_slice(cluster: &TestCluster) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("there are threads");
    runtime.block_on(async {
        let client = bowline_tests::bench::services::client(cluster.kubectl().kubeconfig()).await;
        let client = client.expect("kubectl's configuration is good for us too");
        let slices: Api<EndpointSlice> = Api::namespaced(client, cluster.namespace());
        slices.get("manual-1").await.expect("it was applied, and now there is a connection");
        let empty = Patch::Merge(serde_json::json!({"endpoints": []}));
        slices.patch("manual-1", &PatchParams::default(), &empty).await.expect("it is taken");
        unix_seconds()
    })
}

fn manual_slice(address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: manual}}\nspec:\n  type: NodePort\n\
         \x20 ports: [{{name: tcp, port: 80}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: manual-1, labels: {{kubernetes.io/service-name: manual}}}}\n\
         addressType: IPv4\nports: [{{name: tcp, port: 8080, protocol: TCP}}]\n\
         endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]\n"
    )
}

fn wait_for_endpoints(cluster: &TestCluster, service: &str, wanted: usize) {
    let label = format!("kubernetes.io/service-name={service}");
    eventually("all pods are endpoints", 20, || {
        let ready = cluster.kubectl().try_run(&[
            "get",
            "endpointslices",
            "-l",
            &label,
            "-o",
            "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}x{end}",
        ])?;
        if ready.len() == wanted { Ok(()) } else { Err(format!("{} of {wanted}", ready.len())) }
    });
}

/// Watches a service's slices until no endpoint is left.
struct Watch {
    child: std::process::Child,
    begun: Instant,
}

impl Watch {
    fn endpoints(cluster: &TestCluster, service: &str) -> Self {
        let label = format!("kubernetes.io/service-name={service}");
        let mut command: Command = cluster.kubectl().command(&[
            "get",
            "endpointslices",
            "-l",
            &label,
            "-w",
            "--request-timeout=30s",
            "-o",
            r#"jsonpath={range .endpoints[?(@.conditions.ready==true)]}x{end}|{"\n"}"#,
        ]);
        let child =
            command.stdout(std::process::Stdio::piped()).spawn().expect("kubectl is installed");
        Self { child, begun: Instant::now() }
    }

    fn emptied(mut self) -> Duration {
        use std::io::BufRead;
        let stdout = self.child.stdout.take().expect("it was piped");
        for line in std::io::BufReader::new(stdout).lines() {
            if line.expect("kubectl writes text").trim() == "|" {
                break;
            }
        }
        let took = self.begun.elapsed();
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        took
    }
}
