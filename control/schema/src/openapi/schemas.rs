//! Definitions: the raw schemas with the extensions that clients need, in the dialect of a document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::Gvk;
use crate::types::kinds::{self, Source};
use crate::types::{Facts, ListType, facts};

/// What differs between the documents: where references point, and what may stand beside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. \
     Servers should convert recognized schemas to the latest internal value, and may reject \
     unrecognized values.";
const KIND: &str = "Kind is a string value representing the REST resource this object represents.";

/// Makes definitions in one dialect.
pub(super) struct Maker {
    dialect: Dialect,
    table: facts::Table,
    /// The kinds that have a definition of this name.
    kinds: BTreeMap<String, Vec<Gvk>>,
}

impl Maker {
    pub(super) fn new(dialect: Dialect) -> Self {
        let mut kinds: BTreeMap<String, Vec<Gvk>> = BTreeMap::new();
        for kind in kinds::all() {
            kinds.entry((kind.source.name)().into_owned()).or_default().push(kind.gvk);
        }
        Self { dialect, table: facts::read(), kinds }
    }

    /// Hands each definition that the sources need to `write`, and each kind's list.
    pub(super) fn definitions(
        &self,
        sources: impl IntoIterator<Item = Source>,
        mut write: impl FnMut(&str, &Value),
    ) {
        kinds::visit(sources, |name, schema, _| {
            write(name, &self.definition(name, schema));
            for gvk in self.kinds.get(name).into_iter().flatten() {
                write(&format!("{name}List"), &list(gvk, name, self.dialect));
            }
        });
    }

    fn definition(&self, name: &str, schema: &Value) -> Value {
        if let Some(scalar) = scalar_override(name, self.dialect) {
            return scalar;
        }
        let type_facts = self.table.of(name);
        let mut schema = convert(schema, self.dialect);
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for (field, property) in properties.iter_mut() {
                annotate(property, type_facts.and_then(|t| t.fields.get(field.as_str())));
            }
        }
        if type_facts.is_some_and(|t| t.atomic) {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(kinds) = self.kinds.get(name) {
            schema["x-kubernetes-group-version-kind"] =
                kinds.iter().map(group_version_kind).collect();
            // k8s-openapi wants it, as every object has it once it is stored; clients needn't.
            if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
                required.retain(|name| name != "metadata");
            }
        }
        schema
    }
}

pub(super) fn group_version_kind(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

/// The definition of `PodList` and its like: k8s-openapi has one generic list.
fn list(gvk: &Gvk, item: &str, dialect: Dialect) -> Value {
    let kind = Gvk { kind: format!("{}List", gvk.kind), ..gvk.clone() };
    let mut metadata = dialect.reference(&format!("{META}.ListMeta"));
    if dialect == Dialect::V3 {
        metadata = json!({"allOf": [metadata], "default": {}});
    }
    metadata["description"] = "Standard list metadata.".into();
    json!({
        "description": format!("{} is a list of {}.", kind.kind, gvk.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "items": {"type": "array", "items": dialect.reference(item),
                "description": format!("The list of {}.", gvk.kind)},
            "kind": {"type": "string", "description": KIND},
            "metadata": metadata,
        },
        "x-kubernetes-group-version-kind": [group_version_kind(&kind)],
    })
}

/// Types whose wire form has no schema of its own in k8s-openapi.
fn scalar_override(name: &str, dialect: Dialect) -> Option<Value> {
    let v3 = dialect == Dialect::V3;
    match name.rsplit('.').next()? {
        "Quantity" if v3 => Some(json!({
            "description": "Quantity is a fixed-point number: 100m, 1.5Gi, 2e3.",
            "oneOf": [{"type": "string"}, {"type": "number"}]})),
        "Quantity" => Some(json!({
            "description": "Quantity is a fixed-point number: 100m, 1.5Gi, 2e3.",
            "type": "string"})),
        "IntOrString" if v3 => Some(json!({
            "description": "IntOrString is a type that can hold an int32 or a string.",
            "format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})),
        "IntOrString" => Some(json!({
            "description": "IntOrString is a type that can hold an int32 or a string.",
            "type": "string", "format": "int-or-string"})),
        _ => None,
    }
}

/// Rewrites references and what v2 or v3 can't say.
fn convert(schema: &Value, dialect: Dialect) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
        return converted_reference(map, target.rsplit('/').next().unwrap_or_default(), dialect);
    }
    let mut out = Map::new();
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(k, v)| (k.clone(), convert(v, dialect))).collect()
            }
            ("items" | "additionalProperties", value) => convert(value, dialect),
            // Only v3 knows oneOf; v2 says nothing, which means any value.
            ("oneOf", _) if dialect == Dialect::V2 => continue,
            ("oneOf", Value::Array(choices)) => {
                choices.iter().map(|c| convert(c, dialect)).collect()
            }
            ("x-kubernetes-int-or-string", _) => continue,
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn converted_reference(map: &Map<String, Value>, target: &str, dialect: Dialect) -> Value {
    let mut out = dialect.reference(target);
    if dialect == Dialect::V3 && map.len() > 1 {
        out = json!({"allOf": [out]});
    }
    for (key, value) in map.iter().filter(|(key, _)| *key != "$ref") {
        out[key] = value.clone();
    }
    out
}

/// Adds what `facts.txt` knows of one property.
fn annotate(property: &mut Value, facts: Option<&Facts>) {
    let is_list = property.get("type").is_some_and(|t| t == "array");
    let Some(property) = property.as_object_mut() else { return };
    let mut set = |key: &str, value: Value| property.insert(key.to_owned(), value);
    if is_list {
        match facts.map(|f| &f.list) {
            Some(ListType::Map(keys)) => {
                set("x-kubernetes-list-type", "map".into());
                set("x-kubernetes-list-map-keys", json!(keys));
            }
            Some(ListType::Set) => {
                set("x-kubernetes-list-type", "set".into());
            }
            _ => {
                set("x-kubernetes-list-type", "atomic".into());
            }
        }
    }
    let Some(facts) = facts else { return };
    if let Some(key) = facts.merge_key {
        set("x-kubernetes-patch-merge-key", key.into());
    }
    if let Some(strategy) = facts.strategy.name() {
        set("x-kubernetes-patch-strategy", strategy.into());
    }
    if facts.atomic_map {
        set("x-kubernetes-map-type", "atomic".into());
    }
    if let Some(default) = facts.default {
        let number = default.parse::<i64>().map(Value::from);
        set("default", number.unwrap_or_else(|_| default.into()));
    }
}
