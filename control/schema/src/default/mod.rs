//! The defaults that upstream's apiserver writes into objects.
//!
//! Where upstream's field is a plain Go string or number, an empty string or zero counts as unset, as it
//! can't tell them apart either.

mod fill;
mod network;
mod pod;
mod policy;
mod quality;
mod storage;
mod workload;

use serde_json::{Value, json};

use crate::Gvk;
use fill::{Object, object_at, value};

/// Fills the defaults of the kind in place. Idempotent; never changes a value that is set. What depends
/// on other objects (service addresses, tolerations, priority) is admission's task.
pub fn apply(gvk: &Gvk, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => {
            if let Some(spec) = object_at(object, "spec") {
                pod::spec(spec);
                pod::resources_from_limits(spec);
            }
        }
        ("", "PodTemplate") => pod::template(object),
        ("", "ReplicationController") => workload::replication_controller(object),
        ("", "Service") => network::service(object),
        ("", "Endpoints") => network::endpoints(object),
        ("", "Secret") => fill::text(object, "type", "Opaque"),
        ("", "Namespace") => storage::namespace(object),
        ("", "PersistentVolume") => storage::persistent_volume(object),
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim(object),
        ("", "LimitRange") => policy::limit_range(object),
        ("apps", "Deployment") => workload::deployment(object),
        ("apps", "DaemonSet") => workload::daemon_set(object),
        ("apps", "ReplicaSet") => workload::replica_set(object),
        ("apps", "StatefulSet") => workload::stateful_set(object),
        ("batch", "Job") => workload::job(object),
        ("batch", "CronJob") => workload::cron_job(object),
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler(gvk, object),
        ("rbac.authorization.k8s.io", kind) => policy::rbac(kind, object),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(object),
        ("networking.k8s.io", "Ingress") => network::ingress(object),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(object),
        ("scheduling.k8s.io", "PriorityClass") => {
            fill::text(object, "preemptionPolicy", "PreemptLowerPriority");
        }
        ("storage.k8s.io", "StorageClass") => storage::storage_class(object),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(object),
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::signing_request(object),
        ("authentication.k8s.io", "TokenRequest") => {
            if let Some(spec) = object_at(object, "spec") {
                value(spec, "expirationSeconds", 3600);
            }
        }
        ("admissionregistration.k8s.io", kind) => policy::admission(kind, object),
        _ => {}
    }
}

/// What a kind's storage strategy sets on creation, whatever the client sent: the first status, and a
/// namespace's finalizer. Not for updates, which must be able to remove them.
pub fn on_create(gvk: &Gvk, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    let phase = match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Namespace") => {
            if let Some(spec) = fill::object_made(object, "spec") {
                spec.insert("finalizers".into(), json!(["kubernetes"]));
            }
            json!({"phase": "Active"})
        }
        ("", "Pod") => {
            let qos = object.get("spec").map_or("BestEffort", quality::class);
            json!({"phase": "Pending", "qosClass": qos})
        }
        ("", "PersistentVolume" | "PersistentVolumeClaim") => json!({"phase": "Pending"}),
        _ => return,
    };
    object.insert("status".into(), phase);
}

/// The `metadata.labels` of a workload are its template's where it has none.
fn labels_from_template(object: &mut Object) {
    let labels = object.get("spec").and_then(|s| s.pointer("/template/metadata/labels")).cloned();
    let Some(labels) = labels else { return };
    if let Some(metadata) = object_at(object, "metadata") {
        value(metadata, "labels", labels);
    }
}

#[cfg(test)]
mod tests;
