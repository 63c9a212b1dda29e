//! What a kubelet may do because of its node: itself, the pods that are on it, and what these refer
//! to (the Node authorizer of Kubernetes). What needs no look at the state is in the ClusterRole
//! `system:node`; what a write may contain, NodeRestriction says (`admission`).

use serde_json::Value;

use super::Attributes;
use crate::cache::Cache;
use crate::kinds;
use crate::object::{items, text};

/// Namespace of the nodes' heartbeats.
const LEASES: &str = "kube-node-lease";

pub(super) fn allows(cache: &Cache, node: &str, wanted: &Attributes) -> bool {
    let Attributes { verb, name, namespace, .. } = wanted;
    let reads = matches!(verb.as_str(), "get" | "list" | "watch");
    let writes = matches!(verb.as_str(), "update" | "patch");
    let itself = name == node;
    let of = (wanted.group.as_str(), wanted.resource.as_str(), wanted.subresource.as_str());
    match of {
        ("", "nodes", "") => itself && (reads || writes),
        ("", "nodes", "status") => itself && writes,
        ("", "pods", "") if name.is_empty() => reads && wanted.node == node,
        ("", "pods", "") => reads && is_on(cache, node, namespace, name),
        ("", "secrets" | "configmaps", "") => {
            reads && !name.is_empty() && needs(cache, node, namespace, of.1, name)
        }
        ("", "persistentvolumeclaims", "") => {
            verb == "get" && needs(cache, node, namespace, of.1, name)
        }
        ("", "persistentvolumes", "") => verb == "get" && needs_volume(cache, node, name),
        ("coordination.k8s.io", "leases", "") => {
            namespace == LEASES && itself && (verb == "get" || verb == "delete" || writes)
        }
        ("storage.k8s.io", "csinodes", "") => itself && (verb == "get" || writes),
        _ => false,
    }
}

fn is_on(cache: &Cache, node: &str, namespace: &str, name: &str) -> bool {
    let key = format!("{}{namespace}/{name}", kinds::prefix("", "pods"));
    cache.get(&key).is_some_and(|pod| pod.field("spec.nodeName") == node)
}

/// Whether a pod of the namespace that is on the node refers to the object.
fn needs(cache: &Cache, node: &str, namespace: &str, resource: &str, name: &str) -> bool {
    let prefix = format!("{}{namespace}/", kinds::prefix("", "pods"));
    let own = cache.list(&prefix, None, |pod| pod.field("spec.nodeName") == node).entries;
    own.iter().any(|pod| {
        let pod = pod.value();
        // A claim made for one pod has the pod's name before the volume's.
        let prefix = format!("{}-", text(&pod, "/metadata/name"));
        refers(pod.get("spec").unwrap_or(&Value::Null), &mut |of, named| match of {
            EPHEMERAL => resource == CLAIMS && name.strip_prefix(prefix.as_str()) == Some(named),
            of => of == resource && named == name,
        })
    })
}

fn needs_volume(cache: &Cache, node: &str, name: &str) -> bool {
    let key = format!("{}{name}", kinds::prefix("", "persistentvolumes"));
    let Some(volume) = cache.get(&key).map(|volume| volume.value()) else { return false };
    let claim = |part: &str| text(&volume, &format!("/spec/claimRef/{part}")).to_owned();
    needs(cache, node, &claim("namespace"), CLAIMS, &claim("name"))
}

const CLAIMS: &str = "persistentvolumeclaims";
/// A volume whose claim is made for the pod; the name is the volume's.
const EPHEMERAL: &str = "ephemeral";

/// Whether `found` says yes to one of the objects that a part of a pod's spec names: its resource
/// and its name. (Maps that users fill freely hold text only, so that no key of theirs is taken for
/// a reference.)
pub(crate) fn refers(part: &Value, found: &mut dyn FnMut(&str, &str) -> bool) -> bool {
    if let Value::Array(list) = part {
        return list.iter().any(|one| refers(one, found));
    }
    let Value::Object(map) = part else { return false };
    map.iter().any(|(key, value)| {
        let of = match key.as_str() {
            "secretKeyRef" | "secretRef" | "secret" | "nodePublishSecretRef" => "secrets",
            "configMapKeyRef" | "configMapRef" | "configMap" => "configmaps",
            "persistentVolumeClaim" => CLAIMS,
            "imagePullSecrets" => {
                let mut names =
                    items(part, "/imagePullSecrets").iter().map(|one| text(one, "/name"));
                return names.any(|name| found("secrets", name));
            }
            "ephemeral" if value.is_object() => return found(EPHEMERAL, text(part, "/name")),
            _ => return refers(value, found),
        };
        let names = ["/name", "/secretName", "/claimName"].map(|pointer| text(value, pointer));
        names.into_iter().any(|name| !name.is_empty() && found(of, name))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_name_an_object_in_a_pod_is_seen() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "nodeSelector": {"secret": "no"},
            "initContainers": [{"env": [{"name": "secret", "valueFrom": {
                "secretKeyRef": {"name": "env", "key": "k"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "from"}},
                {"secretRef": {"name": "froms"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "vol"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "pro"}},
                    {"secret": {"name": "pros"}}]}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "d", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "e", "configMap": {"name": "map"}}],
        });
        let mut seen = Vec::new();
        refers(&spec, &mut |of, name| {
            seen.push(format!("{of}/{name}"));
            false
        });
        seen.sort();
        assert_eq!(
            seen,
            [
                "configmaps/from",
                "configmaps/map",
                "configmaps/pro",
                "ephemeral/d",
                "persistentvolumeclaims/data",
                "secrets/env",
                "secrets/froms",
                "secrets/pros",
                "secrets/pull",
                "secrets/vol"
            ]
        );
    }
}
