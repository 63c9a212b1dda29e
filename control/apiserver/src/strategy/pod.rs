//! Pods are deleted with grace, and have a quality of service.

use bowline_api::quantity::Quantity;
use serde_json::{Value, json};

use super::Strategy;
use crate::authn::User;
use crate::object::{self, child, items, text};

pub(crate) struct Pod;

impl Strategy for Pod {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        let class = qos_class(object);
        object["status"] = json!({"phase": "Pending", "qosClass": class});
    }

    fn deletion_grace(&self, object: &Value, requested: Option<u64>) -> Option<u64> {
        let phase = text(object, "/status/phase");
        // Nothing runs yet, or any more: there is nothing to wait for.
        if text(object, "/spec/nodeName").is_empty() || phase == "Failed" || phase == "Succeeded" {
            return None;
        }
        let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
        let seconds = requested.or(own).unwrap_or(30);
        // A mirror pod shows what the kubelet runs from a file; deleting it stops nothing.
        let mirror = object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
        (seconds > 0 && !mirror).then_some(seconds)
    }

    fn prepare_update(&self, old: &Value, new: &mut Value) {
        // Containers of a running pod are added through a subresource of their own.
        let before = old.pointer("/spec/ephemeralContainers").cloned();
        let spec = child(new, "spec");
        match before {
            Some(list) => spec.insert("ephemeralContainers".into(), list),
            None => spec.remove("ephemeralContainers"),
        };
    }
}

/// Guaranteed, Burstable or BestEffort, by the requests and limits of cpu and memory.
fn qos_class(pod: &Value) -> &'static str {
    let containers = items(pod, "/spec/containers").iter();
    let containers = containers.chain(items(pod, "/spec/initContainers"));
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |kind: &str| {
                let text = text(container, &format!("/resources/{kind}/{resource}"));
                text.parse::<Quantity>().ok().filter(|q| !q.is_zero())
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Whether the pod has come to its end.
pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Failed" | "Succeeded")
}

/// Whether the pod counts as ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let mut conditions = items(pod, "/status/conditions").iter();
    !object::is_deleting(pod)
        && conditions.any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}
