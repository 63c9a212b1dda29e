//! Fills in the rules of cluster roles that are the sum of others (`aggregationRule`).

use std::sync::Arc;

use bowline_api::informer::Key;
use bowline_api::matching;
use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::{Context, Reconciled};
use crate::queue::Queue;

/// Who owns the rules, as server-side apply shows it.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// Keys are the sums: each may hold the role that changed.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.cluster_roles.on_change(move |_| {
        let Some(context) = weak.upgrade() else { return };
        let all = context.caches.cluster_roles.all();
        let sums = all.iter().filter(|role| role.aggregation_rule.is_some());
        sums.for_each(|role| adds.add(Key::of(role.as_ref())));
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(role) = context.caches.cluster_roles.get(&key) else { return Ok(None) };
    let Some(aggregation) = &role.aggregation_rule else { return Ok(None) };
    let mut others = context.caches.cluster_roles.all();
    others.retain(|other| other.metadata.name != role.metadata.name);
    let rules = sum(aggregation, others);
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(None);
    }
    let api: Api<ClusterRole> = Api::all(context.client.clone());
    let patch = Patch::Apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": key.name}, "rules": rules,
    }));
    let written = api.patch(&key.name, &PatchParams::apply(MANAGER).force(), &patch).await?;
    context.caches.cluster_roles.observe(written);
    Ok(None)
}

/// The rules of the roles that are selected, by the roles' names, each once.
fn sum(aggregation: &AggregationRule, mut roles: Vec<Arc<ClusterRole>>) -> Vec<PolicyRule> {
    roles.sort_by_key(|role| role.name_any());
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for role in roles {
        let labels = role.metadata.labels.as_ref();
        if !selectors.iter().any(|selector| matching::selects(Some(selector), labels)) {
            continue;
        }
        for rule in role.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, resources: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = resources
            .iter()
            .map(|one| json!({"apiGroups": [""], "resources": [one], "verbs": ["get"]}))
            .collect();
        let value = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
        Arc::new(serde_json::from_value(value).expect("a valid role"))
    }

    #[test]
    fn a_sum_holds_each_rule_of_the_selected_once_and_in_order() {
        let rule = serde_json::from_value(json!({"clusterRoleSelectors": [
            {"matchLabels": {"to-a": "true"}}, {"matchLabels": {"to-b": "true"}}]}));
        let roles = vec![
            role("z", "to-a", &["pods", "nodes"]),
            role("b", "to-b", &["pods"]),
            role("c", "to-c", &["secrets"]),
        ];
        let rules = sum(&rule.expect("a valid rule"), roles);
        let resources: Vec<_> =
            rules.iter().map(|rule| rule.resources.clone().unwrap_or_default().concat()).collect();
        assert_eq!(resources, ["pods", "nodes"]);
    }
}
