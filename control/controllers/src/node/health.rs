//! Judges nodes by their heartbeats: lease renewals and status updates.
//!
//! A node that was silent for the grace period becomes Ready `Unknown`, is tainted, and its pods
//! become unready at once, so that their endpoints leave the services. Time is counted from when a
//! change was *seen here*: clocks of other machines don't matter, a controller that was away itself
//! gives every node a whole grace period, and time in which this process stood still does not count.
//!
//! What was said in a node's place is taken back when the node is heard of again: a kubelet that was
//! alive all along does not know that anything was said, and has no reason to speak.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use bowline_api::names::{TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Error, Reconciled, is_code, seconds};
use crate::pods;
use crate::queue::Queue;

/// Conditions that only a living kubelet can vouch for.
const KUBELET_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions and the taints (NoSchedule) that stand for them.
const CONDITION_TAINTS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// A node that is back speaks for itself and its pods again; what it has not said after this long,
/// it takes for known: we take back what we said in its place.
const SPEAKS_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at the clock, for [`notice_pauses`].
const TICK: Duration = Duration::from_millis(500);
/// Reason of what we say of pods in their node's place.
const IN_ITS_PLACE: &str = "NodeNotReady";

/// When each node last gave a sign of life, since when it is back, and what it said last before we
/// spoke in its place. Bounded by the number of nodes.
#[derive(Default)]
pub(crate) struct Heartbeats {
    seen: Mutex<HashMap<String, Instant>>,
    back: Mutex<HashMap<String, Instant>>,
    last_words: Mutex<HashMap<String, Vec<NodeCondition>>>,
}

impl Heartbeats {
    fn note(&self, node: &str) {
        self.seen.lock().insert(node.to_owned(), Instant::now());
    }

    fn forget(&self, node: &str) {
        self.seen.lock().remove(node);
        self.back.lock().remove(node);
        self.last_words.lock().remove(node);
    }

    /// Silence of this long was ours: nobody could be heard.
    fn forgive(&self, pause: Duration) {
        let now = Instant::now();
        for seen in self.seen.lock().values_mut() {
            *seen = (*seen + pause).min(now);
        }
    }

    fn lost(&self, node: &str) {
        self.back.lock().remove(node);
    }

    fn back_for(&self, node: &str) -> Duration {
        self.back.lock().entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// How long the node has been silent; one never heard of starts now.
    fn silence(&self, node: &str) -> Duration {
        self.seen.lock().entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }
}

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |change| {
        let Some(context) = weak.upgrade() else { return };
        let name = change.object().name_any();
        match (&change.old, &change.new) {
            (_, None) => context.heartbeats.forget(&name),
            (Some(old), Some(new)) if heartbeat(old) == heartbeat(new) => {}
            _ => context.heartbeats.note(&name),
        }
        adds.add(Key::new("", name));
    });
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.leases.on_change(move |change| {
        let (Some(context), Some(new)) = (weak.upgrade(), &change.new) else { return };
        let renewed = |lease: &k8s_openapi::api::coordination::v1::Lease| {
            lease.spec.as_ref().and_then(|spec| spec.renew_time.clone())
        };
        if change.old.as_ref().is_none_or(|old| renewed(old) != renewed(new)) {
            let name = new.name_any();
            context.heartbeats.note(&name);
            let silent = context.caches.nodes.named(&name).is_some_and(|node| is_unknown(&node));
            if silent {
                adds.add(Key::new("", name));
            }
        }
    });
    queue
}

fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// What only the kubelet changes: the time in its own conditions, unless we wrote them.
fn heartbeat(node: &Node) -> Option<&Time> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref()
}

fn is_unknown(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "Unknown")
}

/// Looks at the clock until `shutdown`: when this process stood still itself (stopped, or starved
/// of CPU), the nodes are not to blame that they were not heard.
pub(crate) async fn notice_pauses(context: Arc<Context>, shutdown: CancellationToken) {
    loop {
        let before = Instant::now();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let pause = before.elapsed().saturating_sub(TICK * 2);
        if !pause.is_zero() {
            tracing::info!(seconds = pause.as_secs_f32(), "this process stood still");
            context.heartbeats.forgive(pause + TICK);
        }
    }
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(mut node) = context.caches.nodes.get(&key) else { return Ok(None) };
    let grace = context.config.node_monitor_grace;
    let silence = context.heartbeats.silence(&key.name);
    let silent = silence >= grace;
    let mut next = grace.saturating_sub(silence);
    if silent {
        next = grace;
        context.heartbeats.lost(&key.name);
        node = mark_unknown(&context, node).await?;
    } else {
        let left = SPEAKS_WITHIN.saturating_sub(context.heartbeats.back_for(&key.name));
        if left.is_zero() {
            node = take_back_node(&context, node).await?;
            take_back_pods(&context, &key.name).await?;
        } else {
            next = next.min(left);
        }
    }
    set_taints(&context, &node).await?;
    // A kubelet that says itself that its node isn't ready still speaks for its pods.
    if is_unknown(&node) {
        pods_not_ready(&context, &key.name).await?;
    }
    Ok(Some(next.max(Duration::from_millis(10))))
}

async fn mark_unknown(context: &Context, node: Arc<Node>) -> Result<Arc<Node>, Error> {
    let now = seconds(context.now());
    let mut changed = Node::clone(&node);
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut any = false;
    for kind in KUBELET_CONDITIONS {
        let created = node.metadata.creation_timestamp.clone();
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => continue,
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(now.clone());
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: created,
                last_transition_time: Some(now.clone()),
            }),
        }
        any = true;
    }
    if !any {
        return Ok(node);
    }
    if !is_unknown(&node) {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        context.heartbeats.last_words.lock().insert(node.name_any(), conditions.cloned().collect());
    }
    let written = write_status(context, &changed).await?;
    let text = format!("Node {} status is now: NodeNotReady", node.name_any());
    context.recorder.event(node.as_ref(), Severity::Normal, "NodeNotReady", text);
    Ok(written)
}

/// Gives a node that only was silent the conditions back that it had said.
async fn take_back_node(context: &Context, node: Arc<Node>) -> Result<Arc<Node>, Error> {
    let name = node.name_any();
    let words = context.heartbeats.last_words.lock().get(&name).cloned();
    let Some(words) = words else { return Ok(node) };
    let mut written = Arc::clone(&node);
    if is_unknown(&node) {
        let now = seconds(context.now());
        let mut changed = Node::clone(&node);
        let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
        for condition in conditions.iter_mut().filter(|condition| condition.status == "Unknown") {
            if let Some(said) = words.iter().find(|said| said.type_ == condition.type_) {
                *condition = said.clone();
                condition.last_transition_time = Some(now.clone());
            }
        }
        written = write_status(context, &changed).await?;
    }
    context.heartbeats.last_words.lock().remove(&name);
    Ok(written)
}

async fn write_status(context: &Context, node: &Node) -> Result<Arc<Node>, Error> {
    let api: Api<Node> = Api::all(context.client.clone());
    let written = api.replace_status(&node.name_any(), &PostParams::default(), node).await?;
    context.caches.nodes.observe(written.clone());
    Ok(Arc::new(written))
}

/// The taints that the node's state asks for, as (key, effect).
fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => {}
        Some("Unknown") => {
            wanted.push((TAINT_UNREACHABLE, "NoSchedule"));
            wanted.push((TAINT_UNREACHABLE, "NoExecute"));
        }
        _ => {
            wanted.push((TAINT_NOT_READY, "NoSchedule"));
            wanted.push((TAINT_NOT_READY, "NoExecute"));
        }
    }
    for (kind, status, taint) in CONDITION_TAINTS {
        if condition(node, kind).is_some_and(|condition| condition.status == status) {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((TAINT_UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// The node's taints as they should be, or none if they are so. Taints that are not ours to set
/// stay; ours keep the time at which they were set.
fn next_taints(node: &Node, now: Time) -> Option<Vec<Taint>> {
    let wanted = wanted_taints(node);
    let have = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ours = |taint: &Taint| {
        let keys = [TAINT_NOT_READY, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE];
        keys.contains(&taint.key.as_str())
            || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key)
    };
    let is =
        |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut next: Vec<Taint> = have
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|one| is(taint, one)))
        .cloned()
        .collect();
    for one in &wanted {
        if !next.iter().any(|taint| is(taint, one)) {
            next.push(Taint {
                key: one.0.to_owned(),
                effect: one.1.to_owned(),
                time_added: Some(now.clone()),
                value: None,
            });
        }
    }
    (next != have).then_some(next)
}

async fn set_taints(context: &Context, node: &Node) -> Result<(), Error> {
    let Some(taints) = next_taints(node, seconds(context.now())) else { return Ok(()) };
    let api: Api<Node> = Api::all(context.client.clone());
    let patch = json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "spec": {"taints": taints},
    });
    let written =
        api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    context.caches.nodes.observe(written);
    Ok(())
}

/// Nobody is there to say that the pods are unready: say it for them.
async fn pods_not_ready(context: &Context, node: &str) -> Result<(), Error> {
    let pods = context.caches.pods.by("node", node);
    let ready = pods.iter().filter(|pod| pods::is_ready(pod));
    let results = join_all(ready.map(|pod| set_ready(context, pod, false))).await;
    results.into_iter().collect()
}

/// Takes back what was said of the node's pods in its place: those whose containers it called ready
/// last are ready.
async fn take_back_pods(context: &Context, node: &str) -> Result<(), Error> {
    let mut marked = context.caches.pods.by("node", node);
    marked.retain(|pod| {
        pods::is_active(pod)
            && pods::condition(pod, "Ready").is_some_and(|one| {
                one.status == "False" && one.reason.as_deref() == Some(IN_ITS_PLACE)
            })
            && pods::condition(pod, "ContainersReady").is_some_and(|one| one.status == "True")
    });
    let results = join_all(marked.iter().map(|pod| set_ready(context, pod, true))).await;
    results.into_iter().collect()
}

async fn set_ready(context: &Context, pod: &Pod, ready: bool) -> Result<(), Error> {
    let mut changed = pod.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = if ready { "True" } else { "False" }.to_owned();
        condition.reason = (!ready).then(|| IN_ITS_PLACE.to_owned());
        condition.last_transition_time = Some(seconds(context.now()));
    }
    let api: Api<Pod> =
        Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    match api.replace_status(&pod.name_any(), &PostParams::default(), &changed).await {
        Ok(written) => context.caches.pods.observe(written),
        Err(error) if is_code(&error, 404) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    if !ready {
        context.recorder.event(pod, Severity::Warning, IN_ITS_PLACE, "Node is not ready");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let taints: Vec<_> =
            taints.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .expect("a valid node")
    }

    fn taints(node: &Node) -> Option<Vec<(String, String)>> {
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let next = next_taints(node, now)?;
        Some(next.into_iter().map(|taint| (taint.key, taint.effect)).collect())
    }

    #[test]
    fn taints_follow_readiness_and_leave_others_alone() {
        let mine = ("example.com/mine", "NoSchedule");
        let pair = |(key, effect): (&str, &str)| (key.to_owned(), effect.to_owned());
        let lost = node("Unknown", &[mine, (TAINT_NOT_READY, "NoExecute")]);
        assert_eq!(
            taints(&lost),
            Some(vec![
                pair(mine),
                pair((TAINT_UNREACHABLE, "NoSchedule")),
                pair((TAINT_UNREACHABLE, "NoExecute"))
            ])
        );
        assert_eq!(taints(&node("True", &[mine])), None, "nothing to change");
        let back = node("True", &[mine, (TAINT_UNREACHABLE, "NoExecute")]);
        assert_eq!(taints(&back), Some(vec![pair(mine)]));
    }

    #[test]
    fn time_in_which_we_stood_still_is_no_silence() {
        let (heartbeats, minute) = (Heartbeats::default(), Duration::from_secs(60));
        let then = Instant::now().checked_sub(minute).expect("the machine runs for longer");
        heartbeats.seen.lock().insert("n".to_owned(), then);
        assert!(heartbeats.silence("n") >= minute);
        heartbeats.forgive(Duration::from_secs(50));
        assert!(heartbeats.silence("n") < minute / 2, "the rest was");
        heartbeats.forgive(Duration::from_secs(50));
        assert!(heartbeats.silence("n") < minute / 6, "nobody is heard in the future");
    }
}
