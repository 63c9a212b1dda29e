//! Default roles and bindings that an older server made: what this one's have more is added.

use serde_json::Value;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// `old` with what `wanted` has more: labels, rules and subjects. Nothing is taken away, and nothing
/// is done where the annotation says that the cluster's owner looks after the object. `None`: there
/// is nothing to add. (Kubernetes' RBAC reference, "Auto-reconciliation".)
pub(super) fn updated(old: &Value, wanted: &Value) -> Option<Value> {
    if old["metadata"]["annotations"][AUTOUPDATE] != "true" {
        return None;
    }
    let mut new = old.clone();
    for (name, value) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
        if old["metadata"]["labels"][name].is_null() {
            new["metadata"]["labels"][name] = value.clone();
        }
    }
    for list in ["rules", "subjects"] {
        // The rules of a sum of roles are its parts'.
        if old.get("aggregationRule").is_some() {
            continue;
        }
        let present = old[list].as_array().map_or(&[][..], Vec::as_slice);
        let items = wanted[list].as_array().into_iter().flatten();
        let missing: Vec<Value> = items.filter(|item| !present.contains(item)).cloned().collect();
        if !missing.is_empty() {
            new[list] = [present, &missing].concat().into();
        }
    }
    (new != *old).then_some(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(rules: &[&str]) -> Value {
        let rules: Vec<Value> = rules.iter().map(|verb| json!({"verbs": [verb]})).collect();
        json!({"metadata": {"name": "r", "annotations": {AUTOUPDATE: "true"}}, "rules": rules})
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_more_stays() {
        let (old, wanted) = (role(&["get", "own"]), role(&["get", "list"]));
        assert_eq!(updated(&old, &wanted), Some(role(&["get", "own", "list"])));
        assert_eq!(updated(&role(&["list", "get"]), &wanted), None, "the order does not count");
        let mut labelled = wanted.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let new = updated(&wanted, &labelled).expect("a label is missing");
        assert_eq!(new["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn the_cluster_s_owner_may_keep_an_object_as_it_is() {
        let mut old = role(&["get"]);
        old["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(updated(&old, &role(&["list"])), None);
        old["metadata"]["annotations"] = Value::Null;
        assert_eq!(updated(&old, &role(&["list"])), None);
    }

    #[test]
    fn a_sum_of_roles_is_left_to_its_parts() {
        let mut old = role(&["get"]);
        old["aggregationRule"] = json!({});
        assert_eq!(updated(&old, &role(&["list"])), None);
    }
}
