use std::time::Instant;

use prost::Message as _;

use super::*;

fn resources() -> Vec<Resource> {
    let all =
        vec!["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let sub = |name: &str, gvk: Gvk| Subresource {
        name: name.into(),
        gvk,
        verbs: vec!["get", "update", "patch"],
    };
    let pod = Gvk::new("", "v1", "Pod");
    let deployment = Gvk::new("apps", "v1", "Deployment");
    vec![
        Resource {
            gvk: pod.clone(),
            plural: "pods".into(),
            namespaced: true,
            verbs: all.clone(),
            subresources: vec![sub("status", pod)],
        },
        Resource {
            gvk: Gvk::new("", "v1", "Node"),
            plural: "nodes".into(),
            namespaced: false,
            verbs: all.clone(),
            subresources: vec![],
        },
        Resource {
            gvk: deployment.clone(),
            plural: "deployments".into(),
            namespaced: true,
            verbs: all,
            subresources: vec![sub("scale", Gvk::new("autoscaling", "v1", "Scale"))],
        },
    ]
}

fn parsed(document: &Document) -> Value {
    serde_json::from_slice(&document.identity()).expect("JSON")
}

#[test]
fn v2_has_merge_keys_kinds_and_the_parameters_that_kubectl_looks_for() {
    let start = Instant::now();
    let api = OpenApi::new(resources());
    let document = api.v2_json();
    println!("v2: {} KB compressed, {:?}", document.gzip.len() / 1024, start.elapsed());
    let v2 = parsed(&document);
    println!("v2: {} KB", document.identity().len() / 1024);
    let spec = &v2["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(spec["containers"]["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(spec["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(spec["tolerations"]["x-kubernetes-list-type"], "atomic");
    assert_eq!(spec["nodeSelector"]["x-kubernetes-map-type"], "atomic");
    let ports = &v2["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    let kinds =
        &v2["definitions"]["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"];
    assert_eq!(kinds, &json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]));
    let patch = &v2["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    for name in ["dryRun", "fieldValidation", "force", "fieldManager", "body"] {
        assert!(names.iter().any(|n| *n == name), "patch takes {name}");
    }
    assert!(v2["definitions"].get("io.k8s.api.core.v1.PodList").is_some());
}

/// Collects the names of all definitions that a value refers to.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                out.extend(target.rsplit('/').next().map(str::to_owned));
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_definition() {
    let api = OpenApi::new(resources());
    let v2 = parsed(&api.v2_json());
    let mut names = Vec::new();
    references(&v2, &mut names);
    for name in names {
        assert!(v2["definitions"].get(&name).is_some(), "{name} is not defined");
    }
    for path in ["api/v1", "apis/apps/v1"] {
        let v3 = parsed(&api.v3(path).expect("a served group version"));
        let mut names = Vec::new();
        references(&v3, &mut names);
        for name in names {
            assert!(
                v3["components"]["schemas"].get(&name).is_some(),
                "{path}: {name} is not defined"
            );
        }
    }
    assert!(api.v3("apis/nope/v1").is_none());
}

#[test]
fn v3_holds_one_group_version_and_the_index_names_it() {
    let api = OpenApi::new(resources());
    let index: Value = serde_json::from_slice(&api.v3_index()).unwrap();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    let start = Instant::now();
    let document = api.v3("apis/apps/v1").unwrap();
    println!("v3 apps/v1: {} KB compressed, {:?}", document.gzip.len() / 1024, start.elapsed());
    let v3 = parsed(&document);
    let schemas = &v3["components"]["schemas"];
    assert!(schemas.get("io.k8s.api.core.v1.Node").is_none(), "only what apps/v1 needs");
    let template = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["template"];
    assert_eq!(
        template["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec"}])
    );
    let patch = &v3["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/apply-patch+yaml").is_some());
}

/// The parts of gnostic's messages that clients read.
#[derive(Clone, PartialEq, prost::Message)]
struct Doc {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Definitions>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPath>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct NamedPath {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct PathItem {
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<NamedAny>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body: Option<NonBody>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct NonBody {
    #[prost(message, optional, tag = "3")]
    query: Option<Query>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Query {
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Definitions {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<NamedSchema>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Schema {
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, optional, tag = "25")]
    properties: Option<Definitions>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[test]
fn the_protobuf_says_what_the_json_says() {
    let api = OpenApi::new(resources());
    let start = Instant::now();
    let document = api.v2_protobuf();
    println!("v2 protobuf: {} KB compressed, {:?}", document.gzip.len() / 1024, start.elapsed());
    let decoded = Doc::decode(document.identity()).expect("a gnostic document");
    let json = parsed(&api.v2_json());
    assert_eq!(decoded.swagger, "2.0");
    let definitions = decoded.definitions.unwrap().entries;
    assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
    let spec = definitions.iter().find(|d| d.name == "io.k8s.api.core.v1.PodSpec").unwrap();
    let properties = spec.value.clone().unwrap().properties.unwrap().entries;
    let containers =
        properties.iter().find(|p| p.name == "containers").unwrap().value.clone().unwrap();
    let extension = |name: &str| {
        let found = containers.extensions.iter().find(|e| e.name == name).unwrap();
        found.value.clone().unwrap().yaml
    };
    assert_eq!(extension("x-kubernetes-patch-merge-key"), "\"name\"");
    assert_eq!(extension("x-kubernetes-list-map-keys"), "[\"name\"]");
    let paths = decoded.paths.unwrap().path;
    assert_eq!(paths.len(), json["paths"].as_object().unwrap().len());
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = paths.iter().find(|p| p.name == path).unwrap();
    let patch = patch.value.clone().unwrap().patch.unwrap();
    let names: Vec<String> = patch
        .parameters
        .into_iter()
        .filter_map(|p| Some(p.parameter?.non_body?.query?.name))
        .collect();
    assert!(names.contains(&"dryRun".to_owned()), "{names:?}");
    assert!(patch.extensions.iter().any(|e| e.name == "x-kubernetes-group-version-kind"));
}
