//! One pass over an object and its kind's schema.

use bowline_api::quantity::Quantity;
use serde_json::{Map, Value};

use super::time;
use crate::Gvk;
use crate::types::{Definition, Field, Shape, Types, types};

/// More unknown fields than this in one object are not listed (they are removed all the same).
pub const MAX_UNKNOWN: usize = 100;

/// A value that its field can't hold: the request is a 400. The text is the one that Go's decoder gives,
/// which clients print after `<Kind> in version "<version>" cannot be handled as a <Kind>: `.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongType {
    #[error("json: cannot unmarshal {found} into Go struct field {field} of type {expected}")]
    Kind {
        /// `object`, `array`, `string`, `number`, `number 1.5`, `bool`.
        found: String,
        /// The innermost structure and the path without indexes: `Container.spec.containers.image`.
        field: String,
        /// `int32`, `[]v1.Container`.
        expected: String,
    },
    /// A string that is no quantity, time or base64.
    #[error("{0}")]
    Text(String),
}

/// Brings an object of a known kind into normal form in place: nulls, unknown fields and empty optional
/// lists and maps are removed, quantities and times become canonical. Returns the paths of the unknown
/// fields (`spec.foo`, `spec.containers[0].bar`), which are an error under strict field validation and
/// a warning otherwise. An unknown kind is left as it is. Idempotent.
pub fn normalize(gvk: &Gvk, object: &mut Value) -> Result<Vec<String>, WrongType> {
    let Some(id) = types().kind(gvk) else { return Ok(Vec::new()) };
    let mut pass = Pass { types: types(), path: Vec::new(), unknown: Vec::new() };
    let definition = pass.types.get(id);
    let Value::Object(map) = object else {
        return Err(pass.wrong(object, definition, definition.go_name().to_owned()));
    };
    pass.structure(definition, map)?;
    Ok(pass.unknown)
}

enum Step {
    Key(String),
    Index(usize),
}

struct Pass {
    types: &'static Types,
    path: Vec<Step>,
    unknown: Vec<String>,
}

impl Pass {
    fn structure(
        &mut self,
        definition: &'static Definition,
        map: &mut Map<String, Value>,
    ) -> Result<(), WrongType> {
        let mut drop = Vec::new();
        for (name, value) in map.iter_mut() {
            let Some(field) = definition.field(name) else {
                self.note_unknown(name);
                drop.push(name.clone());
                continue;
            };
            if value.is_null() {
                drop.push(name.clone());
                continue;
            }
            self.path.push(Step::Key(name.clone()));
            self.value(definition, &field.shape, value)?;
            self.path.pop();
            if is_empty_collection(field, value) {
                drop.push(name.clone());
            }
        }
        for name in drop {
            map.remove(&name);
        }
        Ok(())
    }

    fn value(
        &mut self,
        within: &'static Definition,
        shape: &'static Shape,
        value: &mut Value,
    ) -> Result<(), WrongType> {
        let good = match (shape, &mut *value) {
            (Shape::Any, _) => true,
            (Shape::Bool, value) => value.is_boolean(),
            (Shape::String, value) => value.is_string(),
            (Shape::Int64, value) => value.is_i64(),
            (Shape::Int32, value) => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Shape::Float, value) => value.is_number(),
            (Shape::IntOrString, value) => {
                value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
            }
            (Shape::Quantity, value) => return quantity(value),
            (Shape::Time, Value::String(text)) => return canonical_time(text, time::seconds),
            (Shape::MicroTime, Value::String(text)) => return canonical_time(text, time::micros),
            (Shape::Bytes, Value::String(text)) => return base64(text),
            (Shape::List(item), Value::Array(items)) => return self.list(within, item, items),
            (Shape::Map(item), Value::Object(map)) => return self.map(within, item, map),
            (Shape::Struct(id), Value::Object(map)) => {
                return self.structure(self.types.get(*id), map);
            }
            _ => false,
        };
        if good { Ok(()) } else { Err(self.wrong(value, within, self.go_type(shape))) }
    }

    fn list(
        &mut self,
        within: &'static Definition,
        shape: &'static Shape,
        items: &mut [Value],
    ) -> Result<(), WrongType> {
        for (index, item) in items.iter_mut().enumerate() {
            if item.is_null() {
                *item = zero(shape);
            }
            self.path.push(Step::Index(index));
            self.value(within, shape, item)?;
            self.path.pop();
        }
        Ok(())
    }

    fn map(
        &mut self,
        within: &'static Definition,
        shape: &'static Shape,
        map: &mut Map<String, Value>,
    ) -> Result<(), WrongType> {
        for (key, value) in map.iter_mut() {
            if value.is_null() {
                *value = zero(shape);
            }
            self.path.push(Step::Key(key.clone()));
            self.value(within, shape, value)?;
            self.path.pop();
        }
        Ok(())
    }

    fn note_unknown(&mut self, name: &str) {
        if self.unknown.len() == MAX_UNKNOWN {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.extend([".", key]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if !path.is_empty() {
            path.push('.');
        }
        self.unknown.push(path + name);
    }

    fn wrong(&self, value: &Value, within: &Definition, expected: String) -> WrongType {
        let keys = self.path.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        });
        let path: Vec<&str> = std::iter::once(within.short_name()).chain(keys).collect();
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if expected.starts_with("int") => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        WrongType::Kind { found, field: path.join("."), expected }
    }

    fn go_type(&self, shape: &Shape) -> String {
        match shape {
            Shape::Any => "interface {}".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Float => "float64".to_owned(),
            Shape::String => "string".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::List(item) => format!("[]{}", self.go_type(item)),
            Shape::Map(item) => format!("map[string]{}", self.go_type(item)),
            Shape::Struct(id) => self.types.get(*id).go_name().to_owned(),
        }
    }
}

/// What Go decodes a null list item or map value to.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Any => Value::Null,
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::String | Shape::Bytes => "".into(),
        Shape::Time | Shape::MicroTime => "0001-01-01T00:00:00Z".into(),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) | Shape::Struct(_) => Value::Object(Map::new()),
    }
}

/// An empty list or map is the same as none (`omitempty`), except where the field must be there.
fn is_empty_collection(field: &Field, value: &Value) -> bool {
    !field.required
        && match (&field.shape, value) {
            (Shape::List(_), Value::Array(items)) => items.is_empty(),
            (Shape::Map(_), Value::Object(map)) => map.is_empty(),
            _ => false,
        }
}

fn quantity(value: &mut Value) -> Result<(), WrongType> {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => {
            let message = bowline_api::quantity::ParseError::Format.to_string();
            return Err(WrongType::Text(message));
        }
    };
    let parsed: Quantity = text.parse().map_err(|e| WrongType::Text(format!("{e}")))?;
    let canonical = parsed.to_string();
    if value.as_str() != Some(&canonical) {
        *value = Value::String(canonical);
    }
    Ok(())
}

fn canonical_time(
    text: &mut String,
    canonical: impl Fn(&str) -> Option<String>,
) -> Result<(), WrongType> {
    *text = canonical(text).ok_or_else(|| {
        WrongType::Text(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}"
        ))
    })?;
    Ok(())
}

/// Standard base64 with padding, as Go's decoder takes it (line breaks are skipped).
fn base64(text: &mut String) -> Result<(), WrongType> {
    if text.contains(['\n', '\r']) {
        text.retain(|c| c != '\n' && c != '\r');
    }
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    match body.bytes().position(|b| !legal(b)) {
        None if text.len().is_multiple_of(4) && padding <= 2 => Ok(()),
        at => Err(WrongType::Text(format!(
            "illegal base64 data at input byte {}",
            at.unwrap_or(body.len())
        ))),
    }
}

#[cfg(test)]
mod tests;
