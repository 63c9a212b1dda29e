//! RBAC, limits, autoscaling, certificates, admission.

use serde_json::{Value, json};

use super::fill::{Object, each, is, object_at, object_made, text, value};
use crate::Gvk;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn rbac(kind: &str, object: &mut Object) {
    if !matches!(kind, "RoleBinding" | "ClusterRoleBinding") {
        return;
    }
    if let Some(role) = object_at(object, "roleRef") {
        text(role, "apiGroup", RBAC_GROUP);
    }
    for subject in each(object, "subjects") {
        if is(subject, "kind", "User") || is(subject, "kind", "Group") {
            text(subject, "apiGroup", RBAC_GROUP);
        }
    }
}

pub(super) fn limit_range(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    for limit in each(spec, "limits") {
        if !is(limit, "type", "Container") {
            continue;
        }
        // An absent default is the maximum; an absent default request is the default, or the minimum.
        for (from, to) in
            [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
        {
            let Some(source) = limit.get(from).and_then(Value::as_object).cloned() else {
                continue;
            };
            if let Some(target) = object_made(limit, to) {
                for (name, amount) in source {
                    target.entry(name).or_insert(amount);
                }
            }
        }
    }
}

pub(super) fn autoscaler(gvk: &Gvk, object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    value(spec, "minReplicas", 1);
    if gvk.version == "v1" {
        return;
    }
    if !spec.contains_key("metrics") {
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        spec.insert("metrics".into(), cpu);
    }
    if let Some(behavior) = object_at(spec, "behavior") {
        if let Some(up) = object_made(behavior, "scaleUp") {
            value(up, "selectPolicy", "Max");
            value(up, "stabilizationWindowSeconds", 0);
            value(
                up,
                "policies",
                json!([{"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
        if let Some(down) = object_made(behavior, "scaleDown") {
            value(down, "selectPolicy", "Max");
            value(
                down,
                "policies",
                json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
    }
}

pub(super) fn signing_request(object: &mut Object) {
    if let Some(spec) = object_at(object, "spec") {
        value(spec, "usages", json!(["digital signature", "key encipherment"]));
    }
}

pub(super) fn admission(kind: &str, object: &mut Object) {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            for webhook in each(object, "webhooks") {
                admission_webhook(webhook, kind == "MutatingWebhookConfiguration");
            }
        }
        "ValidatingAdmissionPolicy" => {
            let Some(spec) = object_at(object, "spec") else { return };
            text(spec, "failurePolicy", "Fail");
            if let Some(constraints) = object_at(spec, "matchConstraints") {
                match_resources(constraints);
            }
        }
        "ValidatingAdmissionPolicyBinding" => {
            let spec = object_at(object, "spec");
            if let Some(resources) = spec.and_then(|s| object_at(s, "matchResources")) {
                match_resources(resources);
            }
        }
        _ => {}
    }
}

fn admission_webhook(webhook: &mut Object, mutating: bool) {
    value(webhook, "failurePolicy", "Fail");
    if mutating {
        value(webhook, "reinvocationPolicy", "Never");
    }
    value(webhook, "timeoutSeconds", 10);
    match_resources(webhook);
    for rule in each(webhook, "rules") {
        value(rule, "scope", "*");
    }
    let service = object_at(webhook, "clientConfig").and_then(|c| object_at(c, "service"));
    if let Some(service) = service {
        value(service, "port", 443);
    }
}

fn match_resources(object: &mut Object) {
    value(object, "matchPolicy", "Equivalent");
    object_made(object, "namespaceSelector");
    object_made(object, "objectSelector");
    for name in ["resourceRules", "excludeResourceRules"] {
        for rule in each(object, name) {
            value(rule, "scope", "*");
        }
    }
}
