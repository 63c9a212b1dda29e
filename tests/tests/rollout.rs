//! Rolling updates under load: what is replaced must not be felt.

use std::time::{Duration, Instant};

use bowline_tests::harness::{TestCluster, eventually};
use bowline_tests::kit::report::Report;

/// What a server sleeps before it is told to end.
const PRE_STOP: Duration = Duration::from_secs(2);
/// Updates one after the other while the load runs.
const ROLLOUTS: usize = 2;

fn roll(cluster: &TestCluster, deployment: &str) {
    for round in 0..ROLLOUTS {
        let patch = format!(
            r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{"round":"{round}"}}}}}}}}}}"#
        );
        cluster.kubectl().run(&["patch", "deployment", deployment, "-p", &patch]);
        cluster.kubectl().run(&["rollout", "status", "deployment", deployment, "--timeout=120s"]);
    }
}

fn under_load(cluster: &TestCluster, deployment: &str) -> Vec<(String, Report)> {
    let clients = cluster.client_pods();
    let port = cluster.node_port(deployment);
    let name = format!("{deployment}:80");
    let mut loads = Vec::new();
    for client in &clients {
        loads.push((
            client.clone(),
            cluster.start_in_pod(
                client,
                &["load", &name, "--seconds=150", "--workers=2", "--pause-ms=2"],
            ),
        ));
    }
    for address in cluster.node_addresses() {
        let target = format!("{address}:{port}");
        loads.push((
            format!("outside by {address}"),
            cluster.start_outside(&[
                "load",
                &target,
                "--seconds=150",
                "--workers=2",
                "--pause-ms=2",
            ]),
        ));
    }
    roll(cluster, deployment);
    // The last old pods are still draining.
    eventually("the old pods are gone", 60, || {
        let pods = cluster.kubectl().try_run(&[
            "get",
            "pods",
            "-l",
            &format!("app={deployment}"),
            "-o",
            "name",
        ])?;
        if pods.lines().count() == 4 { Ok(()) } else { Err(pods) }
    });
    loads.into_iter().map(|(who, load)| (who, load.end())).collect()
}

#[test]
fn a_rolling_update_of_a_server_that_drains_fails_no_request() {
    let cluster = TestCluster::get("rolling");
    cluster.servers("web", 4, "  type: NodePort\n", "      terminationGracePeriodSeconds: 10\n");
    let reports = under_load(&cluster, "web");
    for (who, report) in &reports {
        assert!(report.ok > 300, "{who} hardly asked: {report:?}");
        assert!(report.backends.len() > 4, "{who} saw no update: {report:?}");
    }
    let failed: Vec<_> = reports.iter().filter(|(_, report)| report.failed > 0).collect();
    assert!(failed.is_empty(), "requests failed: {failed:#?}");
    // Here the endpoints leave faster than the servers end: that the sleep is slept shows alone.
    let pod = cluster.kubectl().jsonpath(&["pods", "-l", "app=web"], "{.items[0].metadata.name}");
    let begun = Instant::now();
    cluster.kubectl().run(&["delete", "pod", &pod]);
    assert!(begun.elapsed() >= PRE_STOP, "{pod} was gone after {:?}", begun.elapsed());
}

#[test]
fn a_server_that_leaves_at_once_fails_some_and_they_are_counted() {
    let cluster = TestCluster::get("abrupt");
    cluster.servers("web", 4, "  type: NodePort\n", "      terminationGracePeriodSeconds: 10\n");
    let abrupt = r#"{"spec":{"template":{"spec":{"containers":[{"name":"server","command":["testkit","serve","--abrupt"],"lifecycle":null}]}}}}"#;
    cluster.kubectl().run(&["patch", "deployment", "web", "-p", abrupt]);
    cluster.kubectl().run(&["rollout", "status", "deployment", "web", "--timeout=120s"]);
    let reports = under_load(&cluster, "web");
    let (ok, failed) =
        reports.iter().fold((0, 0), |(ok, failed), (_, r)| (ok + r.ok, failed + r.failed));
    println!("a server that exits at once on SIGTERM: {failed} of {} requests failed", ok + failed);
    for (who, report) in &reports {
        println!("  {who}: {:?}", report.errors);
    }
    assert!(ok > 1000, "the load hardly ran: {reports:?}");
    // Such failures come from the server's own exit; more would be ours.
    assert!(failed * 20 < ok, "over 5 % failed: {reports:#?}");
}
