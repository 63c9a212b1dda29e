//! The scheduler, as users see it.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::StreamExt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::kit::{Trial, available, deployment, pods};

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}});
    let more = spec.as_object().expect("a map").clone();
    pod["spec"].as_object_mut().expect("a map").extend(more);
    pod
}

fn reason(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let condition = conditions.iter().find(|one| one.type_ == "PodScheduled")?;
    condition.message.clone().filter(|_| condition.status == "False")
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_spread_over_the_nodes() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2", "n3"]).await;
    trial.create(&trial.api::<Deployment>(), deployment(6, "web:1")).await;
    trial.wait(&trial.api::<Deployment>(), "web", |one| available(one, 6)).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods(&trial, "web").await {
        let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        *counts.entry(node).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 2), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_a_node_says_why_and_gets_one_when_it_can() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<Pod>();
    trial.create(&api, pod("picky", json!({"nodeSelector": {"disk": "fast"}}))).await;
    let wanted = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
                  preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    // Before, the young node may not have been ready yet.
    trial.wait(&api, "picky", |pod| reason(pod).as_deref() == Some(wanted)).await;
    let events = ListParams::default().fields("involvedObject.name=picky");
    trial
        .until("an event tells it", || async {
            let list = trial.api::<Event>().list(&events).await.expect("a list");
            list.items.iter().any(|event| event.reason.as_deref() == Some("FailedScheduling"))
        })
        .await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"disk": "fast"}}}));
    let nodes = trial.all::<Node>();
    nodes.patch("n1", &PatchParams::default(), &label).await.expect("a label");
    trial.wait(&api, "picky", is_bound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_important_pod_takes_the_place_of_a_lesser_one() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<Pod>();
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    trial.create(&trial.all::<k8s_openapi::api::scheduling::v1::PriorityClass>(), class).await;
    let asks = |class: Option<&str>| {
        json!({"priorityClassName": class, "terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "6"}}}]})
    };
    trial.create(&api, pod("low", asks(None))).await;
    trial.wait(&api, "low", is_bound).await;
    trial.create(&api, pod("high", asks(Some("high")))).await;
    trial.wait(&api, "high", is_bound).await;
    trial.gone(&api, "low").await;
}

/// Not a bound: machines under load differ. `--nocapture` shows the numbers.
#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_one_by_one_without_waiting() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2"]).await;
    let api = trial.api::<Pod>();
    let mut took = Vec::new();
    for number in 0..30 {
        let name = format!("p{number}");
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher(api.clone(), only).applied_objects());
        let create = trial.create(&api, pod(&name, json!({})));
        let start = Instant::now();
        create.await;
        while let Some(event) = events.next().await {
            if event.as_ref().is_ok_and(is_bound) {
                break;
            }
        }
        took.push(start.elapsed());
    }
    took.sort();
    println!("create to bound, seen by a watch: median {:?}, worst {:?}", took[15], took[29]);
}
