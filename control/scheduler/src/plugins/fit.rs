//! Room on the node: CPU, memory, storage, other resources and the number of pods. Emptier and
//! more evenly used nodes are better.

use super::{Judge, Rejection};
use crate::snapshot::{NodeInfo, PodInfo};

pub(crate) struct Fit<'a> {
    pod: &'a PodInfo,
}

impl<'a> Fit<'a> {
    pub(crate) fn new(pod: &'a PodInfo) -> Self {
        Self { pod }
    }
}

impl Judge for Fit<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let (wants, has, used) = (&self.pod.requests, &node.allocatable, &node.requested);
        let mut reasons = Vec::new();
        let mut possible = true;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.max_pods {
            reasons.push("Too many pods".to_owned());
        }
        let mut check = |name: &str, wants: i64, has: i64, used: i64| {
            // A resource that the pod doesn't ask for is never short.
            if wants > 0 && wants > has - used {
                reasons.push(format!("Insufficient {name}"));
                possible &= wants <= has;
            }
        };
        check("cpu", wants.milli_cpu, has.milli_cpu, used.milli_cpu);
        check("memory", wants.memory, has.memory, used.memory);
        check("ephemeral-storage", wants.storage, has.storage, used.storage);
        for (name, amount) in &wants.others {
            let of =
                |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
            check(name, *amount, of(&has.others), of(&used.others));
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let rejection = Rejection::resolvable(reasons);
        Err(Rejection { resolvable: possible, ..rejection })
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let (wants, used) = (&self.pod.score_requests, &node.score_requested);
        let has = &node.allocatable;
        let share = |wants: i64, used: i64, has: i64| {
            if has <= 0 { 1.0 } else { ((wants + used) as f64 / has as f64).min(1.0) }
        };
        let cpu = share(wants.milli_cpu, used.milli_cpu, has.milli_cpu);
        let memory = share(wants.memory, used.memory, has.memory);
        let free = 1.0 - f64::midpoint(cpu, memory);
        let even = 1.0 - (cpu - memory).abs() / 2.0;
        ((free + even) * 50.0) as i64
    }

    fn weight(&self) -> i64 {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod};
    use super::*;

    #[test]
    fn every_short_resource_is_named() {
        let mut info = node("a", serde_json::json!({"cpu": "1", "memory": "1Gi", "pods": "1"}));
        info.add(pod("old", serde_json::json!({"cpu": "600m", "memory": "1Mi"})).into());
        let wants = pod("new", serde_json::json!({"cpu": "500m", "example.com/gpu": "1"}));
        let rejection = Fit::new(&wants).filter(&info).expect_err("it can't fit");
        assert_eq!(
            rejection.reasons,
            ["Too many pods", "Insufficient cpu", "Insufficient example.com/gpu"]
        );
        assert!(!rejection.resolvable, "the node never has a gpu, whoever leaves");
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_a_full_node() {
        let mut info = node("a", serde_json::json!({"cpu": "1", "pods": "9"}));
        info.add(pod("old", serde_json::json!({"cpu": "1"})).into());
        assert!(Fit::new(&pod("new", serde_json::json!({}))).filter(&info).is_ok());
        let wants = pod("new", serde_json::json!({"cpu": "1m"}));
        assert!(Fit::new(&wants).filter(&info).expect_err("full").resolvable);
    }

    #[test]
    fn emptier_nodes_score_higher() {
        let room = serde_json::json!({"cpu": "4", "memory": "4Gi", "pods": "9"});
        let (empty, mut used) = (node("a", room.clone()), node("b", room));
        used.add(pod("old", serde_json::json!({})).into());
        let wants = pod("new", serde_json::json!({}));
        let judge = Fit::new(&wants);
        assert!(judge.score(&empty) > judge.score(&used), "pods without requests count too");
    }
}
