//! Which pods of a stateful set come and go. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::Pod;

use crate::deployment::{Round, scaled};
use crate::pods;
use crate::revisions::HASH;

/// The revisions by name: what was, and what is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revisions {
    pub(crate) current: String,
    pub(crate) update: String,
}

/// What to do in this pass.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Ordinal, and whether of the update revision.
    pub(crate) create: Vec<(i32, bool)>,
    pub(crate) delete: Vec<Arc<Pod>>,
}

/// `web-3` is the pod 3 of the set `web`.
pub(crate) fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    name.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

pub(crate) fn revision(pod: &Pod) -> &str {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH));
    label.map_or("", String::as_str)
}

/// The ordinals that the set wants.
pub(crate) fn ordinals(spec: &StatefulSetSpec) -> std::ops::Range<i32> {
    let start = spec.ordinals.as_ref().and_then(|one| one.start).unwrap_or(0);
    start..start + spec.replicas.unwrap_or(1).max(0)
}

pub(crate) struct View<'v> {
    pub(crate) set: &'v StatefulSet,
    pub(crate) spec: &'v StatefulSetSpec,
    pub(crate) pods: &'v BTreeMap<i32, Arc<Pod>>,
    pub(crate) revisions: &'v Revisions,
    pub(crate) now: Timestamp,
}

impl View<'_> {
    fn in_order(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        pods::is_active(pod) && pods::is_available(pod, min_ready, self.now)
    }

    fn rolling(&self) -> Option<(i32, i32)> {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|one| one.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|one| one.rolling_update.clone()).unwrap_or_default();
        let replicas = self.spec.replicas.unwrap_or(1);
        let unavailable = rolling.max_unavailable.as_ref();
        let unavailable = unavailable.map_or(1, |value| scaled(value, replicas, Round::Up));
        Some((rolling.partition.unwrap_or(0), unavailable.max(1)))
    }

    /// A missing pod below the partition, or one of those that the update has not reached, comes
    /// back as it was.
    fn is_new(&self, ordinal: i32) -> bool {
        if self.revisions.current == self.revisions.update {
            return true;
        }
        let start = ordinals(self.spec).start;
        match self.rolling() {
            None | Some((0, _)) => {
                let current = self.set.status.as_ref().and_then(|one| one.current_replicas);
                ordinal >= start + current.unwrap_or(0)
            }
            Some((partition, _)) => ordinal >= start + partition,
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let wanted = ordinals(self.spec);
        for ordinal in wanted.clone() {
            match self.pods.get(&ordinal) {
                None => plan.create.push((ordinal, self.is_new(ordinal))),
                Some(pod) if pods::is_ended(pod) => {
                    if pod.metadata.deletion_timestamp.is_none() {
                        plan.delete.push(Arc::clone(pod));
                    }
                }
                Some(pod) if self.is_available(pod) => continue,
                Some(_) => {}
            }
            if self.in_order() {
                // Each waits for the one before; an update must still be able to repair it.
                let stuck = plan.create.is_empty() && plan.delete.is_empty();
                if stuck {
                    self.plan_update(&mut plan);
                }
                return plan;
            }
        }
        let surplus = self.pods.iter().rev().filter(|(ordinal, _)| !wanted.contains(ordinal));
        for (_, pod) in surplus {
            if pod.metadata.deletion_timestamp.is_none() {
                plan.delete.push(Arc::clone(pod));
            }
            if self.in_order() {
                return plan;
            }
        }
        if plan.create.is_empty() && plan.delete.is_empty() {
            self.plan_update(&mut plan);
        }
        plan
    }

    /// Replaces pods of an old revision, highest ordinal first, while few enough are unavailable.
    fn plan_update(&self, plan: &mut Plan) {
        let Some((partition, max_unavailable)) = self.rolling() else { return };
        let wanted = ordinals(self.spec);
        let lowest = wanted.start + partition;
        let mut unavailable = 0;
        for ordinal in (lowest..wanted.end).rev() {
            let Some(pod) = self.pods.get(&ordinal) else { return };
            let leaving = pod.metadata.deletion_timestamp.is_some();
            if !leaving && revision(pod) != self.revisions.update {
                plan.delete.push(Arc::clone(pod));
                unavailable += 1;
            } else if !self.is_available(pod) {
                unavailable += 1;
            }
            if unavailable >= max_unavailable {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(replicas: i32, policy: &str, partition: i32) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {
            "replicas": replicas, "podManagementPolicy": policy, "selector": {},
            "serviceName": "db", "template": {},
            "updateStrategy": {"rollingUpdate": {"partition": partition}}}}))
        .expect("a valid set")
    }

    fn pods(states: &[(i32, &str, &str)]) -> BTreeMap<i32, Arc<Pod>> {
        let pod = |(ordinal, revision, ready): &(i32, &str, &str)| {
            let pod = json!({
                "metadata": {"name": format!("db-{ordinal}"), "labels": {HASH: revision}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
            (*ordinal, Arc::new(serde_json::from_value(pod).expect("a valid pod")))
        };
        states.iter().map(pod).collect()
    }

    fn plan(set: &StatefulSet, pods: &BTreeMap<i32, Arc<Pod>>) -> (Vec<i32>, Vec<i32>) {
        let revisions = Revisions { current: "old".into(), update: "new".into() };
        let spec = set.spec.as_ref().expect("spec");
        let now = Timestamp::UNIX_EPOCH;
        let plan = View { set, spec, pods, revisions: &revisions, now }.plan();
        let deleted = plan.delete.iter().filter_map(|pod| ordinal("db", pod));
        (plan.create.iter().map(|(ordinal, _)| *ordinal).collect(), deleted.collect())
    }

    const READY: &str = "True";

    #[test]
    fn pods_come_one_after_the_other_and_all_at_once_in_parallel() {
        let ordered = set(3, "OrderedReady", 0);
        assert_eq!(plan(&ordered, &pods(&[])), (vec![0], vec![]));
        assert_eq!(plan(&ordered, &pods(&[(0, "new", "False")])), (vec![], vec![]));
        assert_eq!(plan(&ordered, &pods(&[(0, "new", READY)])), (vec![1], vec![]));
        assert_eq!(plan(&set(3, "Parallel", 0), &pods(&[])), (vec![0, 1, 2], vec![]));
    }

    #[test]
    fn the_highest_goes_first_and_alone() {
        let all = pods(&[(0, "new", READY), (1, "new", READY), (2, "new", READY)]);
        assert_eq!(plan(&set(1, "OrderedReady", 0), &all), (vec![], vec![2]));
        assert_eq!(plan(&set(1, "Parallel", 0), &all), (vec![], vec![2, 1]));
    }

    #[test]
    fn an_update_goes_from_the_top_down_to_the_partition() {
        let all = pods(&[(0, "old", READY), (1, "old", READY), (2, "old", READY)]);
        assert_eq!(plan(&set(3, "OrderedReady", 0), &all), (vec![], vec![2]));
        let waiting = pods(&[(0, "old", READY), (1, "old", READY), (2, "new", "False")]);
        assert_eq!(plan(&set(3, "OrderedReady", 0), &waiting), (vec![], vec![]));
        let next = pods(&[(0, "old", READY), (1, "old", READY), (2, "new", READY)]);
        assert_eq!(plan(&set(3, "OrderedReady", 0), &next), (vec![], vec![1]));
        assert_eq!(plan(&set(3, "OrderedReady", 2), &next), (vec![], vec![]));
    }

    #[test]
    fn a_broken_pod_of_an_old_revision_is_repaired_by_the_update() {
        let broken = pods(&[(0, "old", "False")]);
        assert_eq!(plan(&set(1, "OrderedReady", 0), &broken), (vec![], vec![0]));
    }
}
