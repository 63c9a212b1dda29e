//! Deployments, replica sets, daemon sets, stateful sets, jobs.

use serde_json::json;

use super::fill::{Object, each, is, object_at, object_made, text, value};
use super::labels_from_template;
use super::{pod, storage};

pub(super) fn deployment(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    pod::template(spec);
    value(spec, "replicas", 1);
    value(spec, "revisionHistoryLimit", 10);
    value(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object_made(spec, "strategy") {
        text(strategy, "type", "RollingUpdate");
        if is(strategy, "type", "RollingUpdate")
            && let Some(rolling) = object_made(strategy, "rollingUpdate")
        {
            value(rolling, "maxUnavailable", "25%");
            value(rolling, "maxSurge", "25%");
        }
    }
}

pub(super) fn replica_set(object: &mut Object) {
    if let Some(spec) = object_at(object, "spec") {
        pod::template(spec);
        value(spec, "replicas", 1);
    }
}

pub(super) fn replication_controller(object: &mut Object) {
    labels_from_template(object);
    let Some(spec) = object_at(object, "spec") else { return };
    pod::template(spec);
    value(spec, "replicas", 1);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels {
        value(spec, "selector", labels);
    }
}

pub(super) fn daemon_set(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    pod::template(spec);
    value(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object_made(spec, "updateStrategy") {
        text(strategy, "type", "RollingUpdate");
        if is(strategy, "type", "RollingUpdate")
            && let Some(rolling) = object_made(strategy, "rollingUpdate")
        {
            value(rolling, "maxUnavailable", 1);
            value(rolling, "maxSurge", 0);
        }
    }
}

pub(super) fn stateful_set(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    pod::template(spec);
    value(spec, "replicas", 1);
    value(spec, "revisionHistoryLimit", 10);
    text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = object_made(spec, "updateStrategy") {
        text(strategy, "type", "RollingUpdate");
        if is(strategy, "type", "RollingUpdate")
            && let Some(rolling) = object_made(strategy, "rollingUpdate")
        {
            value(rolling, "partition", 0);
        }
    }
    if let Some(policy) = object_made(spec, "persistentVolumeClaimRetentionPolicy") {
        text(policy, "whenDeleted", "Retain");
        text(policy, "whenScaled", "Retain");
    }
    for claim in each(spec, "volumeClaimTemplates") {
        text(claim, "apiVersion", "v1");
        text(claim, "kind", "PersistentVolumeClaim");
        storage::persistent_volume_claim(claim);
    }
}

pub(super) fn job(object: &mut Object) {
    labels_from_template(object);
    if let Some(spec) = object_at(object, "spec") {
        job_spec(spec);
    }
}

fn job_spec(spec: &mut Object) {
    pod::template(spec);
    let indexed = is(spec, "completionMode", "Indexed");
    // Without both, one completion by one pod; a work queue sets parallelism alone.
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".into(), json!(1));
        spec.insert("parallelism".into(), json!(1));
    }
    value(spec, "parallelism", 1);
    let per_index = spec.contains_key("backoffLimitPerIndex");
    value(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    if !indexed {
        text(spec, "completionMode", "NonIndexed");
    }
    value(spec, "suspend", false);
    let failure_policy = spec.contains_key("podFailurePolicy");
    let replacement = if failure_policy { "Failed" } else { "TerminatingOrFailed" };
    value(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = object_at(spec, "podFailurePolicy") {
        for rule in each(policy, "rules") {
            for pattern in each(rule, "onPodConditions") {
                text(pattern, "status", "True");
            }
        }
    }
}

pub(super) fn cron_job(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    text(spec, "concurrencyPolicy", "Allow");
    value(spec, "suspend", false);
    value(spec, "successfulJobsHistoryLimit", 3);
    value(spec, "failedJobsHistoryLimit", 1);
    // The job's own defaults are filled when the job is made; its pod's are shown at once.
    if let Some(spec) = object_at(spec, "jobTemplate").and_then(|t| object_at(t, "spec")) {
        pod::template(spec);
    }
}
