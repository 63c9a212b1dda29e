//! A kubelet touches only its own node and the pods on it (NodeRestriction).

use serde_json::Value;

use crate::authz::refers;
use crate::object::{self, text};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

/// Labels under these that a kubelet may set on its node itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
];
const RESERVED: &str = "node-restriction.kubernetes.io/";

pub(super) fn restrict(call: &Call, old: Option<&Value>, new: &Value) -> ApiResult<()> {
    let Some(node) = call.user.node() else { return Ok(()) };
    match call.kind.kind.as_str() {
        "Node" => restrict_node(call, node, old, new),
        "Pod" => restrict_pod(call, node, old, new),
        "Lease" => restrict_lease(call, node, new),
        _ => Ok(()),
    }
}

fn refuse(call: &Call, object: &Value, why: &str) -> ApiError {
    ApiError::refused(&call.kind, object, why)
}

fn restrict_lease(call: &Call, node: &str, new: &Value) -> ApiResult<()> {
    if call.target.namespace == "kube-node-lease" && object::name(new) == node {
        return Ok(());
    }
    let why = "can only access node lease with the same name as the requesting node";
    Err(refuse(call, new, why))
}

fn restrict_node(call: &Call, node: &str, old: Option<&Value>, new: &Value) -> ApiResult<()> {
    if object::name(new) != node {
        let why =
            format!("node \"{node}\" is not allowed to modify node \"{}\"", object::name(new));
        return Err(refuse(call, new, &why));
    }
    if old.is_some_and(|old| {
        call.target.subresource.is_empty()
            && old.pointer("/spec/taints") != new.pointer("/spec/taints")
    }) {
        let why = format!("node \"{node}\" is not allowed to modify taints");
        return Err(refuse(call, new, &why));
    }
    let owners = |object: &Value| object.pointer("/metadata/ownerReferences").cloned();
    if old.is_some_and(|old| owners(old) != owners(new)) {
        let why = format!("node \"{node}\" is not allowed to modify ownerReferences");
        return Err(refuse(call, new, &why));
    }
    let labels = |object: Option<&Value>| {
        object.and_then(|o| o.pointer("/metadata/labels")).and_then(Value::as_object).cloned()
    };
    let (before, after) = (labels(old).unwrap_or_default(), labels(Some(new)).unwrap_or_default());
    let names = before.keys().chain(after.keys());
    let changed = names.filter(|name| before.get(*name) != after.get(*name));
    for name in changed {
        let domain = name.split('/').next().unwrap_or_default();
        let reserved = domain.ends_with("kubernetes.io") || domain.ends_with("k8s.io");
        let open = OWN_LABELS.contains(&name.as_str())
            || domain == "kubelet.kubernetes.io"
            || domain == "node.kubernetes.io"
            || domain.starts_with("beta.kubernetes.io");
        if name.starts_with(RESERVED) || (reserved && !open) {
            let why = format!("is not allowed to modify labels: {name}");
            return Err(refuse(call, new, &why));
        }
    }
    Ok(())
}

fn restrict_pod(call: &Call, node: &str, old: Option<&Value>, new: &Value) -> ApiResult<()> {
    let place = text(old.unwrap_or(new), "/spec/nodeName");
    if place != node {
        let why = format!("node \"{node}\" can only act on pods with spec.nodeName set to itself");
        return Err(refuse(call, new, &why));
    }
    // A pod becomes a service's backend by its labels.
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned();
    if old.is_some_and(|old| labels(old) != labels(new)) {
        let why = format!("node \"{node}\" cannot update labels through pod status");
        return Err(refuse(call, new, &why));
    }
    let mirror = new.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
    if old.is_none() && !mirror {
        let why = format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can \
             only create mirror pods"
        );
        return Err(refuse(call, new, &why));
    }
    // Else a kubelet could make itself a pod that lets it read what the reference names.
    if old.is_none() && refers(new.get("spec").unwrap_or(&Value::Null), &mut |_, _| true) {
        let why = format!(
            "node \"{node}\" can not create pods that reference secrets, configmaps or \
             persistentvolumeclaims"
        );
        return Err(refuse(call, new, &why));
    }
    Ok(())
}
