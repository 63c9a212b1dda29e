//! Removes pods that nobody else will: on nodes that are gone, deleted before they had a node, or
//! ended and too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::informer::Key;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::context::{Context, Error, Reconciled, is_code, seconds};
use crate::pods;
use crate::queue::Queue;

/// A node whose object is gone may come back under its name: its pods are kept this long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// A node with this taint is known to be off: its terminating pods need not wait for it.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Since when each missing node is missing. Bounded by the nodes that pods name.
pub(crate) type Missing = Mutex<HashMap<String, Instant>>;

/// Keys are pods; the empty key stands for all that have ended.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        let (Some(context), Some(pod)) = (weak.upgrade(), &change.new) else { return };
        let node = pods::node(pod);
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let lost = !node.is_empty() && context.caches.nodes.named(node).is_none();
        if leaving || lost {
            adds.add(Key::of(pod.as_ref()));
        }
        if pods::is_ended(pod) && change.old.as_ref().is_none_or(|old| !pods::is_ended(old)) {
            adds.add(Key::new("", ""));
        }
    });
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |change| {
        let Some(context) = weak.upgrade() else { return };
        let name = change.object().name_any();
        if change.new.as_ref().is_none_or(|node| is_out_of_service(node)) {
            let pods = context.caches.pods.by("node", &name);
            pods.iter().for_each(|pod| adds.add(Key::of(pod.as_ref())));
        } else {
            context.missing.lock().remove(&name);
        }
    });
    queue
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    if key.name.is_empty() {
        return collect_ended(&context).await.map(|()| None);
    }
    let Some(pod) = context.caches.pods.get(&key) else { return Ok(None) };
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let name = pods::node(&pod);
    if name.is_empty() {
        if leaving {
            pods::remove(&context, &pod, Some(0)).await?;
        }
        return Ok(None);
    }
    if let Some(node) = context.caches.nodes.named(name) {
        if leaving && is_out_of_service(&node) {
            pods::remove(&context, &pod, Some(0)).await?;
        }
        return Ok(None);
    }
    let missing =
        context.missing.lock().entry(name.to_owned()).or_insert_with(Instant::now).elapsed();
    if missing < QUARANTINE {
        return Ok(Some(QUARANTINE - missing));
    }
    let api: Api<Node> = Api::all(context.client.clone());
    if api.get_opt(name).await?.is_some() {
        return Ok(None);
    }
    mark_failed(&context, &pod).await?;
    pods::remove(&context, &pod, Some(0)).await?;
    Ok(None)
}

/// Whoever waits for the pod's end reads why.
async fn mark_failed(context: &Context, pod: &Pod) -> Result<(), Error> {
    if pods::is_ended(pod) {
        return Ok(());
    }
    let mut changed = pod.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some("Failed".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByPodGC".to_owned()),
        message: Some("PodGC: node no longer exists".to_owned()),
        last_transition_time: Some(seconds(context.now())),
        ..Default::default()
    });
    let api: Api<Pod> =
        Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    match api.replace_status(&pod.name_any(), &PostParams::default(), &changed).await {
        Ok(written) => context.caches.pods.observe(written),
        Err(error) if is_code(&error, 404) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn collect_ended(context: &Context) -> Result<(), Error> {
    let mut ended = context.caches.pods.all();
    ended.retain(|pod| pods::is_ended(pod) && pod.metadata.deletion_timestamp.is_none());
    let surplus = ended.len().saturating_sub(context.config.terminated_pods);
    if surplus == 0 {
        return Ok(());
    }
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    for pod in ended.iter().take(surplus) {
        pods::remove(context, pod, Some(0)).await?;
    }
    Ok(())
}
