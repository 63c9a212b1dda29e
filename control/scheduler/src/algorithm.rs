//! One pod against all nodes: filter, score, choose; or say why there is no node. Pure.

use std::collections::BTreeMap;

use crate::plugins::{Judge, Rejection, Scale, judges};
use crate::snapshot::{Cluster, NodeInfo, PodInfo};

/// A node for the pod, or why there is none.
#[derive(Debug)]
pub(crate) enum Decision {
    Node(String),
    None(Diagnosis),
}

/// Why each node was refused.
#[derive(Debug, Default)]
pub(crate) struct Diagnosis {
    pub(crate) rejections: BTreeMap<String, Rejection>,
}

impl Diagnosis {
    /// Whether another pod's placement could help.
    pub(crate) fn wants_company(&self) -> bool {
        self.rejections.values().any(|one| one.wants_company)
    }

    /// The sentence that users know: `0/3 nodes are available: 1 Insufficient cpu, 2 ....`
    pub(crate) fn message(&self) -> String {
        if self.rejections.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.rejections.values().flat_map(|rejection| &rejection.reasons) {
            *counts.entry(reason).or_default() += 1;
        }
        let mut parts: Vec<String> =
            counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.rejections.len(), parts.join(", "))
    }
}

/// Finds the best node; `turn` decides among equals, so that they take turns.
pub(crate) fn schedule(pod: &PodInfo, cluster: &Cluster, turn: usize) -> Decision {
    let judges = judges(pod, cluster);
    let mut fitting = Vec::new();
    let mut diagnosis = Diagnosis::default();
    for node in cluster.nodes() {
        match judges.iter().try_for_each(|judge| judge.filter(node)) {
            Ok(()) => fitting.push(node),
            Err(rejection) => {
                diagnosis.rejections.insert(node.name.clone(), rejection);
            }
        }
    }
    match best(&judges, &fitting, turn) {
        Some(node) => Decision::Node(node.name.clone()),
        None => Decision::None(diagnosis),
    }
}

/// Whether this one node takes the pod.
pub(crate) fn fits(pod: &PodInfo, cluster: &Cluster, name: &str) -> bool {
    let judges = judges(pod, cluster);
    cluster.node(name).is_some_and(|node| judges.iter().all(|judge| judge.filter(node).is_ok()))
}

fn best<'n>(
    judges: &[Box<dyn Judge + '_>],
    nodes: &[&'n NodeInfo],
    turn: usize,
) -> Option<&'n NodeInfo> {
    if nodes.len() <= 1 {
        return nodes.first().copied();
    }
    let mut totals = vec![0; nodes.len()];
    for judge in judges.iter().filter(|judge| judge.weight() > 0) {
        let raw: Vec<i64> = nodes.iter().map(|node| judge.score(node)).collect();
        for (total, score) in totals.iter_mut().zip(percent(&raw, judge.scale())) {
            *total += score * judge.weight();
        }
    }
    let most = totals.iter().copied().max()?;
    let equals: Vec<_> = nodes.iter().zip(&totals).filter(|(_, total)| **total == most).collect();
    equals.get(turn % equals.len()).map(|(node, _)| **node)
}

fn percent(raw: &[i64], scale: Scale) -> Vec<i64> {
    let low = raw.iter().copied().min().unwrap_or(0);
    let high = raw.iter().copied().max().unwrap_or(0);
    let range = high - low;
    raw.iter()
        .map(|score| match scale {
            Scale::Percent => *score,
            _ if range == 0 => 0,
            Scale::HighIsGood => (score - low) * 100 / range,
            Scale::LowIsGood => (high - score) * 100 / range,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{node, node_of, pod, pod_of};

    #[test]
    fn the_reasons_are_counted_and_sorted() {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.set_node(name, Some(node(name, json!({"cpu": "1", "pods": "9"})).node));
        }
        let tainted = node_of(json!({"metadata": {"name": "c"}, "spec": {"taints": [
            {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}));
        cluster.set_node("c", Some(tainted.node));
        let Decision::None(diagnosis) = schedule(&pod("p", json!({"cpu": "2"})), &cluster, 0)
        else {
            panic!("no node has two cores")
        };
        assert_eq!(
            diagnosis.message(),
            "0/3 nodes are available: 1 node(s) had untolerated taint \
             {node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu."
        );
        assert_eq!(Diagnosis::default().message(), "no nodes available to schedule pods");
    }

    #[test]
    fn replicas_spread_evenly_over_equal_nodes() {
        let mut cluster = Cluster::default();
        for name in ["a", "b", "c"] {
            let room = json!({"cpu": "8", "memory": "8Gi", "pods": "110"});
            cluster.set_node(name, Some(node(name, room).node));
        }
        let mut counts: HashMap<String, usize> = HashMap::new();
        for number in 0..12 {
            let name = format!("p{number}");
            let pod = Arc::new(pod_of(json!({"metadata": {"name": name, "namespace": "default",
                "uid": name, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "r", "uid": "r", "controller": true}]},
                "spec": {"containers": [{"name": "c"}]}})));
            let Decision::Node(chosen) = schedule(&pod, &cluster, number) else {
                panic!("there is room")
            };
            cluster.place(pod, &chosen);
            *counts.entry(chosen).or_default() += 1;
        }
        assert!(counts.values().all(|count| *count == 4), "{counts:?}");
    }
}
