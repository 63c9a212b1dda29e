//! The controllers against a real apiserver: what users see of deployments, services, nodes,
//! namespaces and garbage.

mod kit;

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use kit::Trial;

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}}, "template": pod_template("web", image)}})
}

fn pod_template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}})
}

fn available(deployment: &Deployment, wanted: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    status.available_replicas == Some(wanted)
        && status.updated_replicas == Some(wanted)
        && status.replicas == Some(wanted)
        && status.observed_generation == deployment.metadata.generation
}

async fn pods(trial: &Trial, app: &str) -> Vec<Pod> {
    let list = ListParams::default().labels(&format!("app={app}"));
    trial.api::<Pod>().list(&list).await.expect("a list").items
}

/// Addresses of the slices' endpoints that are ready.
async fn ready_addresses(trial: &Trial, service: &str) -> BTreeSet<String> {
    let list = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = trial.api::<EndpointSlice>().list(&list).await.expect("a list").items;
    slices
        .into_iter()
        .flat_map(|slice| slice.endpoints)
        .filter(|one| one.conditions.as_ref().and_then(|all| all.ready) == Some(true))
        .flat_map(|one| one.addresses)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_scales_and_rolls_back() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2"]).await;
    let api = trial.api::<Deployment>();
    trial.create(&api, deployment(3, "web:1")).await;
    trial.wait(&api, "web", |one| available(one, 3)).await;

    let merge = |patch: Value| Patch::Merge(patch);
    let parameters = PatchParams::default();
    let image = json!([{"name": "c", "image": "web:2"}]);
    let update = json!({"spec": {"template": {"spec": {"containers": image}}}});
    api.patch("web", &parameters, &merge(update)).await.expect("an update");
    let rolled = trial.wait(&api, "web", |one| available(one, 3)).await;
    assert_eq!(rolled.annotations()["deployment.kubernetes.io/revision"], "2");
    trial
        .until("only new pods are left", || async {
            let pods = pods(&trial, "web").await;
            let new = |pod: &Pod| {
                let spec = pod.spec.as_ref().expect("spec");
                spec.containers[0].image.as_deref() == Some("web:2")
            };
            pods.len() == 3 && pods.iter().all(new)
        })
        .await;

    let back = json!({"spec": {"replicas": 5, "template": {"spec": {
        "containers": [{"name": "c", "image": "web:1"}]}}}});
    api.patch("web", &parameters, &merge(back)).await.expect("a rollback");
    let rolled = trial.wait(&api, "web", |one| available(one, 5)).await;
    assert_eq!(rolled.annotations()["deployment.kubernetes.io/revision"], "3");
    let sets = trial.api::<ReplicaSet>().list(&ListParams::default()).await.expect("a list");
    assert_eq!(sets.items.len(), 2, "a rollback uses the old replica set again");

    api.patch("web", &parameters, &merge(json!({"spec": {"replicas": 0}}))).await.expect("a scale");
    trial.until("no pod is left", || async { pods(&trial, "web").await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_the_pods_of_a_service() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2"]).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80}],
        "trafficDistribution": "PreferSameNode"}});
    trial.create(&trial.api::<Service>(), service).await;
    trial.create(&trial.api::<Deployment>(), deployment(3, "web:1")).await;
    trial
        .until("three endpoints are ready", || async {
            ready_addresses(&trial, "web").await.len() == 3
        })
        .await;
    let slices = trial.api::<EndpointSlice>().list(&ListParams::default()).await.expect("a list");
    for endpoint in slices.items.iter().flat_map(|slice| &slice.endpoints) {
        let hints = endpoint.hints.clone().expect("hints");
        let node = hints.for_nodes.expect("node hints").remove(0).name;
        assert_eq!(Some(node), endpoint.node_name, "the hint names the endpoint's node");
    }
    let legacy = trial.api::<Endpoints>();
    trial
        .wait(&legacy, "web", |one| {
            let subsets = one.subsets.iter().flatten();
            subsets.flat_map(|subset| subset.addresses.iter().flatten()).count() == 3
        })
        .await;
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let api = trial.api::<Deployment>();
    api.patch("web", &PatchParams::default(), &none).await.expect("a scale");
    trial
        .until("no endpoint is ready", || async { ready_addresses(&trial, "web").await.is_empty() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_has_one_pod_on_each_node_and_updates_them() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2", "n3"]).await;
    let api = trial.api::<DaemonSet>();
    let set = json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": pod_template("agent", "a:1")}});
    trial.create(&api, set).await;
    let done = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.number_available == Some(3)
            && status.updated_number_scheduled == Some(3)
    };
    trial.wait(&api, "agent", done).await;
    let nodes: BTreeSet<_> =
        pods(&trial, "agent").await.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
    assert_eq!(nodes.len(), 3);
    let image = json!([{"name": "c", "image": "a:2"}]);
    let update = Patch::Merge(json!({"spec": {"template": {"spec": {"containers": image}}}}));
    api.patch("agent", &PatchParams::default(), &update).await.expect("an update");
    trial.wait(&api, "agent", done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_basics_and_takes_all_with_it() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let namespaces = trial.all::<Namespace>();
    trial.create(&namespaces, json!({"metadata": {"name": "team"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(trial.client.clone(), "team");
    trial.wait(&accounts, "default", |_| true).await;
    let maps: Api<ConfigMap> = Api::namespaced(trial.client.clone(), "team");
    let root = trial.wait(&maps, "kube-root-ca.crt", |_| true).await;
    assert!(root.data.expect("data")["ca.crt"].contains("BEGIN CERTIFICATE"));
    let deployments: Api<Deployment> = Api::namespaced(trial.client.clone(), "team");
    trial.create(&deployments, deployment(2, "web:1")).await;
    trial.wait(&deployments, "web", |one| available(one, 2)).await;
    namespaces.delete("team", &DeleteParams::default()).await.expect("it is deleted");
    trial.gone(&namespaces, "team").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_takes_orphans_or_waits_for_dependents_as_asked() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<Deployment>();
    let sets = trial.api::<ReplicaSet>();
    let delete = |policy| DeleteParams { propagation_policy: Some(policy), ..Default::default() };

    trial.create(&api, deployment(2, "web:1")).await;
    trial.wait(&api, "web", |one| available(one, 2)).await;
    let background = delete(PropagationPolicy::Background);
    api.delete("web", &background).await.expect("it is deleted");
    trial.until("the pods follow", || async { pods(&trial, "web").await.is_empty() }).await;

    trial.gone(&api, "web").await;
    trial.create(&api, deployment(2, "web:1")).await;
    trial.wait(&api, "web", |one| available(one, 2)).await;
    api.delete("web", &delete(PropagationPolicy::Foreground)).await.expect("it is deleted");
    trial.gone(&api, "web").await;
    assert!(pods(&trial, "web").await.is_empty(), "foreground: the pods went first");

    trial.create(&api, deployment(2, "web:1")).await;
    trial.wait(&api, "web", |one| available(one, 2)).await;
    api.delete("web", &delete(PropagationPolicy::Orphan)).await.expect("it is deleted");
    trial.gone(&api, "web").await;
    let left = sets.list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(left.len(), 1, "the replica set stays");
    assert!(left[0].owner_references().is_empty(), "and nobody owns it");
    assert_eq!(pods(&trial, "web").await.len(), 2);
}

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
