//! What every workload controller does with pods: make them from a template, judge them, rank them
//! for deletion, delete them.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use crate::context::{Context, Error, is_code, is_namespace_going};
use crate::owners::{Namespaced, controller_reference};

/// Pods created or deleted at once for one owner in one pass; the rest follows in the next.
pub(crate) const BURST: usize = 500;
/// How much deleting this pod costs, as its owner says: lower goes first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Ended for good, whatever its restart policy.
pub(crate) fn is_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts for its owner: neither ended nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// When the pod became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// How long until the pod has been ready for `min_ready` seconds: zero when it is available, none
/// when it isn't ready.
pub(crate) fn until_available(pod: &Pod, min_ready: i32, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    if min_ready <= 0 {
        return Some(Duration::ZERO);
    }
    let ready = now.duration_since(since);
    let wanted = Duration::from_secs(u64::from(min_ready.unsigned_abs()));
    Some(wanted.saturating_sub(Duration::try_from(ready).unwrap_or_default()))
}

/// Whether the pod has been ready for `min_ready` seconds.
pub(crate) fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    until_available(pod, min_ready, now).is_some_and(|wait| wait.is_zero())
}

/// The shortest wait until one more of the ready pods counts as available.
pub(crate) fn next_available<'p>(
    pods: impl IntoIterator<Item = &'p Arc<Pod>>,
    min_ready: i32,
    now: Timestamp,
) -> Option<Duration> {
    pods.into_iter()
        .filter_map(|pod| until_available(pod, min_ready, now))
        .filter(|wait| !wait.is_zero())
        .min()
        // One millisecond more, for the comparison is strict and clocks are coarse.
        .map(|wait| wait + Duration::from_millis(1))
}

/// A pod of `template`, controlled by `owner`; without a name it gets one that starts with the
/// owner's.
pub(crate) fn from_template<O: Namespaced>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates one pod and tells the owner's users.
pub(crate) async fn create<O: Namespaced>(
    context: &Context,
    owner: &O,
    pod: Pod,
) -> Result<Arc<Pod>, Error> {
    let namespace = owner.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    match api.create(&PostParams::default(), &pod).await {
        Ok(pod) => {
            context.caches.pods.observe(pod.clone());
            let text = format!("Created pod: {}", pod.name_any());
            context.recorder.event(owner, Severity::Normal, "SuccessfulCreate", text);
            Ok(Arc::new(pod))
        }
        Err(error) => {
            let text = match &error {
                kube::Error::Api(status) => format!("Error creating: {}", status.message),
                other => format!("Error creating: {other}"),
            };
            // It takes the owner with it: nothing to tell.
            if !is_namespace_going(&error) {
                context.recorder.event(owner, Severity::Warning, "FailedCreate", text);
            }
            Err(error.into())
        }
    }
}

/// Creates `pods` in batches of 1, 2, 4, ... and stops after the first batch with a failure, so
/// that a pod which the apiserver refuses costs few requests.
pub(crate) async fn create_all<O: Namespaced>(
    context: &Context,
    owner: &O,
    mut pods: Vec<Pod>,
) -> Result<(), Error> {
    let mut batch = 1;
    while !pods.is_empty() {
        let now = pods.split_off(pods.len().saturating_sub(batch));
        let results = join_all(now.into_iter().map(|pod| create(context, owner, pod))).await;
        for result in results {
            result?;
        }
        batch *= 2;
    }
    Ok(())
}

/// Deletes one pod gracefully and tells the owner's users; one that is gone is no error.
pub(crate) async fn delete<O: Namespaced>(
    context: &Context,
    owner: &O,
    pod: &Pod,
) -> Result<(), Error> {
    remove(context, pod, None).await.inspect_err(|error| {
        let text = format!("Error deleting: {error}");
        context.recorder.event(owner, Severity::Warning, "FailedDelete", text);
    })?;
    let text = format!("Deleted pod: {}", pod.name_any());
    context.recorder.event(owner, Severity::Normal, "SuccessfulDelete", text);
    Ok(())
}

pub(crate) async fn delete_all<'p, O: Namespaced>(
    context: &Context,
    owner: &O,
    pods: impl IntoIterator<Item = &'p Arc<Pod>>,
) -> Result<(), Error> {
    let deletes = pods.into_iter().map(|pod| delete(context, owner, pod));
    join_all(deletes).await.into_iter().collect()
}

/// Deletes exactly this pod, with the grace period given or its own.
pub(crate) async fn remove(context: &Context, pod: &Pod, grace: Option<u32>) -> Result<(), Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let uid = pod.uid().unwrap_or_default();
    let parameters = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
        ..Default::default()
    };
    let pods = &context.caches.pods;
    match api.delete(&pod.name_any(), &parameters).await {
        Ok(answer) => match answer.left().filter(is_terminating) {
            Some(deleted) => pods.observe(deleted),
            None => pods.forget(&Key::of(pod), &uid),
        },
        Err(error) if is_code(&error, 404) => pods.forget(&Key::of(pod), &uid),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Still there, until its kubelet has ended it.
fn is_terminating(pod: &Pod) -> bool {
    let meta = &pod.metadata;
    meta.deletion_timestamp.is_some()
        && (meta.deletion_grace_period_seconds != Some(0)
            || meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()))
}

/// Sorts so that the pods to delete first come first.
///
/// Unassigned before assigned, pending before running, unready before ready, cheaper before dearer
/// (the deletion cost annotation), from crowded nodes before from empty ones, younger readiness
/// before older, more restarts before fewer, younger before older.
pub(crate) fn rank_for_deletion(pods: &mut [Arc<Pod>]) {
    let mut crowd: HashMap<String, usize> = HashMap::new();
    for pod in pods.iter() {
        *crowd.entry(node(pod).to_owned()).or_default() += 1;
    }
    pods.sort_by(|a, b| deletion_order(a, b, &crowd));
}

fn deletion_order(a: &Pod, b: &Pod, crowd: &HashMap<String, usize>) -> Ordering {
    let assigned = |pod: &Pod| !node(pod).is_empty();
    let stage = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let crowded = |pod: &Pod| crowd.get(node(pod)).copied().unwrap_or(0);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| stage(a).cmp(&stage(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowded(b).cmp(&crowded(a)))
        .then_with(|| ready_since(b).cmp(&ready_since(a)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| b.metadata.creation_timestamp.cmp(&a.metadata.creation_timestamp))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

pub(crate) fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(DELETION_COST))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
