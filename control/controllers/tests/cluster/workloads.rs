//! What users see of deployments, daemon sets, services, namespaces and garbage.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::kit::{Trial, available, deployment, pod_template, pods, ready_addresses};

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_scales_and_rolls_back() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2"]).await;
    let api = trial.api::<Deployment>();
    trial.create(&api, deployment(3, "web:1")).await;
    trial.wait(&api, "web", |one| available(one, 3)).await;

    let change = |patch: Value| Patch::Strategic(patch);
    let parameters = PatchParams::default();
    let image = json!([{"name": "c", "image": "web:2"}]);
    let update = json!({"spec": {"template": {"spec": {"containers": image}}}});
    api.patch("web", &parameters, &change(update)).await.expect("an update");
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
    api.patch("web", &parameters, &change(back)).await.expect("a rollback");
    let rolled = trial.wait(&api, "web", |one| available(one, 5)).await;
    assert_eq!(rolled.annotations()["deployment.kubernetes.io/revision"], "3");
    let sets = trial.api::<ReplicaSet>().list(&ListParams::default()).await.expect("a list");
    assert_eq!(sets.items.len(), 2, "a rollback uses the old replica set again");

    api.patch("web", &parameters, &change(json!({"spec": {"replicas": 0}})))
        .await
        .expect("a scale");
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
    let own = ListParams::default().labels("kubernetes.io/service-name=web");
    let slices = trial.api::<EndpointSlice>().list(&own).await.expect("a list");
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
    let services = trial.api::<Service>();
    services.delete("web", &DeleteParams::default()).await.expect("it is deleted");
    trial.gone(&legacy, "web").await;
    trial
        .until("the slices went with the service", || async {
            let slices = trial.api::<EndpointSlice>().list(&own).await.expect("a list");
            slices.items.is_empty()
        })
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
async fn work_goes_on_where_it_was_after_the_apiserver_restarts() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2"]).await;
    let api = trial.api::<Deployment>();
    trial.create(&api, deployment(3, "web:1")).await;
    trial.wait(&api, "web", |one| available(one, 3)).await;
    let before: BTreeSet<_> =
        pods(&trial, "web").await.iter().filter_map(ResourceExt::uid).collect();
    trial.restart().await;
    let more = Patch::Merge(json!({"spec": {"replicas": 5}}));
    api.patch("web", &PatchParams::default(), &more).await.expect("a scale");
    trial.wait(&api, "web", |one| available(one, 5)).await;
    let after: BTreeSet<_> =
        pods(&trial, "web").await.iter().filter_map(ResourceExt::uid).collect();
    assert!(after.is_superset(&before), "no pod was replaced for the restart's sake");
}
