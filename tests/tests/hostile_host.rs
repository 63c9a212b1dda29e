//! A host as users have it: Docker's firewall drops what is forwarded, reverse paths are strict,
//! forwarding is off.

use bowline_tests::harness::{TestCluster, eventually};

/// What is wrong with the node, in the order in which it is made so, and how it was before.
const TROUBLES: [(&str, &str); 4] = [
    ("iptables-legacy -P FORWARD DROP", "iptables-legacy -P FORWARD ACCEPT"),
    (
        "nft 'add table ip hostile; add chain ip hostile forward { type filter hook forward priority 0; policy drop; }'",
        "nft delete table ip hostile",
    ),
    (
        "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done",
        "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
    ),
    ("echo 0 > /proc/sys/net/ipv4/ip_forward", "echo 1 > /proc/sys/net/ipv4/ip_forward"),
];

/// Puts the node right again, however the test ends.
struct Hostile<'a>(&'a TestCluster);

impl<'a> Hostile<'a> {
    fn make(cluster: &'a TestCluster) -> Self {
        let hostile = Self(cluster);
        for (make, _) in TROUBLES {
            let output = cluster.node("n2").exec(&["sh", "-ec", make]).expect("n2 runs commands");
            assert!(output.status.success(), "{make}: {}", String::from_utf8_lossy(&output.stderr));
        }
        hostile
    }
}

impl Drop for Hostile<'_> {
    fn drop(&mut self) {
        for (_, undo) in TROUBLES {
            self.0.in_node("n2", &["sh", "-c", undo]);
        }
    }
}

#[test]
fn pods_and_node_ports_work_on_a_host_that_drops_what_is_forwarded() {
    let cluster = TestCluster::get("hostile-host");
    let hostile = Hostile::make(&cluster);
    // As after an installation on such a host: the agent starts there, and pods are added.
    cluster.in_node("n2", &["pkill", "-KILL", "-x", "bowline-proxy"]);
    cluster.converged();
    let clients = cluster.client_pods();
    cluster.servers("web", 6, "  type: NodePort\n", "");
    let kubectl = cluster.kubectl();
    let on_n2 = kubectl.jsonpath(
        &["pods", "-l", "app=web", "--field-selector=spec.nodeName=n2"],
        "{.items[0].status.podIP}",
    );
    let nodes = cluster.node_addresses();
    let target = format!("{on_n2}:8080");
    eventually("a pod on another node reaches one on this host", 20, || {
        let report = cluster.testkit(&clients[0], &["load", &target, "--requests=1"]);
        if report.ok == 1 { Ok(()) } else { Err(format!("{:?}", report.errors)) }
    });
    for client in &clients {
        // The host's DNS server lost its watches, and has to hear of the service.
        eventually("the service is known by its name", 60, || {
            let report = cluster.testkit(client, &["load", "web:80", "--requests=1"]);
            if report.ok == 1 { Ok(()) } else { Err(format!("{client}: {:?}", report.errors)) }
        });
    }
    let node_port = format!("{}:{}", nodes[1], cluster.node_port("web"));
    for report in [
        cluster.testkit(&clients[0], &["load", &target, "--requests=50"]),
        cluster.testkit(&clients[1], &["load", "web:80", "--requests=50"]),
        cluster.testkit(&clients[2], &["load", "web:80", "--requests=50"]),
        cluster.start_outside(&["load", &node_port, "--requests=50"]).wait(),
    ] {
        assert_eq!((report.ok, report.failed), (50, 0), "{report:?}");
    }
    // Beyond the cluster, too, by the node's address.
    let gateway = cluster.cluster().plan().gateway.to_string();
    let ping = ["ping", "-c", "1", "-W", "2", &gateway];
    assert!(kubectl.exec(&clients[1], &ping).contains(" 0% packet loss"));
    let log = kubectl.run(&[
        "logs",
        "-n",
        "kube-system",
        "-l",
        "app.kubernetes.io/name=bowline-proxy",
        "--tail=-1",
    ]);
    assert!(log.contains("it now accepts pods"), "nothing was said of it:\n{log}");
    drop(hostile);
}
