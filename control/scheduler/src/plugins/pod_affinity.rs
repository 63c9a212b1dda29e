//! Affinity and anti-affinity between pods: the new pod's wishes, and those of the pods that are
//! there already.

use std::collections::{HashMap, HashSet};

use bowline_api::matching::selects;
use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};

use super::{Judge, Rejection, Scale};
use crate::snapshot::{Cluster, NodeInfo, PodInfo};

/// What a required affinity of a pod that is there counts for in scores.
const REQUIRED_WEIGHT: i64 = 1;

/// A topology domain: label key and value.
type Domain = (String, String);

/// A required affinity term of the new pod, and the domains where it is met.
struct Wanted {
    key: String,
    domains: HashSet<Domain>,
}

pub(crate) struct PodAffinity {
    wanted: Vec<Wanted>,
    /// No pod anywhere meets any term, and the new pod meets all itself: it is the first.
    first: bool,
    unwanted: HashSet<Domain>,
    /// Domains where a pod refuses the new one.
    refused: HashSet<Domain>,
    scores: HashMap<Domain, i64>,
}

impl PodAffinity {
    /// None when neither the pod nor any other has wishes.
    pub(crate) fn new(pod: &PodInfo, cluster: &Cluster) -> Option<Self> {
        let asks = pod.affinity().is_some() || pod.anti_affinity().is_some();
        let others = || {
            cluster
                .pods()
                .filter(|(_, other)| other.affinity().is_some() || other.anti_affinity().is_some())
        };
        if !asks && others().next().is_none() {
            return None;
        }
        let mut judge = Self {
            wanted: Vec::new(),
            first: false,
            unwanted: HashSet::new(),
            refused: HashSet::new(),
            scores: HashMap::new(),
        };
        if asks {
            judge.read_wishes(pod, cluster);
        }
        for (node, other) in others() {
            judge.read_wishes_of(other, node, pod, cluster);
        }
        Some(judge)
    }

    fn read_wishes(&mut self, pod: &PodInfo, cluster: &Cluster) {
        for term in required(pod) {
            let domains = domains(term, pod, cluster);
            self.wanted.push(Wanted { key: term.topology_key.clone(), domains });
        }
        self.first = self.wanted.iter().all(|term| term.domains.is_empty())
            && required(pod).all(|term| matches(term, pod, pod, cluster));
        for term in required_anti(pod) {
            self.unwanted.extend(domains(term, pod, cluster));
        }
        for (term, sign) in preferred(pod) {
            for (node, other) in cluster.pods() {
                if matches(&term.pod_affinity_term, pod, other, cluster) {
                    let key = &term.pod_affinity_term.topology_key;
                    self.add_score(node, key, sign * i64::from(term.weight));
                }
            }
        }
    }

    /// What `other`, on `node`, wishes of the new pod.
    fn read_wishes_of(
        &mut self,
        other: &PodInfo,
        node: &NodeInfo,
        pod: &PodInfo,
        cluster: &Cluster,
    ) {
        for term in required_anti(other) {
            if matches(term, other, pod, cluster) {
                self.refused.extend(domain(node, &term.topology_key));
            }
        }
        for term in required(other) {
            if matches(term, other, pod, cluster) {
                self.add_score(node, &term.topology_key, REQUIRED_WEIGHT);
            }
        }
        for (term, sign) in preferred(other) {
            if matches(&term.pod_affinity_term, other, pod, cluster) {
                let key = &term.pod_affinity_term.topology_key;
                self.add_score(node, key, sign * i64::from(term.weight));
            }
        }
    }

    fn add_score(&mut self, node: &NodeInfo, key: &str, score: i64) {
        if let Some(domain) = domain(node, key) {
            *self.scores.entry(domain).or_default() += score;
        }
    }
}

fn required(pod: &PodInfo) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = pod.affinity();
    affinity
        .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
        .iter()
}

fn required_anti(pod: &PodInfo) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = pod.anti_affinity();
    affinity
        .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
        .iter()
}

/// Preferred terms, with -1 for those that would rather be apart.
fn preferred(pod: &PodInfo) -> impl Iterator<Item = (&WeightedPodAffinityTerm, i64)> {
    let near = pod
        .affinity()
        .and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_deref());
    let apart = pod
        .anti_affinity()
        .and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_deref());
    let near = near.unwrap_or_default().iter().map(|term| (term, 1));
    near.chain(apart.unwrap_or_default().iter().map(|term| (term, -1)))
}

fn domain(node: &NodeInfo, key: &str) -> Option<Domain> {
    Some((key.to_owned(), node.label(key)?.to_owned()))
}

/// The domains in which some pod meets `term`, a term of `pod`.
fn domains(term: &PodAffinityTerm, pod: &PodInfo, cluster: &Cluster) -> HashSet<Domain> {
    cluster
        .pods()
        .filter(|(_, other)| matches(term, pod, other, cluster))
        .filter_map(|(node, _)| domain(node, &term.topology_key))
        .collect()
}

/// Whether `other` is one of the pods that `term`, a term of `owner`, speaks of.
fn matches(term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo, cluster: &Cluster) -> bool {
    let namespace = &other.key.namespace;
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let by_selector = term.namespace_selector.as_ref();
    let namespace_fits = if listed.is_empty() && by_selector.is_none() {
        *namespace == owner.key.namespace
    } else {
        listed.contains(namespace)
            || (by_selector.is_some() && selects(by_selector, cluster.namespace_labels(namespace)))
    };
    let value = |pod: &PodInfo, key: &String| pod.labels().and_then(|all| all.get(key)).cloned();
    let same = |key: &String| value(owner, key).is_none_or(|own| value(other, key) == Some(own));
    let differs = |key: &String| value(owner, key).is_none_or(|own| value(other, key) != Some(own));
    namespace_fits
        && selects(term.label_selector.as_ref(), other.labels())
        && term.match_label_keys.iter().flatten().all(same)
        && term.mismatch_label_keys.iter().flatten().all(differs)
}

impl Judge for PodAffinity {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let here = |domains: &HashSet<Domain>| {
            domains.iter().any(|(key, value)| node.label(key) == Some(value))
        };
        let met = self.wanted.iter().all(|term| {
            domain(node, &term.key)
                .is_some_and(|domain| self.first || term.domains.contains(&domain))
        });
        if !met {
            return Err(Rejection::company("node(s) didn't match pod affinity rules", false));
        }
        if here(&self.unwanted) {
            let reason = "node(s) didn't match pod anti-affinity rules";
            return Err(Rejection::resolvable(vec![reason.to_owned()]));
        }
        if here(&self.refused) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Rejection::resolvable(vec![reason.to_owned()]));
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let here = |(key, value): &Domain| node.label(key) == Some(value);
        self.scores.iter().filter(|(domain, _)| here(domain)).map(|(_, score)| score).sum()
    }

    fn scale(&self) -> Scale {
        Scale::HighIsGood
    }

    fn weight(&self) -> i64 {
        2
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::super::testing::{node, pod_of};
    use super::*;

    fn pod(name: &str, app: &str, affinity: Value) -> Arc<PodInfo> {
        Arc::new(pod_of(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}},
            "spec": {"containers": [], "affinity": affinity}})))
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.set_node(name, Some(node(name, json!({})).node));
        }
        cluster
    }

    fn term(app: &str) -> Value {
        json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}])
    }

    fn allowed(cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
        let judge = PodAffinity::new(pod, cluster).expect("there are wishes");
        let fits = |node: &&NodeInfo| judge.filter(node).is_ok();
        cluster.nodes().filter(fits).map(|node| node.name.clone()).collect()
    }

    #[test]
    fn affinity_follows_and_the_first_of_a_group_is_free() {
        let near = json!({"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": term("db")}});
        let mut cluster = cluster();
        assert!(allowed(&cluster, &pod("web", "web", near.clone())).is_empty());
        assert_eq!(allowed(&cluster, &pod("db", "db", near.clone())), ["a", "b"]);
        cluster.place(pod("db", "db", Value::Null), "b");
        assert_eq!(allowed(&cluster, &pod("web", "web", near)), ["b"]);
    }

    #[test]
    fn anti_affinity_holds_both_ways() {
        let apart = json!({"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": term("db")}});
        let mut cluster = cluster();
        cluster.place(pod("db", "db", apart.clone()), "a");
        assert_eq!(allowed(&cluster, &pod("web", "web", apart.clone())), ["b"]);
        assert_eq!(allowed(&cluster, &pod("db-2", "db", Value::Null)), ["b"], "the first refuses");
    }
}
