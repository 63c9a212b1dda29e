//! Where a pod may go: affinity, tolerations, spreading; taints of nodes.

use bowline_api::words;

use super::cursor::{Cursor, Errors};
use super::meta;

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) fn tolerations(tolerations: &Cursor<'_>, errors: &mut Errors) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.field("key"), toleration.field("operator"));
        errors.follows(&key, words::qualified_name);
        let value = toleration.field("value");
        match operator.text() {
            "" | "Equal" => {
                errors.problems(&value, words::label_value(value.text()));
                if !key.is_set() {
                    errors.invalid(
                        &operator,
                        "operator must be Exists when `key` is empty, which \
                         means \"match all values and all keys\"",
                    );
                }
            }
            "Exists" if value.is_set() => {
                errors.invalid(&operator, "value must be empty when `operator` is 'Exists'");
            }
            _ => errors.one_of(&operator, &["Equal", "Exists"]),
        }
        let effect = toleration.field("effect");
        errors.one_of(&effect, &EFFECTS);
        let seconds = toleration.field("tolerationSeconds");
        if !seconds.value.is_null() && !effect.is("NoExecute") {
            errors.invalid(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
    }
}

pub(super) fn taints(taints: &Cursor<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for taint in taints.items() {
        let (key, effect) = (taint.field("key"), taint.field("effect"));
        errors.require_follows(&key, words::qualified_name);
        errors.follows(&taint.field("value"), words::label_value);
        errors.require_one_of(&effect, &EFFECTS);
        let pair = (key.text(), effect.text());
        if seen.contains(&pair) {
            errors.duplicate(&taint);
        }
        seen.push(pair);
    }
}

pub(super) fn affinity(affinity: &Cursor<'_>, errors: &mut Errors) {
    let node = affinity.field("nodeAffinity");
    let required = node.field("requiredDuringSchedulingIgnoredDuringExecution");
    if !required.value.is_null() {
        node_selector(&required, errors);
    }
    for preferred in node.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        errors.between(&preferred.field("weight"), 1, 100);
        node_term(&preferred.field("preference"), errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.field(name);
        for term in pods.field("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, errors);
        }
        for preferred in pods.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            errors.between(&preferred.field("weight"), 1, 100);
            pod_term(&preferred.field("podAffinityTerm"), errors);
        }
    }
}

/// A `NodeSelector`: of affinity, and of volumes.
pub(super) fn node_selector(selector: &Cursor<'_>, errors: &mut Errors) {
    let terms = selector.field("nodeSelectorTerms");
    if terms.len() == 0 {
        errors.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_term(&term, errors);
    }
}

fn node_term(term: &Cursor<'_>, errors: &mut Errors) {
    const NUMERIC: [&str; 2] = ["Gt", "Lt"];
    for requirement in term.field("matchExpressions").items() {
        meta::requirement(&requirement, &NUMERIC, errors);
        let values = requirement.field("values");
        if NUMERIC.contains(&requirement.field("operator").text()) && values.len() != 1 {
            errors.required(
                &values,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
    }
    for requirement in term.field("matchFields").items() {
        let key = requirement.field("key");
        if !key.is("metadata.name") {
            errors.invalid(&key, "not a valid field selector key");
        }
        let operator = requirement.field("operator");
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.invalid(&operator, "not a valid selector operator");
        }
        let values = requirement.field("values");
        if values.len() != 1 {
            errors.required(
                &values,
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
    }
}

fn pod_term(term: &Cursor<'_>, errors: &mut Errors) {
    for name in ["labelSelector", "namespaceSelector"] {
        meta::selector(&term.field(name), errors);
    }
    for namespace in term.field("namespaces").items() {
        errors.problems(&namespace, words::dns_label(namespace.text()));
    }
    let key = term.field("topologyKey");
    if key.is_set() {
        errors.problems(&key, words::qualified_name(key.text()));
    } else {
        errors.required(&key, "can not be empty");
    }
}

pub(super) fn spread(constraints: &Cursor<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for constraint in constraints.items() {
        let (key, when) = (constraint.field("topologyKey"), constraint.field("whenUnsatisfiable"));
        let skew = constraint.field("maxSkew");
        if skew.number().unwrap_or_default() <= 0 {
            errors.invalid(&skew, "must be greater than zero");
        }
        if key.is_set() {
            errors.problems(&key, words::qualified_name(key.text()));
        } else {
            errors.required(&key, "can not be empty");
        }
        errors.require_one_of(&when, &["DoNotSchedule", "ScheduleAnyway"]);
        let domains = constraint.field("minDomains");
        errors.positive(&domains);
        if !domains.value.is_null() && !when.is("DoNotSchedule") {
            errors.invalid(&domains, "can only use minDomains if whenUnsatisfiable=DoNotSchedule");
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.one_of(&constraint.field(name), &["Honor", "Ignore"]);
        }
        meta::selector(&constraint.field("labelSelector"), errors);
        let pair = (key.text(), when.text());
        if seen.contains(&pair) {
            errors.duplicate(&constraint);
        }
        seen.push(pair);
    }
}
