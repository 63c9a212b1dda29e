//! Jobs, cron jobs and stateful sets.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::kit::{Trial, deployment, pod_template, pods};

fn job(image: &str, spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": "work"}, "spec": {"template": {
        "metadata": {"labels": {"app": "work"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}}});
    let more = spec.as_object().expect("a map").clone();
    job["spec"].as_object_mut().expect("a map").extend(more);
    job
}

fn has(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|one| one.type_ == kind && one.status == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_completions_and_is_collected() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<Job>();
    trial.create(&api, job("succeeds", json!({"completions": 5, "parallelism": 2}))).await;
    let done = trial.wait(&api, "work", |job| has(job, "Complete")).await;
    let status = done.status.expect("status");
    assert_eq!((status.succeeded, status.active), (Some(5), None));
    assert!(status.completion_time.is_some());
    trial
        .until("no pod is held for counting", || async {
            pods(&trial, "work").await.iter().all(|pod| pod.finalizers().is_empty())
        })
        .await;
    let ttl = Patch::Merge(json!({"spec": {"ttlSecondsAfterFinished": 0}}));
    api.patch("work", &PatchParams::default(), &ttl).await.expect("a change");
    trial.gone(&api, "work").await;
    trial.until("its pods follow", || async { pods(&trial, "work").await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexed_job_does_each_index_once() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<Job>();
    let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"});
    trial.create(&api, job("succeeds", spec)).await;
    let done = trial.wait(&api, "work", |job| has(job, "Complete")).await;
    assert_eq!(done.status.expect("status").completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(pods(&trial, "work").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_too_often_has_failed() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<Job>();
    trial.create(&api, job("fails", json!({"backoffLimit": 0}))).await;
    let failed = trial.wait(&api, "work", |job| has(job, "Failed")).await;
    let conditions = failed.status.expect("status").conditions.expect("conditions");
    let reason =
        conditions.iter().find(|one| one.type_ == "Failed").and_then(|one| one.reason.clone());
    assert_eq!(reason.as_deref(), Some("BackoffLimitExceeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_that_is_due_makes_one_job() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    let api = trial.api::<CronJob>();
    let template = json!({"spec": job("succeeds", json!({}))["spec"].clone()});
    let spec = json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": template});
    trial.create(&api, json!({"metadata": {"name": "tick"}, "spec": spec})).await;
    // As if it had last run two years ago: exactly the latest missed time is made up for.
    let now = jiff::Timestamp::now();
    let long_ago = jiff::Timestamp::from_second(now.as_second() - 730 * 86_400).expect("a time");
    let status = Patch::Merge(json!({"status": {"lastScheduleTime": long_ago}}));
    api.patch_status("tick", &PatchParams::default(), &status).await.expect("a change");
    let resume = Patch::Merge(json!({"spec": {"suspend": false}}));
    api.patch("tick", &PatchParams::default(), &resume).await.expect("a change");
    trial
        .wait(&api, "tick", |cron| {
            cron.status.as_ref().is_some_and(|status| status.last_successful_time.is_some())
        })
        .await;
    let jobs = trial.api::<Job>().list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(jobs.len(), 1);
    assert!(jobs[0].name_any().starts_with("tick-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_keeps_names_and_claims_and_updates_in_order() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1", "n2"]).await;
    let api = trial.api::<StatefulSet>();
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": pod_template("db", "db:1"),
        "volumeClaimTemplates": [claim]}});
    trial.create(&api, set).await;
    let whole = |set: &StatefulSet| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.ready_replicas == Some(3)
            && status.updated_replicas == Some(3)
            && status.current_revision == status.update_revision
    };
    let first = trial.wait(&api, "db", whole).await;
    let mut names: Vec<_> = pods(&trial, "db").await.iter().map(ResourceExt::name_any).collect();
    names.sort();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let claims = trial.api::<PersistentVolumeClaim>();
    for number in 0..3 {
        trial.wait(&claims, &format!("data-db-{number}"), |_| true).await;
    }
    let image = json!([{"name": "c", "image": "db:2"}]);
    let update = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": image}}}}));
    api.patch("db", &PatchParams::default(), &update).await.expect("an update");
    let second = trial.wait(&api, "db", whole).await;
    let revision = |set: StatefulSet| set.status.and_then(|status| status.current_revision);
    assert_ne!(revision(first), revision(second));
    let image = |pod: &Pod| pod.spec.clone().and_then(|spec| spec.containers[0].image.clone());
    assert!(pods(&trial, "db").await.iter().all(|pod| image(pod).as_deref() == Some("db:2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_counts_what_may_be_evicted() {
    let trial = Trial::start(|_| {}).await;
    trial.nodes(&["n1"]).await;
    trial.create(&trial.api::<Deployment>(), deployment(3, "web:1")).await;
    let api = trial.api::<PodDisruptionBudget>();
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 2,
        "selector": {"matchLabels": {"app": "web"}}}});
    trial.create(&api, budget).await;
    let allowed = trial.wait(&api, "web", |budget| {
        budget.status.as_ref().is_some_and(|status| status.disruptions_allowed == 1)
    });
    let status = allowed.await.status.expect("status");
    assert_eq!((status.expected_pods, status.desired_healthy), (3, 2));
}
