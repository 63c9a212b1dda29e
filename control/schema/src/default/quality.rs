//! A pod's quality of service class.

use std::collections::BTreeMap;

use bowline_api::quantity::Quantity;
use serde_json::Value;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed` if every container limits cpu and memory and requests the same, `BestEffort` if none says
/// anything about either, else `Burstable`. Pod-level resources, if given, decide alone.
pub(super) fn class(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = if spec.get("resources").is_some() {
        vec![spec]
    } else {
        ["initContainers", "containers"]
            .iter()
            .filter_map(|name| spec.get(*name)?.as_array())
            .flatten()
            .collect()
    };
    let mut any = false;
    let mut all = true;
    for container in containers {
        let requests = amounts(container, "requests");
        let limits = amounts(container, "limits");
        any |= !requests.is_empty() || !limits.is_empty();
        all &= limits.len() == COUNTED.len() && (requests.is_empty() || requests == limits);
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amounts(container: &Value, what: &str) -> BTreeMap<&'static str, Quantity> {
    let list = &container["resources"][what];
    let amount = |name: &&'static str| {
        let quantity: Quantity = list.get(*name)?.as_str()?.parse().ok()?;
        (!quantity.is_zero()).then_some((*name, quantity))
    };
    COUNTED.iter().filter_map(amount).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(class(&pod(json!({}))), "BestEffort");
        assert_eq!(class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(class(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "Guaranteed");
        let less = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(class(&pod(less)), "Burstable");
        assert_eq!(class(&pod(json!({"limits": {"example.com/gpu": "1"}}))), "BestEffort");
    }
}
