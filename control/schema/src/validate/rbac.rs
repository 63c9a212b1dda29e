//! Roles and bindings.

use bowline_api::words;

use super::cursor::{Cursor, Errors};
use super::meta;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn rbac(kind: &str, root: &Cursor<'_>, errors: &mut Errors) {
    match kind {
        "Role" | "ClusterRole" => {
            for rule in root.field("rules").items() {
                policy_rule(&rule, kind == "Role", errors);
            }
            for selector in root.field("aggregationRule").field("clusterRoleSelectors").items() {
                meta::selector(&selector, errors);
            }
        }
        "RoleBinding" => binding(root, &["ClusterRole", "Role"], true, errors),
        "ClusterRoleBinding" => binding(root, &["ClusterRole"], false, errors),
        _ => {}
    }
}

fn policy_rule(rule: &Cursor<'_>, namespaced: bool, errors: &mut Errors) {
    let verbs = rule.field("verbs");
    if verbs.len() == 0 {
        errors.required(&verbs, "verbs must contain at least one value");
    }
    let urls = rule.field("nonResourceURLs");
    if urls.len() > 0 {
        if namespaced {
            errors.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
        }
        let others = ["apiGroups", "resources", "resourceNames"];
        if others.iter().any(|name| rule.field(name).len() > 0) {
            errors.invalid(
                &urls,
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
        return;
    }
    for (name, detail) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if rule.field(name).len() == 0 {
            errors.required(&rule.field(name), detail);
        }
    }
}

fn binding(root: &Cursor<'_>, kinds: &[&str], namespaced: bool, errors: &mut Errors) {
    let role = root.field("roleRef");
    errors.one_of(&role.field("apiGroup"), &[GROUP]);
    errors.require_one_of(&role.field("kind"), kinds);
    errors.require_follows(&role.field("name"), words::path_segment);
    for subject in root.field("subjects").items() {
        self::subject(&subject, namespaced, errors);
    }
}

fn subject(subject: &Cursor<'_>, namespaced: bool, errors: &mut Errors) {
    let (kind, group) = (subject.field("kind"), subject.field("apiGroup"));
    errors.require(&subject.field("name"));
    match kind.text() {
        "ServiceAccount" => {
            errors.follows(&subject.field("name"), words::dns_subdomain);
            errors.one_of(&group, &[""]);
            let namespace = subject.field("namespace");
            if !namespaced && !namespace.is_set() {
                errors.required(&namespace, "");
            }
        }
        "User" | "Group" => errors.one_of(&group, &[GROUP]),
        _ => errors.require_one_of(&kind, &["Group", "ServiceAccount", "User"]),
    }
}
