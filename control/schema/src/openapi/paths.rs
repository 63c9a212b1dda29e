//! Paths and their operations.
//!
//! Clients look here for the kind that a path serves (`x-kubernetes-group-version-kind`, `explain`) and for
//! the parameters that it takes: `dryRun` and `fieldValidation` on patch are how kubectl learns what the
//! server can do. So parameters are written out, not referred to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Resource;
use super::schemas::{Dialect, group_version_kind};
use crate::Gvk;
use crate::types::kinds;

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The definition of each kind.
pub(super) type Names = BTreeMap<Gvk, String>;

pub(super) fn names() -> Names {
    kinds::all().into_iter().map(|kind| (kind.gvk, (kind.source.name)().into_owned())).collect()
}

/// Paths and operations of one resource.
pub(super) fn resource(resource: &Resource, names: &Names, dialect: Dialect) -> Map<String, Value> {
    let mut writer = Writer { names, dialect, paths: Map::new() };
    writer.resource(resource);
    writer.paths
}

/// What a path names: all objects, or one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Collection,
    Item,
}

/// One operation on one path.
struct Operation<'a> {
    verb: &'a str,
    gvk: &'a Gvk,
    /// `CoreV1NamespacedPodStatus`
    id: String,
    tag: &'a str,
}

struct Writer<'a> {
    names: &'a Names,
    dialect: Dialect,
    paths: Map<String, Value>,
}

impl Writer<'_> {
    fn resource(&mut self, resource: &Resource) {
        let base = format!("/{}", resource.group_version_path());
        let plural = &resource.plural;
        let scoped = if resource.namespaced {
            if resource.verbs.contains(&"list") {
                self.path(&format!("{base}/{plural}"), resource, &["list"], Target::Collection, "");
            }
            format!("{base}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{base}/{plural}")
        };
        let collection = ["list", "create", "deletecollection"];
        let verbs: Vec<&str> =
            resource.verbs.iter().copied().filter(|v| collection.contains(v)).collect();
        self.path(&scoped, resource, &verbs, Target::Collection, "");
        let item = ["get", "update", "patch", "delete"];
        let verbs: Vec<&str> =
            resource.verbs.iter().copied().filter(|v| item.contains(v)).collect();
        let one = format!("{scoped}/{{name}}");
        self.path(&one, resource, &verbs, Target::Item, "");
        for sub in &resource.subresources {
            let body = Resource { gvk: sub.gvk.clone(), ..resource.clone() };
            self.path(&format!("{one}/{}", sub.name), &body, &sub.verbs, Target::Item, &sub.name);
        }
    }

    fn path(&mut self, path: &str, resource: &Resource, verbs: &[&str], target: Target, sub: &str) {
        if verbs.is_empty() {
            return;
        }
        let namespaced = path.contains("{namespace}");
        let id = operation_id(resource, namespaced, sub);
        let tag = tag(&resource.gvk);
        let mut item = Map::new();
        for verb in verbs {
            let id = id.clone();
            let operation = Operation { verb, gvk: &resource.gvk, id, tag: &tag };
            item.insert(method(verb).to_owned(), self.operation(&operation));
        }
        let mut parameters = Vec::new();
        if target == Target::Item {
            parameters.push(self.path_parameter("name", "name of the object"));
        }
        if namespaced {
            parameters.push(self.path_parameter("namespace", "object name and auth scope"));
        }
        item.insert("parameters".into(), parameters.into());
        self.paths.insert(path.to_owned(), Value::Object(item));
    }

    fn operation(&self, operation: &Operation<'_>) -> Value {
        let verb = operation.verb;
        let mut parameters: Vec<Value> = query_parameters(verb)
            .iter()
            .map(|(name, kind, about)| self.query_parameter(name, kind, about))
            .collect();
        let mut out = json!({
            "operationId": format!("{}{}", verb_id(verb), operation.id),
            "description": format!("{verb} {}", operation.gvk.kind),
            "tags": [operation.tag],
            "x-kubernetes-action": action(verb),
            "x-kubernetes-group-version-kind": group_version_kind(operation.gvk),
        });
        if let Some(body) = self.request_body(verb, operation.gvk) {
            match self.dialect {
                Dialect::V2 => parameters.push(json!({
                    "name": "body", "in": "body", "required": !verb.starts_with("delete"),
                    "schema": self.dialect.reference(&body)})),
                Dialect::V3 => out["requestBody"] = self.v3_body(verb, &body),
            }
        }
        if self.dialect == Dialect::V2 {
            out["consumes"] = if verb == "patch" { json!(PATCH_TYPES) } else { json!(["*/*"]) };
            out["produces"] = json!(["application/json", "application/yaml"]);
        }
        out["parameters"] = parameters.into();
        out["responses"] = self.responses(verb, operation.gvk);
        out
    }

    fn request_body(&self, verb: &str, gvk: &Gvk) -> Option<String> {
        match verb {
            "create" | "update" => self.names.get(gvk).cloned(),
            "patch" => Some(PATCH.to_owned()),
            "delete" | "deletecollection" => Some(DELETE_OPTIONS.to_owned()),
            _ => None,
        }
    }

    fn v3_body(&self, verb: &str, body: &str) -> Value {
        let schema = json!({"schema": self.dialect.reference(body)});
        let content: Map<String, Value> = if verb == "patch" {
            PATCH_TYPES.iter().map(|t| ((*t).to_owned(), schema.clone())).collect()
        } else {
            Map::from_iter([("*/*".to_owned(), schema)])
        };
        json!({"content": content, "required": !verb.starts_with("delete")})
    }

    fn responses(&self, verb: &str, gvk: &Gvk) -> Value {
        let kind = self.names.get(gvk);
        let schema = match (verb, kind) {
            ("list", Some(kind)) => Some(format!("{kind}List")),
            ("delete" | "deletecollection", _) => Some(STATUS.to_owned()),
            (_, kind) => kind.cloned(),
        };
        let response = match (self.dialect, schema) {
            (Dialect::V2, Some(name)) => {
                json!({"description": "OK", "schema": self.dialect.reference(&name)})
            }
            (Dialect::V3, Some(name)) => json!({"description": "OK", "content":
                {"application/json": {"schema": self.dialect.reference(&name)}}}),
            (_, None) => json!({"description": "OK"}),
        };
        json!({"200": response, "401": {"description": "Unauthorized"}})
    }

    fn query_parameter(&self, name: &str, kind: &str, about: &str) -> Value {
        let mut out = json!({"name": name, "in": "query", "description": about});
        match self.dialect {
            Dialect::V2 => {
                out["type"] = kind.into();
                out["uniqueItems"] = true.into();
            }
            Dialect::V3 => out["schema"] = json!({"type": kind, "uniqueItems": true}),
        }
        out
    }

    fn path_parameter(&self, name: &str, about: &str) -> Value {
        let mut out = self.query_parameter(name, "string", about);
        out["in"] = "path".into();
        out["required"] = true.into();
        out
    }
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

fn verb_id(verb: &str) -> &str {
    match verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// `CoreV1`, `RbacAuthorizationV1`
fn group_id(gvk: &Gvk) -> String {
    let group = if gvk.group.is_empty() { "core" } else { gvk.group.trim_end_matches(".k8s.io") };
    group.split('.').chain([gvk.version.as_str()]).map(capitalised).collect()
}

fn tag(gvk: &Gvk) -> String {
    let group = if gvk.group.is_empty() { "core" } else { gvk.group.trim_end_matches(".k8s.io") };
    format!("{}_{}", group.replace('.', ""), gvk.version)
}

fn operation_id(resource: &Resource, namespaced: bool, sub: &str) -> String {
    let scope = match (namespaced, resource.namespaced) {
        (true, _) => "Namespaced",
        (false, true) => "ForAllNamespaces",
        (false, false) => "",
    };
    let name = capitalised(&resource.plural);
    format!("{}{scope}{name}{}", group_id(&resource.gvk), capitalised(sub))
}

type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted: All.",
);
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "The name of the actor that is making these changes.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do with unknown and duplicate fields: Ignore, Warn or Strict.",
);
const FORCE: Parameter =
    ("force", "boolean", "Re-acquire conflicting fields owned by other managers (apply only).");
const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");

const WRITE: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const WRITE_PATCH: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const READ: &[Parameter] = &[PRETTY];
const DELETE: &[Parameter] = &[
    PRETTY,
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0: at once."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "Orphan, Background or Foreground."),
];
const LIST: &[Parameter] = &[
    PRETTY,
    ("allowWatchBookmarks", "boolean", "Ask for watch events of type BOOKMARK."),
    ("continue", "string", "The token of the previous page."),
    ("fieldSelector", "string", "Restrict the objects by their fields."),
    ("labelSelector", "string", "Restrict the objects by their labels."),
    ("limit", "integer", "The most objects to return in one page."),
    ("resourceVersion", "string", "How recent the answer must be."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied: NotOlderThan or Exact."),
    ("sendInitialEvents", "boolean", "Begin a watch with the objects that exist."),
    ("timeoutSeconds", "integer", "How long the call may take."),
    ("watch", "boolean", "Watch for changes instead of returning a list."),
];

fn query_parameters(verb: &str) -> &'static [Parameter] {
    match verb {
        "create" | "update" => WRITE,
        "patch" => WRITE_PATCH,
        "delete" => DELETE,
        "list" | "deletecollection" => LIST,
        _ => READ,
    }
}
