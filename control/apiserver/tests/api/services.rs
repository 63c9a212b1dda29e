//! Addresses and node ports.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kit::{Cluster, DEFAULT};

fn service(name: &str, kind: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [
        {"name": "a", "port": 80}, {"name": "b", "port": 80, "protocol": "UDP"},
        {"name": "c", "port": 81}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_or_node_port_is_given_out_twice() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let mut writers = JoinSet::new();
    for i in 0..60 {
        let admin = admin.clone();
        writers.spawn(async move {
            let path = format!("{DEFAULT}/services");
            admin.post(&path, &service(&format!("s{i}"), "NodePort")).await.ok()
        });
    }
    let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
    while let Some(made) = writers.join_next().await {
        let made = made.expect("no writer panics");
        assert!(addresses.insert(made["spec"]["clusterIP"].to_string()), "twice: {made}");
        let node_port = |i: usize| made["spec"]["ports"][i]["nodePort"].as_u64().expect("a port");
        assert_eq!(node_port(0), node_port(1), "TCP and UDP of one number share a node port");
        for port in [node_port(0), node_port(2)] {
            assert!((30000..=32767).contains(&port) && ports.insert(port), "twice: {made}");
        }
    }
    let listed = admin.get("/apis/networking.k8s.io/v1/ipaddresses").await.ok();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(61), "and default/kubernetes");
}

#[tokio::test]
async fn a_taken_or_foreign_address_or_port_is_refused_and_a_freed_one_is_given_again() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEFAULT}/services");
    let fixed = |name: &str, ip: &str, port: u64| {
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "clusterIP": ip,
               "ports": [{"port": 80, "nodePort": port}]}})
    };
    admin.post(&path, &fixed("a", "10.96.7.7", 30007)).await.ok();
    for (ip, port, field) in [
        ("10.96.7.7", 30008, "spec.clusterIPs[0]"),
        ("10.1.1.1", 30008, "spec.clusterIPs[0]"),
        ("10.96.7.8", 30007, "spec.ports[0].nodePort"),
        ("10.96.7.8", 80, "spec.ports[0].nodePort"),
    ] {
        let answer = admin.post(&path, &fixed("b", ip, port)).await;
        assert_eq!(answer.code, 422, "{ip} {port}: {}", answer.body);
        assert_eq!(answer.body["details"]["causes"][0]["field"], field, "{}", answer.body);
    }
    admin.delete(&format!("{path}/a")).await.ok();
    admin.post(&path, &fixed("b", "10.96.7.7", 30007)).await.ok();
}

#[tokio::test]
async fn updates_keep_what_they_do_not_name() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEFAULT}/services");
    let made = admin.post(&path, &service("a", "NodePort")).await.ok();
    let mut bare = service("a", "NodePort");
    bare["spec"]["ports"][2]["port"] = json!(82);
    let updated = admin.put(&format!("{path}/a"), &bare).await.ok();
    assert_eq!(updated["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let port = |object: &Value, i: usize| object["spec"]["ports"][i]["nodePort"].clone();
    assert_eq!(port(&updated, 0), port(&made, 0), "the same port keeps its node port");
    assert_ne!(port(&updated, 2), port(&made, 2), "another port gets another");
    cluster.restart().await;
    let admin = cluster.admin().await;
    let wanted = json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort",
        "ports": [{"port": 80, "nodePort": port(&made, 0)}]}});
    assert_eq!(admin.post(&path, &wanted).await.code, 422, "a restart forgets no allocation");
    let headless = json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None",
        "ports": [{"port": 80}]}});
    let headless = admin.post(&path, &headless).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let back =
        admin.merge(&format!("{path}/a"), &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert_eq!(port(&back, 0), Value::Null, "a ClusterIP service has no node ports");
}

#[tokio::test]
async fn a_service_that_becomes_a_name_gives_back_what_it_had() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEFAULT}/services");
    let made = admin.post(&path, &service("a", "NodePort")).await.ok();
    let mut changed = made.clone();
    changed["spec"]["type"] = json!("ExternalName");
    changed["spec"]["externalName"] = json!("example.com");
    let name = admin.put(&format!("{path}/a"), &changed).await.ok();
    let spec = name["spec"].as_object().expect("a spec");
    for gone in ["clusterIP", "clusterIPs", "externalTrafficPolicy", "internalTrafficPolicy"] {
        assert!(!spec.contains_key(gone), "{gone}: {name}");
    }
    assert!(spec["ports"].as_array().expect("ports").iter().all(|p| p["nodePort"].is_null()));
    let mut successor = service("b", "NodePort");
    successor["spec"]["clusterIP"] = made["spec"]["clusterIP"].clone();
    successor["spec"]["ports"] = made["spec"]["ports"].clone();
    admin.post(&path, &successor).await.ok();
    changed["spec"]["type"] = json!("NodePort");
    changed["metadata"]["resourceVersion"] = name["metadata"]["resourceVersion"].clone();
    let answer = admin.put(&format!("{path}/a"), &changed).await;
    assert_eq!(answer.code, 422, "they are another's now: {}", answer.body);
}

#[tokio::test]
async fn the_server_keeps_its_own_service() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let service = admin.get(&format!("{DEFAULT}/services/kubernetes")).await.ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = admin.get(path).await.ok();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
}
