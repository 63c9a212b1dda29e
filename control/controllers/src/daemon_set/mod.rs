//! Runs one pod of a template on every node that the template allows.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use bowline_api::matching;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use self::plan::{Plan, View, node_of, wants};
use crate::context::{Context, Error, Reconciled};
use crate::owners::{claim, controller_key, controller_of};
use crate::pods;
use crate::queue::Queue;
use crate::replicas::{count, shown};
use crate::revisions::{self, HASH, History};

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.daemon_sets.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        for pod in change.sides() {
            if let Some(key) = controller_key(pod.as_ref(), "DaemonSet") {
                adds.add(key);
            } else if let Some(context) = weak.upgrade()
                && controller_of(pod.as_ref()).is_none()
            {
                selecting(&context, pod).into_iter().for_each(|key| adds.add(key));
            }
        }
    });
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |change| {
        let Some(context) = weak.upgrade() else { return };
        // Heartbeats change nothing for daemons.
        let asked = |node: &Arc<Node>| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
            (node.metadata.labels.clone(), taints)
        };
        if change.old.as_ref().map(asked) != change.new.as_ref().map(asked) {
            let sets = context.caches.daemon_sets.all();
            sets.iter().for_each(|set| adds.add(Key::of(set.as_ref())));
        }
    });
    queue
}

fn selecting(context: &Context, pod: &Pod) -> Vec<Key> {
    let sets = context.caches.daemon_sets.in_namespace(&pod.namespace().unwrap_or_default());
    let selects = |set: &Arc<DaemonSet>| {
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        matching::selects(selector, pod.metadata.labels.as_ref())
    };
    sets.iter().filter(|set| selects(set)).map(|set| Key::of(set.as_ref())).collect()
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(set) = context.caches.daemon_sets.get(&key) else { return Ok(None) };
    let Some(spec) = &set.spec else { return Ok(None) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let cache = &context.caches.pods;
    let owned = claim(&context.client, cache, set.as_ref(), Some(&spec.selector)).await?;
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let history =
        revisions::sync(&context, set.as_ref(), &spec.selector, &spec.template, collisions).await?;
    let hash = history.hash();
    let nodes = context.caches.nodes.all();
    let grouped = by_node(owned);
    let view = View { set: &set, nodes: &nodes, pods: &grouped, hash: &hash, now: context.now() };
    let done = carry_out(&context, &set, view.plan(), &hash).await;
    // What this pass did shows in the caches already.
    let owned = claim(&context.client, cache, set.as_ref(), Some(&spec.selector)).await?;
    let status = status(&context, &set, &nodes, &by_node(owned.clone()), &hash);
    update_status(&context, &set, status).await?;
    done?;
    clean_up(&context, &history, &set, &owned).await?;
    Ok(pods::next_available(&owned, spec.min_ready_seconds.unwrap_or(0), context.now()))
}

fn by_node(pods: Vec<Arc<Pod>>) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut grouped: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = node_of(&pod) {
            grouped.entry(node).or_default().push(pod);
        }
    }
    grouped
}

async fn carry_out(
    context: &Context,
    set: &DaemonSet,
    plan: Plan,
    hash: &str,
) -> Result<(), Error> {
    for pod in &plan.failed {
        let node = pods::node(pod);
        let text = format!(
            "Found failed daemon pod {} on node {node}, will try to kill it",
            pod.name_any()
        );
        context.recorder.event(set, Severity::Warning, "FailedDaemonPod", text);
    }
    pods::delete_all(context, set, plan.delete.iter().take(pods::BURST)).await?;
    let new = plan.create.iter().take(pods::BURST).map(|node| new_pod(set, node, hash)).collect();
    pods::create_all(context, set, new).await
}

/// A pod that only `node` may take.
fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, set);
    pod.labels_mut().insert(HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    let more = plan::tolerations(spec);
    spec.tolerations.get_or_insert_default().extend(more);
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![by_name]),
            match_expressions: None,
        }],
    });
    pod
}

fn status(
    context: &Context,
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    by_node: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
) -> DaemonSetStatus {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let (mut desired, mut scheduled, mut misplaced) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for node in nodes {
        let pods = by_node.get(&node.name_any()).map(Vec::as_slice).unwrap_or_default();
        let alive: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
        if !wants(set, node).run {
            misplaced += usize::from(!alive.is_empty());
            continue;
        }
        desired += 1;
        scheduled += usize::from(!alive.is_empty());
        ready += usize::from(alive.iter().any(|pod| pods::is_ready(pod)));
        let now = context.now();
        available += usize::from(alive.iter().any(|pod| pods::is_available(pod, min_ready, now)));
        let is_new = |pod: &Pod| pod.labels().get(HASH).is_some_and(|own| own == hash);
        updated += usize::from(alive.iter().any(|pod| is_new(pod)));
    }
    DaemonSetStatus {
        collision_count: set.status.as_ref().and_then(|status| status.collision_count),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        current_number_scheduled: count(scheduled),
        desired_number_scheduled: count(desired),
        number_available: shown(count(available)),
        number_misscheduled: count(misplaced),
        number_ready: count(ready),
        number_unavailable: shown(count(desired - available)),
        observed_generation: set.metadata.generation,
        updated_number_scheduled: shown(count(updated)),
    }
}

async fn update_status(
    context: &Context,
    set: &DaemonSet,
    status: DaemonSetStatus,
) -> Result<(), Error> {
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<DaemonSet> =
        Api::namespaced(context.client.clone(), &set.namespace().unwrap_or_default());
    let mut changed = set.clone();
    changed.status = Some(status);
    let written = api.replace_status(&set.name_any(), &PostParams::default(), &changed).await?;
    context.caches.daemon_sets.observe(written);
    Ok(())
}

async fn clean_up(
    context: &Context,
    history: &History,
    set: &DaemonSet,
    pods: &[Arc<Pod>],
) -> Result<(), Error> {
    let in_use: Vec<String> =
        pods.iter().filter_map(|pod| pod.labels().get(HASH).cloned()).collect();
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    revisions::clean_up(context, history, limit, &in_use).await
}
