//! The fields that a field selector may name.

use serde_json::Value;

use crate::Gvk;

/// Each kind's fields besides `metadata.name` and `metadata.namespace`, by their selector name.
const FIELDS: &[(&str, &str, &[&str])] = &[
    (
        "",
        "Pod",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("", "Node", &["spec.unschedulable"]),
    ("", "Namespace", &["status.phase"]),
    ("", "Secret", &["type"]),
    ("", "Service", &["spec.clusterIP", "spec.type"]),
    ("", "ReplicationController", &["status.replicas"]),
    ("apps", "ReplicaSet", &["status.replicas"]),
    ("batch", "Job", &["status.successful"]),
    ("certificates.k8s.io", "CertificateSigningRequest", &["spec.signerName"]),
    (
        "",
        "Event",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    (
        "events.k8s.io",
        "Event",
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
    ),
];

/// The value that field `name` has in `object` for a field selector (empty if the field is absent), or
/// `None` if the kind doesn't support that field: the request is then a 400
/// `field label not supported: <name>`.
pub fn value(gvk: &Gvk, object: &Value, name: &str) -> Option<String> {
    if !supported(gvk, name) {
        return None;
    }
    let found = match (gvk.kind.as_str(), name) {
        ("Node", "spec.unschedulable") | ("Pod", "spec.hostNetwork") => {
            return Some((at(object, name) == Some(&Value::Bool(true))).to_string());
        }
        ("Job", "status.successful") => {
            let succeeded = at(object, "status.succeeded").and_then(Value::as_i64);
            return Some(succeeded.unwrap_or_default().to_string());
        }
        ("Pod", "status.podIPs") => object.pointer("/status/podIPs/0/ip"),
        ("Event", "source") => at(object, "source.component"),
        ("Event", "reportingComponent") => {
            at(object, "reportingComponent").or_else(|| at(object, "reportingController"))
        }
        _ => at(object, name),
    };
    let replicas = name == "status.replicas";
    Some(match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None if replicas => "0".to_owned(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    })
}

/// Whether a field selector on this kind may name the field.
pub fn supported(gvk: &Gvk, name: &str) -> bool {
    matches!(name, "metadata.name" | "metadata.namespace") || names(gvk).contains(&name)
}

/// The fields of this kind that a selector may name, besides `metadata.name` and `metadata.namespace`.
pub fn names(gvk: &Gvk) -> &'static [&'static str] {
    let found = FIELDS.iter().find(|(group, kind, _)| *group == gvk.group && *kind == gvk.kind);
    found.map_or(&[], |(_, _, names)| names)
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, key| value.get(key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_has_its_value_or_is_refused() {
        let pod = Gvk::new("", "v1", "Pod");
        let object = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
        for (name, expected) in [
            ("metadata.name", Some("p")),
            ("metadata.namespace", Some("")),
            ("spec.nodeName", Some("n1")),
            ("spec.hostNetwork", Some("false")),
            ("status.podIPs", Some("10.0.0.1")),
            ("status.phase", Some("")),
            ("spec.containers", None),
        ] {
            assert_eq!(value(&pod, &object, name).as_deref(), expected, "{name}");
        }
        let job = Gvk::new("batch", "v1", "Job");
        assert_eq!(value(&job, &json!({}), "status.successful").as_deref(), Some("0"));
    }
}
