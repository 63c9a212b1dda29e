//! Kinds that are served in two versions and stored in one.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::object::{self, as_map, child, text};

/// From the store's version to the one that the request is in.
pub(crate) fn from_storage(kind: &Kind, object: &mut Value) {
    if !kind.converts() {
        return;
    }
    match kind.kind.as_str() {
        "Event" => rename(object, EVENT_FIELDS, |core, modern| (core, modern)),
        "HorizontalPodAutoscaler" => autoscaler_to_v1(object),
        _ => {}
    }
    stamp(object, &kind.api_version());
}

/// From the request's version to the store's.
pub(crate) fn to_storage(kind: &Kind, object: &mut Value) {
    if !kind.converts() {
        return;
    }
    match kind.kind.as_str() {
        "Event" => rename(object, EVENT_FIELDS, |core, modern| (modern, core)),
        "HorizontalPodAutoscaler" => autoscaler_to_v2(object),
        _ => {}
    }
    stamp(object, &kind.storage.api_version());
}

fn stamp(object: &mut Value, api_version: &str) {
    as_map(object).insert("apiVersion".into(), api_version.into());
}

/// Names in core/v1 and in events.k8s.io/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
    ("reportingComponent", "reportingController"),
];

fn rename(
    object: &mut Value,
    names: &[(&'static str, &'static str)],
    order: impl Fn(&'static str, &'static str) -> (&'static str, &'static str),
) {
    let map = as_map(object);
    for (core, modern) in names {
        let (from, to) = order(core, modern);
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

/// Holds, in v1, what v1 has no field for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Whether a v2 metric is the one that v1 knows: cpu as a share of the request.
fn is_cpu(metric: &Value) -> bool {
    text(metric, "/type") == "Resource"
        && text(metric, "/resource/name") == "cpu"
        && metric.pointer("/resource/target/averageUtilization").is_some()
}

fn autoscaler_to_v1(object: &mut Value) {
    let spec = child(object, "spec");
    let metrics = spec.remove("metrics").unwrap_or_default();
    let behavior = spec.remove("behavior");
    let mut others = Vec::new();
    for metric in metrics.as_array().into_iter().flatten() {
        match metric.pointer("/resource/target/averageUtilization") {
            Some(share) if is_cpu(metric) => {
                spec.insert("targetCPUUtilizationPercentage".into(), share.clone());
            }
            _ => others.push(metric.clone()),
        }
    }
    let mut notes = Map::new();
    if !others.is_empty() {
        notes.insert(METRICS.into(), Value::Array(others).to_string().into());
    }
    if let Some(behavior) = behavior {
        notes.insert(BEHAVIOR.into(), behavior.to_string().into());
    }
    if object.get("status").is_some() {
        let status = child(object, "status");
        if let Some(conditions) = status.remove("conditions") {
            notes.insert(CONDITIONS.into(), conditions.to_string().into());
        }
        let current = status.remove("currentMetrics").unwrap_or_default();
        let share = current
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|metric| metric.pointer("/resource/current/averageUtilization").cloned());
        if let Some(share) = share {
            status.insert("currentCPUUtilizationPercentage".into(), share);
        }
    }
    if !notes.is_empty() {
        let metadata = object::metadata(object);
        as_map(metadata.entry("annotations").or_insert(Value::Null)).extend(notes);
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    let mut note = |name: &str| -> Option<Value> {
        let annotations = object::metadata(object).get_mut("annotations")?.as_object_mut()?;
        serde_json::from_str(annotations.remove(name)?.as_str()?).ok()
    };
    let (metrics, behavior, conditions) = (note(METRICS), note(BEHAVIOR), note(CONDITIONS));
    let spec = child(object, "spec");
    let mut list = match metrics {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if let Some(share) = spec.remove("targetCPUUtilizationPercentage") {
        list.push(json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": share}}}));
    }
    if !list.is_empty() {
        spec.insert("metrics".into(), Value::Array(list));
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".into(), behavior);
    }
    if object.get("status").is_some() {
        let status = child(object, "status");
        status.remove("currentCPUUtilizationPercentage");
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}
