//! What becomes of nodes and of the pods on them.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::DeleteParams;
use serde_json::json;

use crate::kit::{Trial, pod_template, ready_addresses};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_endpoints_and_then_its_pods() {
    let trial = Trial::start(|config| config.node_monitor_grace = Duration::from_secs(2)).await;
    trial.nodes(&["n1"]).await;
    let nodes = trial.all::<Node>();
    let node =
        trial.wait(&nodes, "n1", |node| node.spec.clone().unwrap_or_default().pod_cidr.is_some());
    assert_eq!(node.await.spec.expect("spec").pod_cidr.as_deref(), Some("10.244.0.0/24"));
    let service = json!({"metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    trial.create(&trial.api::<Service>(), service).await;
    let mut pod = pod_template("web", "web:1");
    pod["metadata"]["name"] = json!("web");
    pod["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable",
        "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    trial.create(&trial.api::<Pod>(), pod).await;
    trial
        .until("the endpoint is ready", || async {
            trial.beat("n1").await;
            ready_addresses(&trial, "web").await.len() == 1
        })
        .await;
    let lost = trial.wait(&nodes, "n1", |node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
        conditions.unwrap_or_default().iter().any(|one| one.status == "Unknown")
    });
    lost.await;
    trial
        .until("the endpoint left", || async { ready_addresses(&trial, "web").await.is_empty() })
        .await;
    trial.gone(&trial.api::<Pod>(), "web").await;
    trial.beat("n1").await;
    trial
        .wait(&nodes, "n1", |node| {
            node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_none_or(Vec::is_empty)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_was_only_silent_are_ready_again() {
    let trial = Trial::start(|config| config.node_monitor_grace = Duration::from_secs(2)).await;
    trial.nodes(&["n1"]).await;
    let mut pod = pod_template("web", "web:1");
    pod["metadata"]["name"] = json!("web");
    let api = trial.api::<Pod>();
    trial.create(&api, pod).await;
    let ready = |pod: &Pod, wanted: &str| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        conditions
            .unwrap_or_default()
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == wanted)
    };
    trial.wait(&api, "web", |pod| ready(pod, "True")).await;
    trial.wait(&api, "web", |pod| ready(pod, "False")).await;
    // The lease was late, and the kubelet does not know that anything was said in its place.
    trial
        .until("the pod is ready again", || async {
            trial.renew("n1").await;
            ready(&api.get("web").await.expect("it is there"), "True")
        })
        .await;
    let node = trial.all::<Node>().get("n1").await.expect("it is there");
    let conditions = node.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let said: Vec<_> = conditions.iter().filter(|one| one.status == "True").collect();
    assert_eq!(said.len(), 1, "{conditions:?}");
    assert_eq!(said[0].reason.as_deref(), Some("KubeletReady"), "as the kubelet said it last");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    assert!(taints.is_empty(), "{taints:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_s_lease_goes_with_the_node() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let (nodes, leases) = (trial.all::<Node>(), trial.leases());
    let node = nodes.get("n1").await.expect("it is there");
    let lease = json!({"metadata": {"name": "n1", "ownerReferences": [{"apiVersion": "v1",
        "kind": "Node", "name": "n1", "uid": node.metadata.uid}]}});
    trial.create(&leases, lease).await;
    nodes.delete("n1", &DeleteParams::default()).await.expect("it is deleted");
    trial.gone(&leases, "n1").await;
}
