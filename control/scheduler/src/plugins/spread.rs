//! Spreading over topology domains: the pod's own constraints, or, without any, its controller's
//! pods over hosts and zones as well as goes.

use std::collections::HashMap;

use bowline_api::matching::{pod_allows_node, selects, untolerated};
use bowline_api::names::{LABEL_HOSTNAME, LABEL_ZONE};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Judge, Rejection, Scale};
use crate::snapshot::{Cluster, NodeInfo, PodInfo};

/// Raw scores are in hundredths of a pod.
const PRECISION: f64 = 100.0;

/// One constraint and how many pods each domain has.
struct Domains {
    key: String,
    hard: bool,
    max_skew: i64,
    /// Whether the new pod counts itself.
    own: i64,
    counts: HashMap<String, i64>,
    min: i64,
    /// Domains are worth the more the more there are of them.
    weight: f64,
}

pub(crate) struct Spread {
    domains: Vec<Domains>,
    /// The pod asks for it; else it is our default.
    asked: bool,
}

impl Spread {
    /// None when there is nothing to spread by.
    pub(crate) fn new(pod: &PodInfo, cluster: &Cluster) -> Option<Self> {
        let own = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref());
        let own = own.unwrap_or_default();
        if own.is_empty() {
            let owner = pod.owner.as_deref()?;
            let same = |other: &PodInfo| other.owner.as_deref() == Some(owner);
            let soft = |key: &str| count(pod, cluster, &constraint(key), &same);
            let domains = vec![soft(LABEL_HOSTNAME), soft(LABEL_ZONE)];
            return Some(Self { domains, asked: false });
        }
        let domains = own.iter().map(|constraint| {
            let matches = |other: &PodInfo| counts_for(constraint, pod, other);
            count(pod, cluster, constraint, &matches)
        });
        Some(Self { domains: domains.collect(), asked: true })
    }
}

fn constraint(key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..Default::default()
    }
}

fn counts_for(constraint: &TopologySpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    let (own, labels) = (pod.labels(), other.labels());
    let same = |key: &String| {
        // A key that the pod itself lacks is ignored.
        let wanted = own.and_then(|labels| labels.get(key));
        wanted.is_none() || wanted == labels.and_then(|labels| labels.get(key))
    };
    selects(constraint.label_selector.as_ref(), labels)
        && constraint.match_label_keys.iter().flatten().all(same)
}

fn count(
    pod: &PodInfo,
    cluster: &Cluster,
    constraint: &TopologySpreadConstraint,
    matches: &dyn Fn(&PodInfo) -> bool,
) -> Domains {
    let key = constraint.topology_key.clone();
    let mut counts: HashMap<String, i64> = HashMap::new();
    for node in cluster.nodes().filter(|node| takes_part(constraint, pod, node)) {
        let Some(value) = node.label(&key) else { continue };
        let here = node.pods.iter().filter(|other| {
            other.key.namespace == pod.key.namespace && !other.is_terminating() && matches(other)
        });
        let here = i64::try_from(here.count()).unwrap_or(i64::MAX);
        *counts.entry(value.to_owned()).or_default() += here;
    }
    let too_few = constraint
        .min_domains
        .is_some_and(|wanted| counts.len() < usize::try_from(wanted).unwrap_or(0));
    let min = if too_few { 0 } else { counts.values().copied().min().unwrap_or(0) };
    Domains {
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        max_skew: i64::from(constraint.max_skew),
        own: i64::from(matches(pod)),
        weight: (counts.len() as f64 + 2.0).ln(),
        min,
        counts,
        key,
    }
}

fn takes_part(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honour = |policy: &Option<String>, default: bool| {
        policy.as_deref().map_or(default, |policy| policy == "Honor")
    };
    let allowed = !honour(&constraint.node_affinity_policy, true)
        || pod.spec().is_none_or(|spec| pod_allows_node(spec, &node.node));
    let effects = ["NoSchedule", "NoExecute"];
    let tolerated = !honour(&constraint.node_taints_policy, false)
        || untolerated(node.taints(), pod.tolerations(), &effects).is_none();
    allowed && tolerated
}

impl Judge for Spread {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        for domains in self.domains.iter().filter(|domains| domains.hard) {
            let Some(value) = node.label(&domains.key) else {
                return Err(Rejection::final_(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let here = domains.counts.get(value).copied().unwrap_or(0);
            if here + domains.own - domains.min > domains.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::company(reason, true));
            }
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = self.domains.iter().filter(|domains| !domains.hard);
        let sum: f64 = soft
            .map(|domains| {
                let here = node.label(&domains.key).map(|value| domains.counts.get(value));
                // A node outside every domain is as bad as the fullest domain.
                let here = here.map_or_else(
                    || domains.counts.values().copied().max().unwrap_or(0),
                    |count| count.copied().unwrap_or(0),
                );
                here as f64 * domains.weight + (domains.max_skew - 1) as f64
            })
            .sum();
        (sum * PRECISION) as i64
    }

    fn scale(&self) -> Scale {
        Scale::LowIsGood
    }

    fn weight(&self) -> i64 {
        if self.asked { 4 } else { 2 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{node_of, pod_of};
    use super::*;

    fn cluster(counts: &[(&str, usize)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (zone, count) in counts {
            let info = node_of(json!({"metadata": {"name": zone, "labels": {LABEL_ZONE: zone}}}));
            cluster.set_node(zone, Some(info.node));
            for number in 0..*count {
                let name = format!("{zone}-{number}");
                cluster.place(std::sync::Arc::new(pod(&name, json!([]))), zone);
            }
        }
        cluster
    }

    fn pod(name: &str, constraints: serde_json::Value) -> PodInfo {
        pod_of(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "a"}},
            "spec": {"containers": [], "topologySpreadConstraints": constraints}}))
    }

    fn hard(min_domains: Option<i32>) -> serde_json::Value {
        json!([{"maxSkew": 1, "topologyKey": LABEL_ZONE, "whenUnsatisfiable": "DoNotSchedule",
            "minDomains": min_domains, "labelSelector": {"matchLabels": {"app": "a"}}}])
    }

    fn allowed(cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
        let judge = Spread::new(pod, cluster).expect("there are constraints");
        let fits = |node: &&NodeInfo| judge.filter(node).is_ok();
        cluster.nodes().filter(fits).map(|node| node.name.clone()).collect()
    }

    #[test]
    fn a_hard_constraint_keeps_the_skew() {
        let new = pod("new", hard(None));
        assert_eq!(allowed(&cluster(&[("a", 2), ("b", 1), ("c", 1)]), &new), ["b", "c"]);
        assert_eq!(allowed(&cluster(&[("a", 1), ("b", 1)]), &new), ["a", "b"]);
    }

    #[test]
    fn too_few_domains_count_as_an_empty_one() {
        let new = pod("new", hard(Some(3)));
        assert_eq!(allowed(&cluster(&[("a", 1), ("b", 0)]), &new), ["b"]);
    }

    #[test]
    fn pods_of_one_controller_spread_without_being_asked() {
        let owned = |name: &str| {
            std::sync::Arc::new(pod_of(json!({"metadata": {"name": name, "namespace": "default",
                "uid": name, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "r", "uid": "r", "controller": true}]}, "spec": {"containers": []}})))
        };
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            let labels = json!({LABEL_HOSTNAME: name});
            let info = node_of(json!({"metadata": {"name": name, "labels": labels}}));
            cluster.set_node(name, Some(info.node));
        }
        cluster.place(owned("one"), "a");
        let new = owned("two");
        let judge = Spread::new(&new, &cluster).expect("it has a controller");
        let scores: Vec<i64> = cluster.nodes().map(|node| judge.score(node)).collect();
        assert!(scores[0] > scores[1], "lower is better: {scores:?}");
    }
}
