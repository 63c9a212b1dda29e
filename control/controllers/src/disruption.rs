//! Says how many pods of each disruption budget may be evicted now; the eviction subresource
//! spends it.

use std::sync::Arc;
use std::time::Duration;

use bowline_api::informer::Key;
use bowline_api::matching;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::context::{Context, Reconciled, seconds};
use crate::deployment::{Round, scaled};
use crate::owners::controller_of;
use crate::pods;
use crate::queue::Queue;
use crate::replicas::count;

/// An eviction that was allowed but led to no deletion counts for this long.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.budgets.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        let Some(context) = weak.upgrade() else { return };
        let namespace = change.object().namespace().unwrap_or_default();
        for budget in context.caches.budgets.in_namespace(&namespace) {
            if change.sides().any(|pod| covers(&budget, pod)) {
                adds.add(Key::of(budget.as_ref()));
            }
        }
    });
    queue
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    matching::selects(selector, pod.metadata.labels.as_ref())
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(budget) = context.caches.budgets.get(&key) else { return Ok(None) };
    let Some(spec) = &budget.spec else { return Ok(None) };
    let mut pods = context.caches.pods.in_namespace(&key.namespace);
    pods.retain(|pod| covers(&budget, pod) && !pods::is_ended(pod));
    let old = budget.status.clone().unwrap_or_default();
    let expected = expected(&context, &pods);
    let mut status = judge(spec, &pods, expected);
    status.observed_generation = budget.metadata.generation;
    // Evictions that the apiserver allowed and whose pods are not deleted yet.
    let now = context.now();
    let mut disrupted = old.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|name, since| {
        let age = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
        let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
        age < EVICTION_TIMEOUT && pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
    });
    let waiting = !disrupted.is_empty();
    status.disruptions_allowed = (status.disruptions_allowed - count(disrupted.len())).max(0);
    status.disrupted_pods = Some(disrupted).filter(|map| !map.is_empty());
    status.conditions = Some(conditions(&context, &old, &status));
    if budget.status.as_ref() != Some(&status) {
        let api: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &key.namespace);
        let mut changed = PodDisruptionBudget::clone(&budget);
        changed.status = Some(status);
        let written = api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        context.caches.budgets.observe(written);
    }
    Ok(waiting.then_some(EVICTION_TIMEOUT))
}

/// How many pods the controllers of these pods want in all; pods without one count themselves.
fn expected(context: &Context, pods: &[Arc<Pod>]) -> i32 {
    let mut seen = Vec::new();
    let mut sum = 0;
    for pod in pods {
        let Some(owner) = controller_of(pod.as_ref()) else {
            sum += 1;
            continue;
        };
        if seen.contains(&owner.uid) {
            continue;
        }
        seen.push(owner.uid.clone());
        let key = Key::new(pod.namespace().unwrap_or_default(), owner.name.as_str());
        let caches = &context.caches;
        let wanted = match owner.kind.as_str() {
            "ReplicaSet" => wanted_by_set(context, &key),
            "ReplicationController" => caches
                .replication_controllers
                .get(&key)
                .and_then(|one| one.spec.as_ref().and_then(|spec| spec.replicas)),
            "StatefulSet" => caches
                .stateful_sets
                .get(&key)
                .and_then(|one| one.spec.as_ref().and_then(|spec| spec.replicas)),
            _ => None,
        };
        let same = |other: &&Arc<Pod>| {
            controller_of(other.as_ref()).is_some_and(|one| one.uid == owner.uid)
        };
        sum += wanted.unwrap_or_else(|| count(pods.iter().filter(same).count()));
    }
    sum
}

/// A roll-out has several sets: their deployment knows how many pods there should be.
fn wanted_by_set(context: &Context, key: &Key) -> Option<i32> {
    let set = context.caches.replica_sets.get(key)?;
    let deployment = crate::owners::controller_key(set.as_ref(), "Deployment")
        .and_then(|key| context.caches.deployments.get(&key));
    match deployment {
        Some(deployment) => deployment.spec.as_ref()?.replicas,
        None => set.spec.as_ref()?.replicas,
    }
}

fn judge(
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    expected: i32,
) -> PodDisruptionBudgetStatus {
    let healthy =
        pods.iter().filter(|pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    let healthy = count(healthy.count());
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => expected - scaled(most, expected, Round::Up),
        (None, Some(least)) => scaled(least, expected, Round::Up),
        (None, None) => expected,
    };
    let desired = desired.max(0);
    PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        disruptions_allowed: if expected == 0 { 0 } else { (healthy - desired).max(0) },
        ..Default::default()
    }
}

fn conditions(
    context: &Context,
    old: &PodDisruptionBudgetStatus,
    new: &PodDisruptionBudgetStatus,
) -> Vec<Condition> {
    let kind = "DisruptionAllowed";
    let allowed = new.disruptions_allowed > 0;
    let status = if allowed { "True" } else { "False" };
    let reason = if allowed { "SufficientPods" } else { "InsufficientPods" };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let before = conditions.iter().position(|condition| condition.type_ == kind);
    let before = before.map(|place| conditions.remove(place));
    let since = before.filter(|one| one.status == status).map(|one| one.last_transition_time);
    conditions.push(Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        last_transition_time: since.unwrap_or_else(|| seconds(context.now())),
        observed_generation: new.observed_generation,
    });
    conditions
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use serde_json::json;

    use super::*;

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |status: &str| {
            let pod = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
            Arc::new(serde_json::from_value(pod).expect("a valid pod"))
        };
        let ready = std::iter::repeat_with(|| pod("True")).take(ready);
        ready.chain(std::iter::repeat_with(|| pod("False")).take(unready)).collect()
    }

    fn allowed(least: Option<&str>, most: Option<&str>, pods: &[Arc<Pod>], expected: i32) -> i32 {
        let value = |text: &str| match text.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(text.to_owned()),
        };
        let spec = PodDisruptionBudgetSpec {
            min_available: least.map(value),
            max_unavailable: most.map(value),
            ..Default::default()
        };
        judge(&spec, pods, expected).disruptions_allowed
    }

    #[test]
    fn what_may_be_evicted_is_what_is_healthy_beyond_need() {
        assert_eq!(allowed(Some("2"), None, &pods(3, 0), 3), 1);
        assert_eq!(allowed(Some("2"), None, &pods(2, 1), 3), 0);
        assert_eq!(allowed(Some("50%"), None, &pods(3, 0), 3), 1, "percentages round up");
        assert_eq!(allowed(None, Some("1"), &pods(3, 0), 3), 1);
        assert_eq!(allowed(None, Some("1"), &pods(2, 1), 3), 0);
        assert_eq!(allowed(None, Some("1"), &[], 0), 0);
    }
}
