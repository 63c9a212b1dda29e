//! From raw schemas to the compact form.

use std::collections::HashMap;

use serde_json::Value;

use super::facts::{self, TypeFacts};
use super::{Definition, DefinitionId, Field, Shape, Types, kinds};

pub(super) fn compile() -> Types {
    let raw = kinds::raw();
    let table = facts::read();
    let names: Vec<&String> = raw.definitions.keys().collect();
    let ids: HashMap<&str, DefinitionId> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let index = u16::try_from(index).expect("there are fewer than 65536 definitions");
            (name.as_str(), DefinitionId(index))
        })
        .collect();
    let compiler = Compiler { raw: &raw.definitions, ids: &ids };
    let definitions = raw
        .definitions
        .iter()
        .map(|(name, schema)| compiler.definition(name, schema, table.of(name)))
        .collect();
    let kinds = raw.kinds.iter().map(|(gvk, name)| (gvk.clone(), ids[name.as_str()])).collect();
    Types { definitions, kinds }
}

struct Compiler<'a> {
    raw: &'a serde_json::Map<String, Value>,
    ids: &'a HashMap<&'a str, DefinitionId>,
}

impl Compiler<'_> {
    fn definition(&self, name: &str, schema: &Value, facts: Option<&TypeFacts>) -> Definition {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields: Vec<Field> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, schema)| Field {
                name: field.as_str().into(),
                shape: self.shape(schema),
                required: required.contains(&field.as_str()),
                facts: facts
                    .and_then(|f| f.fields.get(field.as_str()))
                    .cloned()
                    .unwrap_or_default(),
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Definition {
            name: name.into(),
            fields: fields.into(),
            atomic: facts.is_some_and(|f| f.atomic),
        }
    }

    fn shape(&self, schema: &Value) -> Shape {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.reference(reference.rsplit('/').next().unwrap_or_default());
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("boolean"), _) => Shape::Bool,
            (Some("integer"), Some("int64")) => Shape::Int64,
            (Some("integer"), _) => Shape::Int32,
            (Some("number"), _) => Shape::Float,
            (Some("string"), Some("byte")) => Shape::Bytes,
            (Some("string"), Some("date-time")) => Shape::Time,
            (Some("string"), _) => Shape::String,
            (Some("array"), _) => Shape::List(Box::new(self.shape(&schema["items"]))),
            (Some("object"), _) if schema["additionalProperties"].is_object() => {
                Shape::Map(Box::new(self.shape(&schema["additionalProperties"])))
            }
            _ => Shape::Any,
        }
    }

    fn reference(&self, name: &str) -> Shape {
        match name.rsplit('.').next() {
            Some("Quantity") => return Shape::Quantity,
            Some("IntOrString") => return Shape::IntOrString,
            Some("Time") => return Shape::Time,
            Some("MicroTime") => return Shape::MicroTime,
            _ => {}
        }
        let target = &self.raw[name];
        if target["properties"].is_object() {
            Shape::Struct(self.ids[name])
        } else {
            self.shape(target)
        }
    }
}
