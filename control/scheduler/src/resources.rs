//! Amounts of resources: what a pod asks for, what a node has. Pure.

use std::collections::BTreeMap;

use bowline_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

type List = BTreeMap<String, Quantity>;

/// What a container that asks for nothing counts as in scores, so that such pods spread too.
const SCORE_MILLI_CPU: i64 = 100;
const SCORE_MEMORY: i64 = 200 * 1024 * 1024;

/// CPU in thousandths of a core, all else in whole units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) milli_cpu: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) others: BTreeMap<String, i64>,
}

impl Resources {
    fn of(list: Option<&List>) -> Self {
        let mut sum = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            // The API refuses what can't be parsed.
            let amount = quantity.0.parse::<Amount>().unwrap_or_default();
            match name.as_str() {
                "cpu" => sum.milli_cpu = amount.millis(),
                "memory" => sum.memory = amount.units(),
                "ephemeral-storage" => sum.storage = amount.units(),
                "pods" => {}
                other => {
                    sum.others.insert(other.to_owned(), amount.units());
                }
            }
        }
        sum
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.storage = self.storage.saturating_add(other.storage);
        for (name, amount) in &other.others {
            let sum = self.others.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.storage -= other.storage;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() -= amount;
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.others {
            let most = self.others.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

/// What the pod needs at the most demanding moment of its life: its containers together with the
/// sidecars, or one init container with the sidecars started before it; plus the overhead.
pub(crate) fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    demand(spec, |container| {
        Resources::of(container.resources.as_ref().and_then(|all| all.requests.as_ref()))
    })
}

/// As [`requests`], but every container counts for something in CPU and memory.
pub(crate) fn score_requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    demand(spec, |container| {
        let list = container.resources.as_ref().and_then(|all| all.requests.as_ref());
        let mut asked = Resources::of(list);
        let names = |name: &str| list.is_some_and(|list| list.contains_key(name));
        if !names("cpu") {
            asked.milli_cpu = SCORE_MILLI_CPU;
        }
        if !names("memory") {
            asked.memory = SCORE_MEMORY;
        }
        asked
    })
}

fn demand(spec: &PodSpec, asked: impl Fn(&Container) -> Resources) -> Resources {
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&asked(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = asked(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&now);
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        peak.raise_to(&now);
    }
    sum.raise_to(&peak);
    // Amounts asked for the pod as a whole replace the sum of its containers'.
    if let Some(list) = spec.resources.as_ref().and_then(|all| all.requests.as_ref()) {
        let whole = Resources::of(Some(list));
        if list.contains_key("cpu") {
            sum.milli_cpu = whole.milli_cpu;
        }
        if list.contains_key("memory") {
            sum.memory = whole.memory;
        }
    }
    sum.add(&Resources::of(spec.overhead.as_ref()));
    sum
}

/// What the node has for pods, and how many pods.
pub(crate) fn allocatable(node: &Node) -> (Resources, i64) {
    let status = node.status.as_ref();
    let list = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let pods = list.and_then(|list| list.get("pods"));
    let pods = pods.and_then(|quantity| quantity.0.parse::<Amount>().ok());
    (Resources::of(list), pods.map_or(0, Amount::units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": spec})).expect("a valid pod")
    }

    #[test]
    fn a_pod_needs_the_most_demanding_moment_of_its_life() {
        let cpu = |amount: &str| serde_json::json!({"requests": {"cpu": amount}});
        let pod = pod(serde_json::json!({
            "containers": [
                {"name": "a", "resources": cpu("100m")}, {"name": "b", "resources": cpu("200m")}],
            "initContainers": [
                {"name": "i", "resources": cpu("350m")},
                {"name": "s", "restartPolicy": "Always", "resources": cpu("1")},
                {"name": "j", "resources": cpu("250m")}],
            "overhead": {"cpu": "10m"}}));
        assert_eq!(requests(&pod).milli_cpu, 1310, "containers and sidecar outweigh init j");
    }

    #[test]
    fn a_large_init_container_decides_alone() {
        let pod = pod(serde_json::json!({
            "containers": [{"name": "a", "resources": {"requests": {"memory": "1Mi"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"memory": "1Gi"}}}]}));
        assert_eq!(requests(&pod).memory, 1 << 30);
        assert_eq!(score_requests(&pod).milli_cpu, SCORE_MILLI_CPU);
    }
}
