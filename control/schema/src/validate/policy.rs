//! Disruption budgets, autoscalers, leases, priorities, quotas, certificate requests.

use bowline_api::words;

use super::cursor::{Cursor, Errors};
use super::meta;
use super::workload::{at_most_all, count_or_percent};

/// Users' classes end here; above are the system's two.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// The shortest certificate that may be asked for, in seconds.
const MIN_CERTIFICATE_SECONDS: i64 = 600;

pub(super) fn disruption_budget(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let (available, unavailable) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if !available.value.is_null() && !unavailable.value.is_null() {
        errors.invalid(&spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for at in [available, unavailable] {
        count_or_percent(&at, errors);
        at_most_all(&at, errors);
    }
    meta::selector(&spec.field("selector"), errors);
    errors.one_of(&spec.field("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]);
}

pub(super) fn autoscaler(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let (low, high) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if low.number().is_some_and(|n| n < 1) {
        errors.invalid(&low, "must be greater than or equal to 1");
    }
    if high.number().unwrap_or_default() < 1 {
        errors.invalid(&high, "must be greater than 0");
    } else if let (Some(least), Some(most)) = (low.number(), high.number())
        && most < least
    {
        errors.invalid(&high, "must be greater than or equal to `minReplicas`");
    }
    let target = spec.field("scaleTargetRef");
    for name in ["kind", "name"] {
        errors.require_follows(&target.field(name), words::path_segment);
    }
    for metric in spec.field("metrics").items() {
        let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
        errors.require_one_of(&metric.field("type"), &kinds);
    }
}

pub(super) fn lease(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    errors.positive(&spec.field("leaseDurationSeconds"));
    errors.not_negative(&spec.field("leaseTransitions"));
}

pub(super) fn priority_class(root: &Cursor<'_>, errors: &mut Errors) {
    let (name, value) = (root.field("metadata").field("name"), root.field("value"));
    if name.text().starts_with("system-") {
        let known = SYSTEM_CLASSES.iter().any(|(n, v)| name.is(n) && value.number() == Some(*v));
        if !known {
            errors.forbidden(
                &name,
                "priority class names with 'system-' prefix are reserved for system use only",
            );
        }
    } else if value.number().is_some_and(|n| n > MAX_USER_PRIORITY) {
        errors.forbidden(
            &value,
            &format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}"),
        );
    }
    errors.one_of(&root.field("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
}

pub(super) fn quota(root: &Cursor<'_>, errors: &mut Errors) {
    let hard = root.field("spec").field("hard");
    for (name, _) in hard.entries() {
        for problem in words::qualified_name(name) {
            errors.invalid_value(&hard.key(name), name, &problem);
        }
        errors.amount(&hard.key(name));
    }
}

pub(super) fn limit_range(root: &Cursor<'_>, errors: &mut Errors) {
    for limit in root.field("spec").field("limits").items() {
        errors.require_one_of(&limit.field("type"), &["Container", "PersistentVolumeClaim", "Pod"]);
        let amount = |list: &str, name: &str| {
            let at = limit.field(list).key(name);
            at.text().parse::<bowline_api::quantity::Quantity>().ok()
        };
        let names: Vec<&str> = ["min", "max", "default", "defaultRequest"]
            .iter()
            .flat_map(|list| limit.field(list).entries().map(|(n, _)| n).collect::<Vec<_>>())
            .collect();
        for name in names {
            if let (Some(low), Some(high)) = (amount("min", name), amount("max", name))
                && low > high
            {
                let at = limit.field("min").key(name);
                errors.invalid(&at, format!("min value {low} is greater than max value {high}"));
                return;
            }
            if let (Some(default), Some(high)) = (amount("default", name), amount("max", name))
                && default > high
            {
                let at = limit.field("default").key(name);
                errors.invalid(
                    &at,
                    format!("default value {default} is greater than max value {high}"),
                );
                return;
            }
        }
    }
}

pub(super) fn signing_request(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    errors.require(&spec.field("request"));
    let usages = spec.field("usages");
    if usages.len() == 0 {
        errors.required(&usages, "usages is required");
    }
    let signer = spec.field("signerName");
    if errors.require(&signer) {
        match signer.text().split_once('/') {
            Some((domain, path)) if domain.contains('.') && !path.is_empty() => {
                errors.problems(&signer, words::dns_subdomain(domain));
            }
            _ => errors.invalid(
                &signer,
                "must be a fully qualified domain and path of the form \
                 'example.com/signer-name'",
            ),
        }
    }
    let seconds = spec.field("expirationSeconds");
    if seconds.number().is_some_and(|n| n < MIN_CERTIFICATE_SECONDS) {
        errors.invalid(&seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}
