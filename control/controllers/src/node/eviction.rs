//! Ends pods on nodes with NoExecute taints: at once, or as long after as they tolerate.

use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use bowline_api::matching::tolerates;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::context::{Context, Reconciled};
use crate::pods;
use crate::queue::Queue;

/// Keys are pods.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |change| {
        let (Some(context), Some(new)) = (weak.upgrade(), &change.new) else { return };
        let spec = |node: &k8s_openapi::api::core::v1::Node| {
            node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default()
        };
        if change.old.as_ref().is_none_or(|old| spec(old) != spec(new)) {
            let name = new.metadata.name.as_deref().unwrap_or_default();
            let pods = context.caches.pods.by("node", name);
            pods.iter().for_each(|pod| adds.add(Key::of(pod.as_ref())));
        }
    });
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        let (Some(context), Some(new)) = (weak.upgrade(), &change.new) else { return };
        if !taints(&context, new).is_empty() {
            adds.add(Key::of(new.as_ref()));
        }
    });
    queue
}

/// The NoExecute taints of the pod's node.
fn taints(context: &Context, pod: &Pod) -> Vec<Taint> {
    let node = context.caches.nodes.named(pods::node(pod));
    let taints = node.and_then(|node| node.spec.as_ref().and_then(|spec| spec.taints.clone()));
    let mut taints = taints.unwrap_or_default();
    taints.retain(|taint| taint.effect == "NoExecute");
    taints
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(pod) = context.caches.pods.get(&key) else { return Ok(None) };
    if pod.metadata.deletion_timestamp.is_some() || pods::is_ended(&pod) {
        return Ok(None);
    }
    let taints = taints(&context, &pod);
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
    let tolerations = tolerations.unwrap_or_default();
    match time_left(&taints, &tolerations, context.now()) {
        None => Ok(None),
        Some(left) if left.is_zero() => {
            let text = format!("Marking for deletion Pod {key}");
            let reason = "TaintManagerEviction";
            context.recorder.event(pod.as_ref(), Severity::Normal, reason, text);
            pods::remove(&context, &pod, None).await?;
            Ok(None)
        }
        Some(left) => Ok(Some(left)),
    }
}

/// How long the pod may stay: none for ever, zero not at all. Each taint gives the time of its
/// shortest toleration, counted from when it was set; a time of zero or less means at once.
fn time_left(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints {
        let mut matching =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Some(Duration::ZERO);
        }
        let Some(seconds) = matching.filter_map(|one| one.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let allowed = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let left = allowed.saturating_sub(passed);
        least = Some(least.map_or(left, |least| least.min(left)));
    }
    least
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn taint() -> Taint {
        Taint {
            key: "gone".into(),
            effect: "NoExecute".into(),
            time_added: Some(Time(Timestamp::UNIX_EPOCH)),
            value: None,
        }
    }

    fn toleration(seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some("gone".into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates() {
        let now = Timestamp::from_second(10).expect("a valid time");
        let left = |tolerations: &[Toleration]| time_left(&[taint()], tolerations, now);
        assert_eq!(left(&[]), Some(Duration::ZERO));
        assert_eq!(left(&[toleration(None)]), None);
        assert_eq!(
            left(&[toleration(Some(30)), toleration(Some(15))]),
            Some(Duration::from_secs(5))
        );
        assert_eq!(left(&[toleration(Some(5))]), Some(Duration::ZERO));
        assert_eq!(time_left(&[], &[], now), None);
    }
}
