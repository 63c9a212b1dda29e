//! ObjectMeta: names, labels, annotations, finalizers, owners; label selectors.

use bowline_api::words;
use serde_json::Value;

use super::cursor::{Cursor, Errors};
use crate::Gvk;

const MAX_ANNOTATIONS: usize = 256 * 1024;
/// A cron job's name, followed by the time of a run, must be a job's name.
const CRON_JOB_NAME_MAX: usize = 52;

pub(super) fn object(gvk: &Gvk, root: &Cursor<'_>, errors: &mut Errors) {
    let metadata = root.field("metadata");
    let name = metadata.field("name");
    if name.is_set() {
        errors.problems(&name, name_grammar(gvk)(name.text()));
        if gvk.kind == "CronJob" && name.text().len() > CRON_JOB_NAME_MAX {
            errors.invalid(&name, "must be no more than 52 characters");
        }
    } else if !is_review(gvk) {
        errors.required(&name, "name or generateName is required");
    }
    errors.follows(&metadata.field("namespace"), words::dns_label);
    errors.not_negative(&metadata.field("generation"));
    labels(&metadata.field("labels"), errors);
    annotations(&metadata.field("annotations"), errors);
    for finalizer in metadata.field("finalizers").items() {
        errors.problems(&finalizer, words::qualified_name(finalizer.text()));
    }
    owners(&metadata.field("ownerReferences"), errors);
}

/// Kinds that are asked, not stored, need no name.
fn is_review(gvk: &Gvk) -> bool {
    matches!(gvk.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
        || matches!(gvk.kind.as_str(), "Binding" | "Eviction" | "Scale")
}

fn name_grammar(gvk: &Gvk) -> fn(&str) -> Vec<String> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Namespace") => words::dns_label,
        ("", "Service") => words::dns_1035_label,
        ("rbac.authorization.k8s.io", _) => words::path_segment,
        ("networking.k8s.io", "IPAddress") => ip_name,
        _ => words::dns_subdomain,
    }
}

fn ip_name(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        _ => vec!["must be a valid IP address in canonical form".to_owned()],
    }
}

pub(super) fn labels(labels: &Cursor<'_>, errors: &mut Errors) {
    for (key, value) in labels.entries() {
        for problem in words::qualified_name(key) {
            errors.invalid_value(labels, key, &problem);
        }
        let value = value.as_str().unwrap_or_default();
        for problem in words::label_value(value) {
            errors.invalid_value(labels, value, &problem);
        }
    }
}

pub(super) fn annotations(annotations: &Cursor<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.entries() {
        for problem in words::qualified_name(&key.to_lowercase()) {
            errors.invalid_value(annotations, key, &problem);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MAX_ANNOTATIONS {
        errors.too_long(annotations, MAX_ANNOTATIONS);
    }
}

fn owners(owners: &Cursor<'_>, errors: &mut Errors) {
    let mut controller = None;
    for owner in owners.items() {
        for name in ["apiVersion", "kind", "name", "uid"] {
            let at = owner.field(name);
            if !at.is_set() {
                errors.invalid(&at, "must not be empty");
            }
        }
        if owner.field("controller").is_true() {
            let name = owner.field("name").text();
            match controller {
                None => controller = Some(name),
                Some(first) => errors.invalid(
                    owners,
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {name}"
                    ),
                ),
            }
        }
    }
}

pub(super) fn update(root: &Cursor<'_>, old: &Value, errors: &mut Errors) {
    let (new, old_root) = (root.field("metadata"), Cursor::root(old));
    let old = old_root.field("metadata");
    errors.immutable(&new.field("name"), &old.field("name"));
    for name in
        ["namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        // A client may leave out what only the server sets.
        if new.field(name).is_set() {
            errors.immutable(&new.field(name), &old.field(name));
        }
    }
    if old.field("deletionTimestamp").is_set() {
        let had: Vec<&Value> = old.field("finalizers").items().map(|f| f.value).collect();
        let finalizers = new.field("finalizers");
        let added: Vec<String> = finalizers
            .items()
            .filter(|f| !had.contains(&f.value))
            .map(|f| f.value.to_string())
            .collect();
        if !added.is_empty() {
            errors.forbidden(
                &finalizers,
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
}

/// A `LabelSelector` object.
pub(super) fn selector(selector: &Cursor<'_>, errors: &mut Errors) {
    labels(&selector.field("matchLabels"), errors);
    for requirement in selector.field("matchExpressions").items() {
        self::requirement(&requirement, &[], errors);
        for value in requirement.field("values").items() {
            errors.problems(&value, words::label_value(value.text()));
        }
    }
}

/// One requirement of a selector, whose operator may also be one of `others`.
pub(super) fn requirement(requirement: &Cursor<'_>, others: &[&str], errors: &mut Errors) {
    errors.require_follows(&requirement.field("key"), words::qualified_name);
    let (operator, values) = (requirement.field("operator"), requirement.field("values"));
    match operator.text() {
        "In" | "NotIn" if values.len() == 0 => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if values.len() > 0 => errors.forbidden(
            &values,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other if others.contains(&other) => {}
        _ => errors.invalid(&operator, "not a valid selector operator"),
    }
}

/// Whether a `LabelSelector` object asks for nothing.
pub(super) fn selects_all(selector: &Cursor<'_>) -> bool {
    selector.field("matchLabels").len() == 0 && selector.field("matchExpressions").len() == 0
}
