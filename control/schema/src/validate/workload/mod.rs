//! Deployments and sets.

pub(super) mod job;

use bowline_api::selector::LabelSelector;
use serde_json::Value;

use super::cursor::{Cursor, Errors};
use super::{meta, pod, storage};

pub(super) fn deployment(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    errors.not_negative(&spec.field("replicas"));
    selector_and_template(&spec, "deployment", errors);
    always_restarts(&spec, errors);
    let (ready, deadline) = (spec.field("minReadySeconds"), spec.field("progressDeadlineSeconds"));
    errors.not_negative(&ready);
    errors.not_negative(&spec.field("revisionHistoryLimit"));
    errors.not_negative(&deadline);
    if deadline.number().is_some_and(|d| d <= ready.number().unwrap_or_default()) {
        errors.invalid(&deadline, "must be greater than minReadySeconds");
    }
    let strategy = spec.field("strategy");
    let rolling = strategy.field("rollingUpdate");
    errors.require_one_of(&strategy.field("type"), &["Recreate", "RollingUpdate"]);
    if strategy.field("type").is("Recreate") && !rolling.value.is_null() {
        errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
    } else if strategy.field("type").is("RollingUpdate") {
        rolling_update(&rolling, errors);
    }
}

/// `maxSurge` and `maxUnavailable`: counts or percentages, not both zero.
fn rolling_update(rolling: &Cursor<'_>, errors: &mut Errors) {
    let (surge, unavailable) = (rolling.field("maxSurge"), rolling.field("maxUnavailable"));
    count_or_percent(&surge, errors);
    count_or_percent(&unavailable, errors);
    if is_zero(&surge) && is_zero(&unavailable) {
        errors.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
    }
    at_most_all(&unavailable, errors);
}

pub(super) fn count_or_percent(at: &Cursor<'_>, errors: &mut Errors) {
    match at.value {
        Value::Number(_) => errors.not_negative(at),
        Value::String(text) if percent(text).is_none() => errors.invalid(
            at,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', \
             or '93%', regex used for validation is '[0-9]+%')",
        ),
        _ => {}
    }
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn is_zero(at: &Cursor<'_>) -> bool {
    match at.value {
        Value::String(text) => percent(text) == Some(0),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

pub(super) fn at_most_all(at: &Cursor<'_>, errors: &mut Errors) {
    if at.value.as_str().and_then(percent).is_some_and(|p| p > 100) {
        errors.invalid(at, "must not be greater than 100%");
    }
}

/// A selector that is there, selects something, and selects the pods of the template.
fn selector_and_template(spec: &Cursor<'_>, kind: &str, errors: &mut Errors) {
    let selector = spec.field("selector");
    let template = spec.field("template");
    if selector.value.is_null() {
        errors.required(&selector, "");
    } else {
        meta::selector(&selector, errors);
        if meta::selects_all(&selector) {
            errors.invalid(&selector, format!("empty selector is invalid for {kind}"));
        }
    }
    let labels = template.field("metadata").field("labels");
    let matches = serde_json::from_value(selector.value.clone())
        .ok()
        .and_then(|object| LabelSelector::from_object(&object))
        .is_none_or(|selector| selector.matches(&labels.labels()));
    if !selector.value.is_null() && !meta::selects_all(&selector) && !matches {
        let empty = Value::Object(serde_json::Map::new());
        let shown = if labels.value.is_null() { &empty } else { labels.value };
        let shown = Cursor { path: labels.path.clone(), value: shown };
        errors.invalid(&shown, "`selector` does not match template `labels`");
    }
    pod::template(&template, errors);
}

/// Pods that are kept running can't stay ended.
fn always_restarts(spec: &Cursor<'_>, errors: &mut Errors) {
    let pod = spec.field("template").field("spec");
    errors.one_of(&pod.field("restartPolicy"), &["Always"]);
    let deadline = pod.field("activeDeadlineSeconds");
    if !deadline.value.is_null() {
        errors
            .forbidden(&deadline, "activeDeadlineSeconds in a pod template is not Supported here");
    }
}

pub(super) fn replica_set(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    errors.not_negative(&spec.field("replicas"));
    errors.not_negative(&spec.field("minReadySeconds"));
    selector_and_template(&spec, "replica set", errors);
    always_restarts(&spec, errors);
}

pub(super) fn replication_controller(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    errors.not_negative(&spec.field("replicas"));
    errors.not_negative(&spec.field("minReadySeconds"));
    let (selector, template) = (spec.field("selector"), spec.field("template"));
    if selector.len() == 0 {
        errors.required(&selector, "");
    }
    if template.value.is_null() {
        errors.required(&template, "");
        return;
    }
    let labels = template.field("metadata").field("labels");
    if selector.entries().any(|(key, value)| labels.value.get(key) != Some(value)) {
        errors.invalid(&labels, "`selector` does not match template `labels`");
    }
    pod::template(&template, errors);
    always_restarts(&spec, errors);
}

pub(super) fn daemon_set(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    selector_and_template(&spec, "daemonset", errors);
    always_restarts(&spec, errors);
    errors.not_negative(&spec.field("minReadySeconds"));
    errors.not_negative(&spec.field("revisionHistoryLimit"));
    let strategy = spec.field("updateStrategy");
    errors.require_one_of(&strategy.field("type"), &["OnDelete", "RollingUpdate"]);
    let rolling = strategy.field("rollingUpdate");
    if rolling.value.is_null() {
        return;
    }
    let (surge, unavailable) = (rolling.field("maxSurge"), rolling.field("maxUnavailable"));
    count_or_percent(&surge, errors);
    count_or_percent(&unavailable, errors);
    at_most_all(&unavailable, errors);
    at_most_all(&surge, errors);
    match (is_zero(&surge), is_zero(&unavailable)) {
        (true, true) => errors.required(&unavailable, "cannot be 0 when maxSurge is 0"),
        (false, false) if !surge.value.is_null() => {
            errors.invalid(&surge, "may not be set when maxUnavailable is non-zero");
        }
        _ => {}
    }
}

pub(super) fn stateful_set(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    errors.require_one_of(&spec.field("podManagementPolicy"), &["OrderedReady", "Parallel"]);
    let strategy = spec.field("updateStrategy");
    errors.require_one_of(&strategy.field("type"), &["OnDelete", "RollingUpdate"]);
    let rolling = strategy.field("rollingUpdate");
    errors.not_negative(&rolling.field("partition"));
    count_or_percent(&rolling.field("maxUnavailable"), errors);
    let retention = spec.field("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        errors.one_of(&retention.field(name), &["Delete", "Retain"]);
    }
    errors.not_negative(&spec.field("ordinals").field("start"));
    errors.not_negative(&spec.field("replicas"));
    errors.not_negative(&spec.field("minReadySeconds"));
    errors.not_negative(&spec.field("revisionHistoryLimit"));
    selector_and_template(&spec, "statefulset", errors);
    always_restarts(&spec, errors);
    for claim in spec.field("volumeClaimTemplates").items() {
        errors.require(&claim.field("metadata").field("name"));
        storage::claim(&claim.field("spec"), errors);
    }
}
