//! Validation with upstream's reasons, field paths and words.
//!
//! Objects have been normalised and defaulted, so types are right and absent fields are absent. Kinds
//! without rules of their own have their metadata validated.

mod config;
mod container;
mod cursor;
mod error;
mod immutable;
mod meta;
mod network;
mod node;
mod placement;
mod pod;
mod policy;
mod probe;
mod rbac;
mod storage;
mod volume;
mod workload;

use serde_json::Value;

use crate::Gvk;
use cursor::{Cursor, Errors};

pub use error::{FieldError, Reason};

/// Checks an object that is to be created.
pub fn create(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Cursor::root(object);
    meta::object(gvk, &root, &mut errors);
    kind(gvk, &root, &mut errors);
    if is_core(gvk, "Pod") {
        pod::create(&root, &mut errors);
    }
    errors.into_list()
}

/// Checks an update of the main resource: `new` on its own, and what may not change from `old`.
pub fn update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Cursor::root(new);
    meta::object(gvk, &root, &mut errors);
    meta::update(&root, old, &mut errors);
    // An object that is going away only loses finalizers: rules that came after it don't hold it.
    let going = old.pointer("/metadata/deletionTimestamp").is_some();
    let same = |field: &str| new.get(field) == old.get(field);
    if !(going && same("spec")) {
        kind(gvk, &root, &mut errors);
    }
    immutable::check(gvk, &root, &Cursor::root(old), &mut errors);
    errors.into_list()
}

/// Checks an update of the status subresource. Statuses are written by controllers; only what would break
/// readers is refused.
pub fn update_status(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Cursor::root(new);
    meta::object(gvk, &root, &mut errors);
    meta::update(&root, old, &mut errors);
    if matches!(gvk.group.as_str(), "apps" | "batch") {
        let status = root.field("status");
        for name in [
            "replicas",
            "readyReplicas",
            "availableReplicas",
            "updatedReplicas",
            "fullyLabeledReplicas",
            "observedGeneration",
            "active",
            "succeeded",
            "failed",
        ] {
            errors.not_negative(&status.field(name));
        }
    }
    errors.into_list()
}

/// Checks an update of a pod's `ephemeralcontainers` subresource: existing ones stay, new ones are valid.
pub fn update_ephemeral_containers(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Cursor::root(new);
    meta::update(&root, old, &mut errors);
    pod::ephemeral_containers(&root, &Cursor::root(old), &mut errors);
    errors.into_list()
}

fn is_core(gvk: &Gvk, kind: &str) -> bool {
    gvk.group.is_empty() && gvk.kind == kind
}

fn kind(gvk: &Gvk, root: &Cursor<'_>, errors: &mut Errors) {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::spec(&root.field("spec"), errors),
        ("", "PodTemplate") => pod::template(&root.field("template"), errors),
        ("", "ReplicationController") => workload::replication_controller(root, errors),
        ("", "Service") => network::service(root, errors),
        ("", "Endpoints") => network::endpoints(root, errors),
        ("", "ConfigMap") => config::config_map(root, errors),
        ("", "Secret") => config::secret(root, errors),
        ("", "Node") => node::node(root, errors),
        ("", "PersistentVolume") => storage::volume(root, errors),
        ("", "PersistentVolumeClaim") => storage::claim(&root.field("spec"), errors),
        ("", "ResourceQuota") => policy::quota(root, errors),
        ("", "LimitRange") => policy::limit_range(root, errors),
        ("apps", "Deployment") => workload::deployment(root, errors),
        ("apps", "ReplicaSet") => workload::replica_set(root, errors),
        ("apps", "DaemonSet") => workload::daemon_set(root, errors),
        ("apps", "StatefulSet") => workload::stateful_set(root, errors),
        ("batch", "Job") => workload::job::job(&root.field("spec"), errors),
        ("batch", "CronJob") => workload::job::cron_job(root, errors),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(root, errors),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(root, errors),
        ("networking.k8s.io", "Ingress") => network::ingress(root, errors),
        ("rbac.authorization.k8s.io", kind) => rbac::rbac(kind, root, errors),
        ("policy", "PodDisruptionBudget") => policy::disruption_budget(root, errors),
        ("autoscaling", "HorizontalPodAutoscaler") => policy::autoscaler(root, errors),
        ("autoscaling", "Scale") => {
            errors.not_negative(&root.field("spec").field("replicas"));
        }
        ("coordination.k8s.io", "Lease") => policy::lease(root, errors),
        ("scheduling.k8s.io", "PriorityClass") => policy::priority_class(root, errors),
        ("storage.k8s.io", "StorageClass") => storage::class(root, errors),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            policy::signing_request(root, errors);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
