//! Which objects a selector, a node selector or a toleration applies to.
//!
//! Semantics: Kubernetes API conventions (label selectors), core/v1 `NodeSelectorTerm` and
//! `Toleration`. An absent selector matches nothing, an empty one everything.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy a set-based selector. An operator that is none of the four known ones
/// matches nothing.
pub fn selects(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let empty = Labels::new();
    let labels = labels.unwrap_or(&empty);
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            requirement(&one.operator, labels.get(&one.key), values)
        })
}

/// Whether `labels` hold every pair of a plain selector map (Services, replication controllers).
/// An absent or empty map matches nothing: such a service has no pods of its own.
pub fn selects_map(selector: Option<&Labels>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector.filter(|map| !map.is_empty()) else { return false };
    let Some(labels) = labels else { return false };
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn requirement(operator: &str, value: Option<&String>, values: &[String]) -> bool {
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let number = |text: &String| text.parse::<i64>().ok();
            match (value.and_then(number), values.first().and_then(number)) {
                (Some(have), Some(want)) => (have > want) == (operator == "Gt") && have != want,
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether one term of a node selector holds; a term without requirements never does.
pub fn term_selects(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    let field = |one: &NodeSelectorRequirement| {
        one.key == "metadata.name"
            && requirement(
                &one.operator,
                node.metadata.name.as_ref(),
                one.values.as_deref().unwrap_or_default(),
            )
    };
    expressions.iter().all(|one| {
        let value = labels.and_then(|labels| labels.get(&one.key));
        requirement(&one.operator, value, one.values.as_deref().unwrap_or_default())
    }) && fields.iter().all(field)
}

/// Whether any term of a node selector holds.
pub fn node_selector_selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_selects(term, node))
}

/// Whether the pod's `nodeSelector` and required node affinity allow `node`.
pub fn pod_allows_node(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let plain = spec.node_selector.iter().flatten().all(|(key, value)| {
        labels.and_then(|labels| labels.get(key)).is_some_and(|have| have == value)
    });
    let required =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()).and_then(
            |affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref(),
        );
    plain && required.is_none_or(|selector| node_selector_selects(selector, node))
}

/// Whether one toleration tolerates one taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if set(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    match set(&toleration.key) {
        Some(key) if key != taint.key => return false,
        None if toleration.operator.as_deref() != Some("Exists") => return false,
        _ => {}
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

/// The first taint with one of `effects` that no toleration tolerates.
pub fn untolerated<'t>(
    taints: &'t [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'t Taint> {
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str())
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn absent_selector_matches_nothing_and_empty_one_everything() {
        assert!(!selects(None, None));
        assert!(selects(Some(&LabelSelector::default()), None));
        assert!(!selects_map(Some(&Labels::new()), Some(&labels(&[("a", "b")]))));
    }

    #[test]
    fn operators_hold_as_documented() {
        let value = "5".to_owned();
        let values = ["4".to_owned()];
        for (operator, present, absent) in [
            ("In", false, false),
            ("NotIn", true, true),
            ("Exists", true, false),
            ("DoesNotExist", false, true),
            ("Gt", true, false),
            ("Lt", false, false),
        ] {
            assert_eq!(requirement(operator, Some(&value), &values), present, "{operator} 5 4");
            assert_eq!(requirement(operator, None, &values), absent, "{operator} absent");
        }
    }

    #[test]
    fn tolerations_match_key_operator_value_and_effect() {
        let taint = Taint {
            key: "a".into(),
            value: Some("b".into()),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        let toleration = |key: &str, operator: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(operator.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        assert!(tolerates(&toleration("", "Exists", "", ""), &taint));
        assert!(tolerates(&toleration("a", "Exists", "", "NoSchedule"), &taint));
        assert!(tolerates(&toleration("a", "Equal", "b", ""), &taint));
        assert!(tolerates(&toleration("a", "", "b", ""), &taint));
        assert!(!tolerates(&toleration("a", "Equal", "c", ""), &taint));
        assert!(!tolerates(&toleration("a", "Exists", "", "NoExecute"), &taint));
        assert!(!tolerates(&toleration("", "Equal", "b", ""), &taint));
    }
}
