//! From raw schemas to the compact form.

use std::collections::HashMap;

use serde_json::Value;

use super::facts::{self, TypeFacts};
use super::kinds::{self, Definitions};
use super::{Definition, DefinitionId, Field, Shape, Types};

pub(super) fn compile() -> Types {
    let table = facts::read();
    let all = kinds::all();
    let mut compiler = Compiler::default();
    kinds::visit(all.iter().map(|kind| kind.source), |name, schema, around| {
        if schema["properties"].is_object() {
            let definition = compiler.definition(name, schema, around, table.of(name));
            let id = compiler.id(name);
            compiler.definitions[usize::from(id.0)] = definition;
        }
    });
    let kinds =
        all.into_iter().map(|kind| (kind.gvk, compiler.id(&(kind.source.name)()))).collect();
    compiler.definitions.shrink_to_fit();
    Types { definitions: compiler.definitions, kinds }
}

#[derive(Default)]
struct Compiler {
    ids: HashMap<String, DefinitionId>,
    /// By id; empty until the definition's turn comes.
    definitions: Vec<Definition>,
}

impl Compiler {
    fn id(&mut self, name: &str) -> DefinitionId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let index = u16::try_from(self.definitions.len()).expect("fewer than 65536 definitions");
        self.definitions.push(Definition {
            name: name.into(),
            fields: Box::default(),
            atomic: false,
        });
        self.ids.insert(name.to_owned(), DefinitionId(index));
        DefinitionId(index)
    }

    fn definition(
        &mut self,
        name: &str,
        schema: &Value,
        around: &Definitions,
        facts: Option<&TypeFacts>,
    ) -> Definition {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields: Vec<Field> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, schema)| Field {
                name: field.as_str().into(),
                shape: self.shape(schema, around),
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

    fn shape(&mut self, schema: &Value, around: &Definitions) -> Shape {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.reference(reference.rsplit('/').next().unwrap_or_default(), around);
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("boolean"), _) => Shape::Bool,
            (Some("integer"), Some("int64")) => Shape::Int64,
            (Some("integer"), _) => Shape::Int32,
            (Some("number"), _) => Shape::Float,
            (Some("string"), Some("byte")) => Shape::Bytes,
            (Some("string"), Some("date-time")) => Shape::Time,
            (Some("string"), _) => Shape::String,
            (Some("array"), _) => Shape::List(Box::new(self.shape(&schema["items"], around))),
            (Some("object"), _) if schema["additionalProperties"].is_object() => {
                Shape::Map(Box::new(self.shape(&schema["additionalProperties"], around)))
            }
            _ => Shape::Any,
        }
    }

    fn reference(&mut self, name: &str, around: &Definitions) -> Shape {
        match name.rsplit('.').next() {
            Some("Quantity") => return Shape::Quantity,
            Some("IntOrString") => return Shape::IntOrString,
            Some("Time") => return Shape::Time,
            Some("MicroTime") => return Shape::MicroTime,
            _ => {}
        }
        let target = &around[name];
        if target["properties"].is_object() {
            Shape::Struct(self.id(name))
        } else {
            self.shape(target, around)
        }
    }
}
