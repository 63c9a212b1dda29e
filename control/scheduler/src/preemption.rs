//! Making room for a pod by ending pods of lower priority. Pure.
//!
//! On each node that would take the pod if some pods left: which must leave? The node is chosen
//! whose highest-ranking victim ranks lowest, then by their sum, then by number.

use std::sync::Arc;

use crate::algorithm::{Diagnosis, fits};
use crate::snapshot::{Cluster, PodInfo};

/// Who must leave which node.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodInfo>>,
}

/// Room for `pod`, or the sentence why ending pods makes none. The cluster is left as it was.
pub(crate) fn find(
    pod: &PodInfo,
    cluster: &mut Cluster,
    diagnosis: &Diagnosis,
) -> (Option<Preemption>, Option<String>) {
    let total = diagnosis.rejections.len();
    if total == 0 {
        return (None, None);
    }
    let never = pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never");
    if never {
        let text = "not eligible due to preemptionPolicy=Never.";
        return (None, Some(text.to_owned()));
    }
    let mut choices = Vec::new();
    let (mut helpless, mut victimless, mut under_way) = (0, 0, false);
    for (node, rejection) in &diagnosis.rejections {
        if !rejection.resolvable {
            helpless += 1;
            continue;
        }
        match victims(pod, cluster, node) {
            Some(victims) if victims.is_empty() => under_way = true,
            Some(victims) => choices.push(Preemption { node: node.clone(), victims }),
            None => victimless += 1,
        }
    }
    if under_way {
        // Pods that are leaving already make the room.
        return (None, None);
    }
    let rank = |choice: &Preemption| {
        let highest = choice.victims.iter().map(|one| one.priority).max().unwrap_or(i32::MIN);
        let sum: i64 = choice.victims.iter().map(|one| i64::from(one.priority)).sum();
        (highest, sum, choice.victims.len())
    };
    if let Some(best) = choices.into_iter().min_by_key(rank) {
        return (Some(best), None);
    }
    let mut parts = Vec::new();
    if victimless > 0 {
        parts.push(format!("{victimless} No preemption victims found for incoming pod"));
    }
    if helpless > 0 {
        parts.push(format!("{helpless} Preemption is not helpful for scheduling"));
    }
    (None, Some(format!("0/{total} nodes are available: {}.", parts.join(", "))))
}

/// The fewest pods of lower priority, lowest first, that must leave `name`; empty when those that
/// are leaving already suffice; none when all together would not do.
fn victims(pod: &PodInfo, cluster: &mut Cluster, name: &str) -> Option<Vec<Arc<PodInfo>>> {
    let on_node: Vec<Arc<PodInfo>> = cluster
        .node(name)?
        .pods
        .iter()
        .filter(|other| other.priority < pod.priority || other.is_terminating())
        .cloned()
        .collect();
    if on_node.is_empty() {
        return None;
    }
    let mut lower: Vec<_> =
        on_node.iter().filter(|other| !other.is_terminating()).cloned().collect();
    for other in &on_node {
        cluster.remove(&other.uid);
    }
    let mut found = None;
    if fits(pod, cluster, name) {
        // Give back whom we can, the most important first.
        lower.sort_by_key(|other| std::cmp::Reverse(other.priority));
        let mut victims = Vec::new();
        for other in lower {
            cluster.place(Arc::clone(&other), name);
            if !fits(pod, cluster, name) {
                cluster.remove(&other.uid);
                victims.push(other);
            }
        }
        found = Some(victims);
    }
    for other in on_node {
        cluster.place(other, name);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::algorithm::{Decision, schedule};
    use crate::plugins::testing::{node, pod_of};

    fn pod(name: &str, priority: i32, cpu: &str) -> Arc<PodInfo> {
        Arc::new(pod_of(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"priority": priority,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})))
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.set_node(name, Some(node(name, json!({"cpu": "2", "pods": "9"})).node));
        }
        cluster.place(pod("a1", 5, "1"), "a");
        cluster.place(pod("a2", 1, "1"), "a");
        cluster.place(pod("b1", 7, "2"), "b");
        cluster
    }

    fn preempt(pod: &PodInfo, cluster: &mut Cluster) -> (Option<Preemption>, Option<String>) {
        let Decision::None(diagnosis) = schedule(pod, cluster, 0) else { panic!("it is full") };
        find(pod, cluster, &diagnosis)
    }

    #[test]
    fn the_least_important_pods_leave_and_no_more_than_needed() {
        let mut cluster = cluster();
        let (found, _) = preempt(&pod("new", 10, "1"), &mut cluster);
        let found = found.expect("there are pods of lower priority");
        let names: Vec<_> = found.victims.iter().map(|one| one.key.name.as_str()).collect();
        assert_eq!((found.node.as_str(), names), ("a", vec!["a2"]));
        assert_eq!(cluster.pods().count(), 3, "the cluster is as it was");
    }

    #[test]
    fn equals_are_never_victims() {
        let (found, why) = preempt(&pod("new", 1, "1"), &mut cluster());
        assert!(found.is_none());
        let text = "0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(why.as_deref(), Some(text));
    }
}
