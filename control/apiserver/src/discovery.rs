//! Discovery: which groups, versions and resources there are.

use serde_json::{Value, json};

use crate::app::App;
use crate::kinds::Kind;

/// Which kind and group a subresource speaks, where it is not the resource's own.
fn subresource_kind<'a>(kind: &'a Kind, subresource: &str) -> (&'a str, &'a str, &'a str) {
    match subresource {
        "scale" => ("autoscaling", "v1", "Scale"),
        "eviction" => ("policy", "v1", "Eviction"),
        "binding" => ("", "v1", "Binding"),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest"),
        "exec" => ("", "v1", "PodExecOptions"),
        "attach" => ("", "v1", "PodAttachOptions"),
        "portforward" => ("", "v1", "PodPortForwardOptions"),
        "proxy" => match kind.kind.as_str() {
            "Node" => ("", "v1", "NodeProxyOptions"),
            "Service" => ("", "v1", "ServiceProxyOptions"),
            _ => ("", "v1", "PodProxyOptions"),
        },
        _ => (&kind.group, &kind.version, &kind.kind),
    }
}

pub(crate) fn subresource_verbs(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "log" => &["get"],
        "exec" | "attach" | "portforward" => &["create", "get"],
        "proxy" => &["create", "delete", "get", "patch", "update"],
        "eviction" | "binding" | "token" => &["create"],
        "finalize" => &["update"],
        _ => &["get", "patch", "update"],
    }
}

/// `/api`.
pub(crate) fn versions(app: &App) -> Value {
    let address = std::net::SocketAddr::new(app.config.advertise_address, app.config.listen.port());
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs":
            [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}],
    })
}

/// `/apis`.
pub(crate) fn groups(app: &App) -> Value {
    let groups = app.kinds.groups();
    let named = groups.iter().filter(|(group, _)| !group.is_empty());
    let list: Vec<Value> = named.map(|(name, versions)| group_value(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

fn group_value(name: &str, versions: &[&str]) -> Value {
    let version =
        |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/apis/<group>`.
pub(crate) fn group(app: &App, wanted: &str) -> Option<Value> {
    let groups = app.kinds.groups();
    let (name, versions) = groups.iter().find(|(name, _)| *name == wanted && !name.is_empty())?;
    let mut value = group_value(name, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(crate) fn resources(app: &App, group: &str, version: &str) -> Option<Value> {
    let kinds = app.kinds.all().iter();
    let mine: Vec<_> = kinds.filter(|k| k.group == group && k.version == version).collect();
    let first = mine.first()?;
    let mut list = Vec::new();
    for kind in &mine {
        let mut own = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs, "storageVersionHash": hash(kind),
        });
        if !kind.short_names.is_empty() {
            own["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            own["categories"] = json!(kind.categories);
        }
        list.push(own);
        for subresource in &kind.subresources {
            let (group, version, name) = subresource_kind(kind, subresource);
            let mut entry = json!({
                "name": format!("{}/{subresource}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": name,
                "verbs": subresource_verbs(subresource),
            });
            if (group, version) != (kind.group.as_str(), kind.version.as_str()) {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(),
        "resources": list,
    }))
}

/// Tells clients when the stored form changes.
fn hash(kind: &Kind) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{}/{}", kind.storage, kind.plural));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `/api` and `/apis` in one document each (KEP-3352).
pub(crate) fn aggregated(app: &App, core: bool) -> Value {
    let groups = app.kinds.groups();
    let wanted = groups.iter().filter(|(name, _)| name.is_empty() == core);
    let items: Vec<Value> = wanted
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    json!({"version": version, "freshness": "Current",
                           "resources": aggregated_resources(app, name, version)})
                })
                .collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
           "metadata": {}, "items": items})
}

fn aggregated_resources(app: &App, group: &str, version: &str) -> Vec<Value> {
    let response = |(group, version, kind): (&str, &str, &str)| -> Value {
        json!({"group": group, "version": version, "kind": kind})
    };
    let kinds = app.kinds.all().iter().filter(|k| k.group == group && k.version == version);
    kinds
        .map(|kind| {
            let mut own = json!({
                "resource": kind.plural, "singularResource": kind.singular,
                "responseKind": response((&kind.group, &kind.version, &kind.kind)),
                "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
                "verbs": kind.verbs,
            });
            if !kind.short_names.is_empty() {
                own["shortNames"] = json!(kind.short_names);
            }
            if !kind.categories.is_empty() {
                own["categories"] = json!(kind.categories);
            }
            let subresources: Vec<Value> = kind
                .subresources
                .iter()
                .map(|name| {
                    json!({"subresource": name, "verbs": subresource_verbs(name),
                           "responseKind": response(subresource_kind(kind, name))})
                })
                .collect();
            if !subresources.is_empty() {
                own["subresources"] = json!(subresources);
            }
            own
        })
        .collect()
}

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "35",
        "gitVersion": concat!("v1.35.0+bowline-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
        "emulationMajor": "1", "emulationMinor": "35",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "34",
    })
}

/// The architecture by the name that Go has for it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The rows that the OpenAPI documents are made from.
pub(crate) fn openapi_resources(
    kinds: &crate::kinds::Kinds,
) -> Vec<bowline_schema::openapi::Resource> {
    use bowline_schema::Gvk;
    use bowline_schema::openapi::{Resource, Subresource};
    let resource = |kind: &std::sync::Arc<Kind>| Resource {
        gvk: kind.gvk(),
        plural: kind.plural.clone(),
        namespaced: kind.namespaced,
        verbs: kind.verbs.clone(),
        subresources: kind
            .subresources
            .iter()
            .map(|name| {
                let (group, version, of) = subresource_kind(kind, name);
                Subresource {
                    name: (*name).to_owned(),
                    gvk: Gvk::new(group, version, of),
                    verbs: subresource_verbs(name).to_vec(),
                }
            })
            .collect(),
    };
    kinds.all().iter().map(resource).collect()
}
