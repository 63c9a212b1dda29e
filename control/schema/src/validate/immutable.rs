//! What an update may not change.

use serde_json::{Map, Value};

use super::cursor::{Cursor, Errors};
use super::storage::NOT_SOURCES;
use crate::Gvk;

pub(super) fn check(gvk: &Gvk, new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    let (spec, old_spec) = (new.field("spec"), old.field("spec"));
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod(&spec, &old_spec, errors),
        ("", "Service") => service(&spec, &old_spec, errors),
        ("", "ConfigMap" | "Secret") => data(gvk, new, old, errors),
        ("", "PersistentVolumeClaim") => claim(&spec, &old_spec, errors),
        ("", "PersistentVolume") => volume(&spec, &old_spec, errors),
        ("", "Node") => node(&spec, &old_spec, errors),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => {
            errors.immutable(&spec.field("selector"), &old_spec.field("selector"));
        }
        ("apps", "StatefulSet") => stateful_set(&spec, &old_spec, errors),
        ("apps", "ControllerRevision") => errors.immutable(&new.field("data"), &old.field("data")),
        ("batch", "Job") => job(&spec, &old_spec, errors),
        ("discovery.k8s.io", "EndpointSlice") => {
            errors.immutable(&new.field("addressType"), &old.field("addressType"));
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding")
            if new.field("roleRef").value != old.field("roleRef").value =>
        {
            errors.invalid(&new.field("roleRef"), "cannot change roleRef");
        }
        ("scheduling.k8s.io", "PriorityClass") => {
            if new.field("value").value != old.field("value").value {
                errors.forbidden(&new.field("value"), "may not be changed in an update.");
            }
            errors.immutable(&new.field("preemptionPolicy"), &old.field("preemptionPolicy"));
        }
        ("storage.k8s.io", "StorageClass") => {
            for name in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
                let at = new.field(name);
                if at.value != old.field(name).value {
                    errors.forbidden(&at, &format!("updates to {name} are forbidden."));
                }
            }
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            for name in ["request", "signerName", "usages", "username", "groups", "uid", "extra"] {
                errors.immutable(&spec.field(name), &old_spec.field(name));
            }
        }
        ("networking.k8s.io", "IngressClass") => {
            errors.immutable(&spec.field("controller"), &old_spec.field("controller"));
        }
        _ => {}
    }
}

/// Both structures without the fields that may differ.
fn differ_beyond(new: &Cursor<'_>, old: &Cursor<'_>, free: &[&str]) -> bool {
    let rest = |at: &Cursor<'_>| -> Map<String, Value> {
        at.entries()
            .filter(|(n, _)| !free.contains(n))
            .map(|(n, v)| (n.into(), v.clone()))
            .collect()
    };
    rest(new) != rest(old)
}

const POD_FIELDS: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
     existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
     previously negative)";

fn pod(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    pod_deadline(new, old, errors);
    let (tolerations, before) = (new.field("tolerations"), old.field("tolerations"));
    for kept in before.items() {
        // The time that a toleration lasts may change.
        let same = |t: &Cursor<'_>| !differ_beyond(t, &kept, &["tolerationSeconds"]);
        if !tolerations.items().any(|t| same(&t)) {
            errors.forbidden(
                &tolerations,
                "existing toleration can not be modified except its tolerationSeconds",
            );
        }
    }
    let gated = old.field("schedulingGates");
    for gate in new.field("schedulingGates").items() {
        if !gated.items().any(|g| g.value == gate.value) {
            let detail = format!(
                "only deletion is allowed, but found new scheduling gate {}",
                gate.field("name").value
            );
            errors.forbidden(&gate, &detail);
        }
    }
    // While gated, a pod's placement may still be narrowed.
    let mut free = vec![
        "containers",
        "initContainers",
        "activeDeadlineSeconds",
        "tolerations",
        "schedulingGates",
    ];
    if gated.len() > 0 {
        free.extend(["nodeSelector", "affinity"]);
    }
    if old.field("terminationGracePeriodSeconds").number().is_some_and(|n| n < 0)
        && new.field("terminationGracePeriodSeconds").number() == Some(1)
    {
        free.push("terminationGracePeriodSeconds");
    }
    let containers_differ = ["containers", "initContainers"].iter().any(|list| {
        let (new, old) = (new.field(list), old.field(list));
        new.len() != old.len()
            || new.items().zip(old.items()).any(|(a, b)| differ_beyond(&a, &b, &["image"]))
    });
    if containers_differ || differ_beyond(new, old, &free) {
        errors.forbidden(new, POD_FIELDS);
    }
}

fn pod_deadline(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    let (now, before) = (new.field("activeDeadlineSeconds"), old.field("activeDeadlineSeconds"));
    match (now.number(), before.number()) {
        (None, Some(_)) => {
            errors.invalid(&now, "must not update from a positive integer to nil value");
        }
        (Some(n), Some(b)) if n > b => {
            errors.invalid(&now, format!("must be less than or equal to previous value {b}"));
        }
        _ => {}
    }
}

fn service(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    let external = |spec: &Cursor<'_>| spec.field("type").is("ExternalName");
    if external(new) || external(old) {
        return;
    }
    let (now, before) = (new.field("clusterIP"), old.field("clusterIP"));
    if before.is_set() && now.value != before.value {
        errors.invalid(&new.field("clusterIP"), "field is immutable");
    }
    let (first, was) = (new.field("clusterIPs"), old.field("clusterIPs"));
    if was.len() > 0 && first.len() > 0 && first.value[0] != was.value[0] {
        errors.invalid(
            &Cursor { path: format!("{}[0]", first.path), value: first.value },
            "may not change once set",
        );
    }
    let (families, were) = (new.field("ipFamilies"), old.field("ipFamilies"));
    if were.len() > 0 && families.len() > 0 && families.value[0] != were.value[0] {
        errors.invalid(
            &Cursor { path: format!("{}[0]", families.path), value: families.value },
            "may not change once set",
        );
    }
}

fn data(gvk: &Gvk, new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    if gvk.kind == "Secret" {
        errors.immutable(&new.field("type"), &old.field("type"));
    }
    if !old.field("immutable").is_true() {
        return;
    }
    for name in ["immutable", "data", "binaryData"] {
        if new.field(name).value != old.field(name).value {
            errors.forbidden(&new.field(name), "field is immutable when `immutable` is set");
        }
    }
}

const CLAIM_FIELDS: &str = "spec is immutable after creation except resources.requests and \
     volumeAttributesClassName for bound claims";

fn claim(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    let mut free = vec!["resources", "volumeAttributesClassName"];
    // Binding names the volume, once; a default class may be given later.
    for name in ["volumeName", "storageClassName"] {
        if !old.field(name).is_set() {
            free.push(name);
        }
    }
    if differ_beyond(new, old, &free) {
        errors.forbidden(new, CLAIM_FIELDS);
    }
    let storage = |spec: &Cursor<'_>| {
        let text = spec.field("resources").field("requests").key("storage").text().to_owned();
        text.parse::<bowline_api::quantity::Quantity>().ok()
    };
    if let (Some(now), Some(before)) = (storage(new), storage(old))
        && now < before
    {
        let at = new.field("resources").field("requests").field("storage");
        errors.forbidden(&at, "field can not be less than previous value");
    }
}

fn volume(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    if differ_beyond(new, old, &NOT_SOURCES) {
        errors.forbidden(new, "spec.persistentvolumesource is immutable after creation");
    }
}

fn node(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    for name in ["podCIDR", "podCIDRs", "providerID"] {
        let (now, before) = (new.field(name), old.field(name));
        let set = before.is_set() && (before.len() > 0 || before.value.is_string());
        if set && now.value != before.value {
            errors.forbidden(&now, "node updates may not change it once it is set");
        }
    }
}

fn stateful_set(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    let free = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    if differ_beyond(new, old, &free) {
        errors.forbidden(
            new,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden",
        );
    }
}

fn job(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    for name in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"] {
        errors.immutable(&new.field(name), &old.field(name));
    }
    // An indexed job may be resized as a whole.
    let resized = new.field("completionMode").is("Indexed")
        && new.field("completions").value == new.field("parallelism").value;
    if !resized {
        errors.immutable(&new.field("completions"), &old.field("completions"));
    }
    // A job that is suspended may be given another place before it starts.
    let (template, before) = (new.field("template"), old.field("template"));
    if !old.field("suspend").is_true() {
        errors.immutable(&template, &before);
    } else if differ_beyond(&template, &before, &["metadata", "spec"])
        || differ_beyond(
            &template.field("spec"),
            &before.field("spec"),
            &["nodeSelector", "affinity", "tolerations", "schedulingGates"],
        )
    {
        errors.invalid(&template, "field is immutable");
    }
}
