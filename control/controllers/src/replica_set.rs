//! Keeps as many pods of a replica set's template as it asks for.

use std::sync::Arc;

use bowline_api::informer::Key;
use bowline_api::matching;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::context::{Context, Error, Reconciled, seconds};
use crate::owners::{claim, controller_key, controller_of};
use crate::pods;
use crate::queue::Queue;

const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context
        .caches
        .replica_sets
        .on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        for pod in change.sides() {
            if let Some(key) = controller_key(pod.as_ref(), "ReplicaSet") {
                adds.add(key);
            } else if let Some(context) = weak.upgrade()
                && controller_of(pod.as_ref()).is_none()
            {
                selecting(&context, pod).into_iter().for_each(|key| adds.add(key));
            }
        }
    });
    queue
}

/// Replica sets that would adopt an orphan.
fn selecting(context: &Context, pod: &Pod) -> Vec<Key> {
    let sets = context.caches.replica_sets.in_namespace(&pod.namespace().unwrap_or_default());
    let selects = |set: &Arc<ReplicaSet>| {
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        matching::selects(selector, pod.metadata.labels.as_ref())
    };
    sets.iter().filter(|set| selects(set)).map(|set| Key::of(set.as_ref())).collect()
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(set) = context.caches.replica_sets.get(&key) else { return Ok(None) };
    let Some(spec) = &set.spec else { return Ok(None) };
    let all =
        claim(&context.client, &context.caches.pods, set.as_ref(), Some(&spec.selector)).await?;
    let (active, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|pod| pods::is_active(pod));
    let terminating =
        rest.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_ended(pod));
    let terminating = count(terminating.count());
    let managed = if set.metadata.deletion_timestamp.is_none() {
        scale(&context, &set, active.clone()).await
    } else {
        Ok(())
    };
    // The status tells what is there now, this pass's own work included.
    let active = if managed.is_ok() && set.metadata.deletion_timestamp.is_none() {
        current(&context, &set)
    } else {
        active
    };
    let status = status_of(&context, &set, &active, terminating, managed.as_ref().err());
    update_status(&context, &set, status).await?;
    managed?;
    Ok(pods::next_available(&active, spec.min_ready_seconds.unwrap_or(0), context.now()))
}

fn current(context: &Context, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let pods = context.caches.pods.in_namespace(&set.namespace().unwrap_or_default());
    pods.into_iter()
        .filter(|pod| pods::is_active(pod) && crate::owners::controls(set, pod.as_ref()))
        .collect()
}

async fn scale(
    context: &Context,
    set: &ReplicaSet,
    mut active: Vec<Arc<Pod>>,
) -> Result<(), Error> {
    let Some(spec) = &set.spec else { return Ok(()) };
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let Some(template) = &spec.template else { return Ok(()) };
        let missing = (wanted - active.len()).min(pods::BURST);
        let new = (0..missing).map(|_| pods::from_template(template, set)).collect();
        pods::create_all(context, set, new).await
    } else {
        let surplus = (active.len() - wanted).min(pods::BURST);
        if surplus > 0 && surplus < active.len() {
            pods::rank_for_deletion(&mut active);
        }
        pods::delete_all(context, set, &active[..surplus]).await
    }
}

fn status_of(
    context: &Context,
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: i32,
    failure: Option<&Error>,
) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let template =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let now = context.now();
    let number = |test: &dyn Fn(&Pod) -> bool| count(active.iter().filter(|pod| test(pod)).count());
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template.iter().flatten().all(|(k, v)| labels.is_some_and(|all| all.get(k) == Some(v)))
    };
    let mut status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: shown(number(&labelled)),
        ready_replicas: shown(number(&pods::is_ready)),
        available_replicas: shown(number(&|pod| pods::is_available(pod, min_ready, now))),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let conditions = status.conditions.get_or_insert_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(_) if conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE) => {}
        Some(error) => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some("FailedCreate".to_owned()),
            message: Some(error.to_string()),
            last_transition_time: Some(seconds(now)),
        }),
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
    status
}

async fn update_status(
    context: &Context,
    set: &ReplicaSet,
    status: ReplicaSetStatus,
) -> Result<(), Error> {
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<ReplicaSet> =
        Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let mut new = set.clone();
    new.status = Some(status);
    let written = api.replace_status(&set.name_any(), &PostParams::default(), &new).await?;
    context.caches.replica_sets.observe(written);
    Ok(())
}

/// A number of pods as the API counts them.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Numbers that the API leaves out when they are zero.
pub(crate) fn shown(number: i32) -> Option<i32> {
    Some(number).filter(|number| *number != 0)
}
