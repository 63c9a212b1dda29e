//! Which pods of a daemon set come and go. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_api::matching::{pod_allows_node, untolerated};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};

use crate::deployment::{Round, scaled};
use crate::pods;
use crate::revisions::HASH;

/// Taints that every daemon's pod tolerates: daemons are there for the node's whole life.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And this one, on the node's own network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The tolerations that are added to the template's.
pub(crate) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let network = Some(NETWORK).filter(|_| spec.host_network == Some(true));
    TOLERATED
        .into_iter()
        .chain(network)
        .map(|(key, effect)| Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Default::default()
        })
        .collect()
}

/// What a daemon set wants of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants {
    /// A new pod may be placed there.
    pub(crate) run: bool,
    /// A pod that is there may stay.
    pub(crate) stay: bool,
}

pub(crate) fn wants(set: &DaemonSet, node: &Node) -> Wants {
    let no = Wants { run: false, stay: false };
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return no;
    };
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| Some(name) != node.metadata.name.as_deref())
        || !pod_allows_node(spec, node)
    {
        return no;
    }
    let mut tolerated = spec.tolerations.clone().unwrap_or_default();
    tolerated.extend(tolerations(spec));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    Wants {
        run: untolerated(taints, &tolerated, &["NoSchedule", "NoExecute"]).is_none(),
        stay: untolerated(taints, &tolerated, &["NoExecute"]).is_none(),
    }
}

/// The node that the pod is on, or is meant for.
pub(crate) fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.clone().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter());
    let field = fields.flatten().find(|field| field.key == "metadata.name")?;
    field.values.as_ref()?.first().cloned()
}

/// What to do in this pass.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Nodes that get a pod.
    pub(crate) create: Vec<String>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Those of `delete` that have failed.
    pub(crate) failed: Vec<Arc<Pod>>,
}

/// All that a plan is made from.
pub(crate) struct View<'v> {
    pub(crate) set: &'v DaemonSet,
    pub(crate) nodes: &'v [Arc<Node>],
    /// All pods of the set by node, those being deleted too.
    pub(crate) pods: &'v BTreeMap<String, Vec<Arc<Pod>>>,
    /// Of the current template.
    pub(crate) hash: &'v str,
    pub(crate) now: Timestamp,
}

impl View<'_> {
    fn is_new(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(HASH)).is_some_and(|hash| hash == self.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        pods::is_available(pod, min_ready.unwrap_or(0), self.now)
    }

    fn on(&self, node: &Node) -> &[Arc<Pod>] {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.pods.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn rolling(&self) -> bool {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        strategy.and_then(|one| one.type_.as_deref()) != Some("OnDelete")
    }

    /// (may be unavailable, may be there twice), in nodes.
    fn limits(&self, wanted: usize) -> (usize, usize) {
        let spec = self.set.spec.as_ref();
        let rolling = spec
            .and_then(|spec| spec.update_strategy.as_ref())
            .and_then(|strategy| strategy.rolling_update.clone())
            .unwrap_or_default();
        let total = i32::try_from(wanted).unwrap_or(i32::MAX);
        let number = |value: Option<_>| {
            value.map(|value| usize::try_from(scaled(&value, total, Round::Up)).unwrap_or(0))
        };
        let surge = number(rolling.max_surge).unwrap_or(0);
        let unavailable = number(rolling.max_unavailable).unwrap_or(usize::from(surge == 0));
        (if surge == 0 { unavailable.max(1) } else { unavailable }, surge)
    }

    /// Missing pods are made, misplaced, surplus and failed ones go, and the next pods of an old
    /// template are replaced.
    pub(crate) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let known =
            |name: &String| self.nodes.iter().any(|node| node.metadata.name.as_ref() == Some(name));
        let lost = self.pods.iter().filter(|(name, _)| !known(name)).flat_map(|(_, pods)| pods);
        plan.delete.extend(lost.filter(|pod| pod.metadata.deletion_timestamp.is_none()).cloned());
        for node in self.nodes {
            self.plan_node(node, &mut plan);
        }
        if self.rolling() {
            self.plan_update(&mut plan);
        }
        plan
    }

    fn plan_node(&self, node: &Node, plan: &mut Plan) {
        let wants = wants(self.set, node);
        let name = node.metadata.name.clone().unwrap_or_default();
        let (leaving, here): (Vec<_>, Vec<_>) = self
            .on(node)
            .iter()
            .cloned()
            .partition(|pod| pod.metadata.deletion_timestamp.is_some());
        if !wants.stay {
            plan.delete.extend(here);
            return;
        }
        let (failed, mut here): (Vec<_>, Vec<_>) =
            here.into_iter().partition(|pod| pods::is_ended(pod));
        plan.delete.extend(failed.iter().cloned());
        let any_failed = !failed.is_empty();
        plan.failed.extend(failed);
        // The one that serves stays; of each template one, while an update makes two.
        here.sort_by_key(|pod| (!self.is_available(pod), pod.metadata.creation_timestamp.clone()));
        let (new, old): (Vec<_>, Vec<_>) = here.iter().cloned().partition(|pod| self.is_new(pod));
        plan.delete.extend(new.iter().skip(1).cloned());
        plan.delete.extend(old.iter().skip(1).cloned());
        if let (Some(_), Some(new)) = (old.first(), new.first())
            && self.is_available(new)
        {
            plan.delete.extend(old.first().cloned());
        }
        // A pod that is on its way out must have left, or two daemons would fight for the node.
        if here.is_empty() && leaving.is_empty() && !any_failed && wants.run {
            plan.create.push(name);
        }
    }

    fn plan_update(&self, plan: &mut Plan) {
        let wanted: Vec<&Arc<Node>> =
            self.nodes.iter().filter(|node| wants(self.set, node).run).collect();
        let (max_unavailable, max_surge) = self.limits(wanted.len());
        let mut unavailable = 0;
        let mut surging = 0;
        let mut broken: Vec<Arc<Pod>> = Vec::new();
        let mut whole: Vec<(String, Arc<Pod>)> = Vec::new();
        for node in wanted {
            let alive: Vec<_> =
                self.on(node).iter().filter(|pod| pods::is_active(pod)).cloned().collect();
            let old = alive.iter().find(|pod| !self.is_new(pod));
            let new = alive.iter().find(|pod| self.is_new(pod));
            let serves = alive.iter().any(|pod| self.is_available(pod));
            unavailable += usize::from(!serves);
            surging += usize::from(old.is_some() && new.is_some());
            match (old, new) {
                (Some(old), None) if !self.is_available(old) => broken.push(Arc::clone(old)),
                (Some(old), None) => {
                    let name = node.metadata.name.clone().unwrap_or_default();
                    whole.push((name, Arc::clone(old)));
                }
                _ => {}
            }
        }
        // One that serves nobody costs nothing.
        plan.delete.extend(broken);
        if max_surge > 0 {
            let room = max_surge.saturating_sub(surging);
            plan.create.extend(whole.into_iter().take(room).map(|(name, _)| name));
        } else {
            let room = max_unavailable.saturating_sub(unavailable);
            plan.delete.extend(whole.into_iter().take(room).map(|(_, pod)| pod));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(update: Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "default", "uid": "d"},
            "spec": {"selector": {}, "updateStrategy": {"rollingUpdate": update},
                "template": {"spec": {"containers": []}}}}))
        .expect("a valid daemon set")
    }

    fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        let taints: Vec<_> =
            taint.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).expect("a valid node"))
    }

    fn pod(name: &str, node: &str, hash: &str, ready: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "labels": {HASH: hash}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(pod).expect("a valid pod"))
    }

    fn plan(
        set: &DaemonSet,
        nodes: &[Arc<Node>],
        pods: Vec<Arc<Pod>>,
    ) -> (Vec<String>, Vec<String>) {
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in pods {
            by_node.entry(node_of(&pod).expect("a node")).or_default().push(pod);
        }
        let view = View { set, nodes, pods: &by_node, hash: "new", now: Timestamp::UNIX_EPOCH };
        let plan = view.plan();
        let names = plan.delete.iter().filter_map(|pod| pod.metadata.name.clone());
        (plan.create, names.collect())
    }

    #[test]
    fn every_node_gets_one_pod_unless_its_taints_forbid() {
        let nodes = [
            node("a", None),
            node("b", Some(("node.kubernetes.io/unschedulable", "NoSchedule"))),
            node("c", Some(("example.com/closed", "NoSchedule"))),
            node("d", Some(("example.com/closed", "NoExecute"))),
        ];
        let stays = pod("c1", "c", "new", "True");
        let goes = pod("d1", "d", "new", "True");
        let (create, delete) = plan(&set(json!({})), &nodes, vec![stays, goes]);
        assert_eq!((create, delete), (vec!["a".into(), "b".into()], vec!["d1".into()]));
    }

    #[test]
    fn an_update_replaces_as_many_as_may_be_unavailable() {
        let nodes = ["a", "b", "c"].map(|name| node(name, None));
        let old = |name: &str| pod(name, name, "old", "True");
        let (_, delete) = plan(&set(json!({})), &nodes, vec![old("a"), old("b"), old("c")]);
        assert_eq!(delete, ["a"]);
        let starting = pod("a", "a", "new", "False");
        let (_, delete) = plan(&set(json!({})), &nodes, vec![starting, old("b"), old("c")]);
        assert!(delete.is_empty(), "the first new one is not available yet: {delete:?}");
        let broken = pod("b", "b", "old", "False");
        let (_, delete) = plan(&set(json!({})), &nodes, vec![old("a"), broken, old("c")]);
        assert_eq!(delete, ["b"], "what serves nobody goes at once");
    }

    #[test]
    fn a_surging_update_makes_the_new_before_it_ends_the_old() {
        let surge = set(json!({"maxSurge": 1, "maxUnavailable": 0}));
        let nodes = ["a", "b"].map(|name| node(name, None));
        let old = |name: &str| pod(name, name, "old", "True");
        let (create, delete) = plan(&surge, &nodes, vec![old("a"), old("b")]);
        assert_eq!((create, delete), (vec!["a".to_owned()], vec![]));
        let new = |ready| pod("a-new", "a", "new", ready);
        let (create, delete) = plan(&surge, &nodes, vec![old("a"), new("False"), old("b")]);
        assert!(create.is_empty() && delete.is_empty());
        let (create, delete) = plan(&surge, &nodes, vec![old("a"), new("True"), old("b")]);
        assert_eq!((create, delete), (vec![], vec!["a".to_owned()]));
    }
}
