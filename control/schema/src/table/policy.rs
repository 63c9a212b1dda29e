//! Everything else: configuration, access, quotas, certificates, admission.

use serde_json::Value;

use super::Cells;
use super::age;
use super::cell::{NONE, Row, UNSET, scalar, text_of};

pub(super) fn layout(kind: &str) -> Option<(&'static str, Cells)> {
    configuration(kind).or_else(|| access(kind)).or_else(|| cluster(kind))
}

fn configuration(kind: &str) -> Option<(&'static str, Cells)> {
    Some(match kind {
        "ConfigMap" => ("Name|Data#|Age", |row| {
            let count = entries(row, "/data") + entries(row, "/binaryData");
            vec![row.name(), count.into(), row.age()]
        }),
        "Secret" => ("Name|Type|Data#|Age", |row| {
            vec![row.name(), row.text("/type").into(), entries(row, "/data").into(), row.age()]
        }),
        "ServiceAccount" => ("Name|Secrets#|Age", |row| {
            vec![row.name(), row.list("/secrets").len().into(), row.age()]
        }),
        "Namespace" => {
            ("Name|Status|Age", |row| vec![row.name(), row.text("/status/phase").into(), row.age()])
        }
        "Lease" => ("Name|Holder|Age", |row| {
            vec![row.name(), row.text("/spec/holderIdentity").into(), row.age()]
        }),
        "LimitRange" => ("Name|Created At", name_and_creation),
        "ResourceQuota" => ("Name|Request|Limit|Age", quota),
        "PodDisruptionBudget" => {
            ("Name|Min Available|Max Unavailable|Allowed Disruptions#|Age", disruption_budget)
        }
        "PriorityClass" => ("Name|Value#|Global-Default|Age|PreemptionPolicy", |row| {
            let default = row.at("/globalDefault") == true;
            vec![
                row.name(),
                row.number("/value").into(),
                default.into(),
                row.age(),
                row.text("/preemptionPolicy").into(),
            ]
        }),
        "RuntimeClass" => {
            ("Name|Handler|Age", |row| vec![row.name(), row.text("/handler").into(), row.age()])
        }
        _ => return None,
    })
}

fn access(kind: &str) -> Option<(&'static str, Cells)> {
    Some(match kind {
        "Role" | "ClusterRole" => ("Name|Created At", name_and_creation),
        "RoleBinding" | "ClusterRoleBinding" => {
            ("Name|Role|Age|Users+|Groups+|ServiceAccounts+", binding)
        }
        "CertificateSigningRequest" => {
            ("Name|Age|SignerName|Requestor|RequestedDuration|Condition", signing_request)
        }
        _ => return None,
    })
}

fn cluster(kind: &str) -> Option<(&'static str, Cells)> {
    Some(match kind {
        "ComponentStatus" => ("Name|Status|Message|Error", |row| {
            let healthy = row.list("/conditions").iter().find(|c| c["type"] == "Healthy");
            let part = |key: &str| healthy.map(|c| text_of(c, key)).unwrap_or_default();
            let status = if part("status") == "True" { "Healthy" } else { "Unhealthy" };
            vec![row.name(), status.into(), part("message").into(), part("error").into()]
        }),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            ("Name|Webhooks#|Age", |row| {
                vec![row.name(), row.list("/webhooks").len().into(), row.age()]
            })
        }
        "ValidatingAdmissionPolicy" => ("Name|Validations#|ParamKind|Age", |row| {
            let parameter = row.at("/spec/paramKind");
            let parameter = if parameter.is_null() {
                UNSET.to_owned()
            } else {
                format!("{}/{}", text_of(parameter, "apiVersion"), text_of(parameter, "kind"))
            };
            let count = row.list("/spec/validations").len();
            vec![row.name(), count.into(), parameter.into(), row.age()]
        }),
        "ValidatingAdmissionPolicyBinding" => ("Name|PolicyName|ParamRef|Age", |row| {
            let name = row.or("/spec/paramRef/name", UNSET);
            vec![row.name(), row.text("/spec/policyName").into(), name, row.age()]
        }),
        "FlowSchema" => ("Name|PriorityLevel|MatchingPrecedence#|DistinguisherMethod|Age", |row| {
            vec![
                row.name(),
                row.text("/spec/priorityLevelConfiguration/name").into(),
                row.number("/spec/matchingPrecedence").into(),
                row.or("/spec/distinguisherMethod/type", NONE),
                row.age(),
            ]
        }),
        "CustomResourceDefinition" => ("Name|Created At", name_and_creation),
        "APIService" => ("Name|Service|Available|Age", api_service),
        _ => return None,
    })
}

fn entries(row: &Row<'_>, pointer: &str) -> usize {
    row.at(pointer).as_object().map_or(0, serde_json::Map::len)
}

fn name_and_creation(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.text("/metadata/creationTimestamp").into()]
}

fn quota(row: &Row<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in row.at("/status/hard").as_object().into_iter().flatten() {
        let used = &row.at("/status/used")[name];
        let used = if used.is_null() { "0".to_owned() } else { scalar(used) };
        let text = format!("{name}: {used}/{}", scalar(hard));
        if name.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    vec![row.name(), requests.join(", ").into(), limits.join(", ").into(), row.age()]
}

fn disruption_budget(row: &Row<'_>) -> Vec<Value> {
    let or_none = |pointer: &str| -> Value {
        let value = row.at(pointer);
        if value.is_null() { "N/A".into() } else { scalar(value).into() }
    };
    vec![
        row.name(),
        or_none("/spec/minAvailable"),
        or_none("/spec/maxUnavailable"),
        row.number("/status/disruptionsAllowed").into(),
        row.age(),
    ]
}

fn binding(row: &Row<'_>) -> Vec<Value> {
    let role = row.at("/roleRef");
    let subjects = |kind: &str| -> Value {
        let names: Vec<String> = row
            .list("/subjects")
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| match (kind, text_of(s, "namespace")) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", text_of(s, "name")),
                _ => text_of(s, "name").to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        row.name(),
        format!("{}/{}", text_of(role, "kind"), text_of(role, "name")).into(),
        row.age(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn signing_request(row: &Row<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    for condition in row.list("/status/conditions") {
        let kind = text_of(condition, "type");
        if matches!(kind, "Approved" | "Denied" | "Failed") {
            states.push(kind);
        }
    }
    if states.is_empty() {
        states.push("Pending");
    }
    if !row.text("/status/certificate").is_empty() {
        states.push("Issued");
    }
    let duration = row.at("/spec/expirationSeconds").as_i64().map(age::human);
    vec![
        row.name(),
        row.age(),
        row.or("/spec/signerName", NONE),
        row.text("/spec/username").into(),
        duration.unwrap_or_else(|| NONE.to_owned()).into(),
        states.join(",").into(),
    ]
}

fn api_service(row: &Row<'_>) -> Vec<Value> {
    let service = row.at("/spec/service");
    let target = if service.is_null() {
        "Local".to_owned()
    } else {
        format!("{}/{}", text_of(service, "namespace"), text_of(service, "name"))
    };
    let available = match row.condition("Available") {
        "" => "Unknown",
        status => status,
    };
    vec![row.name(), target.into(), available.into(), row.age()]
}
