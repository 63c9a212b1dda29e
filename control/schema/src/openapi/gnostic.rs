//! The v2 document as gnostic's `openapi.v2.Document` protobuf message, which is what kubectl asks for.
//!
//! Field numbers are those of the published OpenAPIv2.proto. Extensions (`x-...`) travel as YAML text: JSON
//! is YAML.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// The text under `key`, if there is one.
    fn text(self, field: u32, object: &Value, key: &str) -> Self {
        match object.get(key).and_then(Value::as_str) {
            Some(text) => self.bytes(field, text.as_bytes()),
            None => self,
        }
    }

    fn texts(self, field: u32, object: &Value, key: &str) -> Self {
        let texts = object.get(key).and_then(Value::as_array).into_iter().flatten();
        texts.filter_map(Value::as_str).fold(self, |m, t| m.bytes(field, t.as_bytes()))
    }

    fn flag(mut self, field: u32, object: &Value, key: &str) -> Self {
        if object.get(key) == Some(&Value::Bool(true)) {
            encode_key(field, WireType::Varint, &mut self.0);
            encode_varint(1, &mut self.0);
        }
        self
    }

    fn message(self, field: u32, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    /// The structure under `key`, if there is one.
    fn child(self, field: u32, object: &Value, key: &str, make: fn(&Value) -> Self) -> Self {
        match object.get(key) {
            Some(child) => self.message(field, &make(child)),
            None => self,
        }
    }

    /// Every `x-...` entry as a `NamedAny`.
    fn extensions(self, field: u32, object: &Value) -> Self {
        let extensions = entries(object).filter(|(key, _)| key.starts_with("x-"));
        extensions.fold(self, |m, (key, value)| m.message(field, &named(key, &any(value))))
    }

    /// Each entry of an object as a `Named...`.
    fn entries(self, field: u32, object: &Value, make: fn(&Value) -> Self) -> Self {
        entries(object).fold(self, |m, (key, value)| m.message(field, &named(key, &make(value))))
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

// A message may be given in pieces: fields that occur again are merged, and lists grow. So a document is
// the concatenation of these.

/// The beginning of a document.
pub(super) fn head(head: &Value) -> Vec<u8> {
    Message::default().text(1, head, "swagger").child(2, head, "info", info).0
}

/// One more path.
pub(super) fn path(name: &str, item: &Value) -> Vec<u8> {
    let paths = Message::default().message(2, &named(name, &path_item(item)));
    Message::default().message(8, &paths).0
}

/// One more definition.
pub(super) fn definition(name: &str, definition: &Value) -> Vec<u8> {
    let definitions = Message::default().message(1, &named(name, &schema(definition)));
    Message::default().message(9, &definitions).0
}

fn named(name: &str, value: &Message) -> Message {
    Message::default().bytes(1, name.as_bytes()).message(2, value)
}

/// `Any`, by its YAML text.
fn any(value: &Value) -> Message {
    Message::default().bytes(2, value.to_string().as_bytes())
}

fn info(info: &Value) -> Message {
    Message::default().text(1, info, "title").text(2, info, "version")
}

fn schema(schema: &Value) -> Message {
    Message::default()
        .text(1, schema, "$ref")
        .text(2, schema, "format")
        .text(4, schema, "description")
        .child(5, schema, "default", any)
        .texts(19, schema, "required")
        .child(21, schema, "additionalProperties", |s| {
            Message::default().message(1, &self::schema(s))
        })
        .child(22, schema, "type", |t| {
            Message::default().bytes(1, t.as_str().unwrap_or_default().as_bytes())
        })
        .child(23, schema, "items", |s| Message::default().message(1, &self::schema(s)))
        .child(25, schema, "properties", |p| Message::default().entries(1, p, self::schema))
        .extensions(31, schema)
}

fn path_item(item: &Value) -> Message {
    let message = Message::default()
        .child(2, item, "get", operation)
        .child(3, item, "put", operation)
        .child(4, item, "post", operation)
        .child(5, item, "delete", operation)
        .child(8, item, "patch", operation);
    parameters(message, 9, item)
}

fn operation(operation: &Value) -> Message {
    let message = Message::default()
        .texts(1, operation, "tags")
        .text(3, operation, "description")
        .text(5, operation, "operationId")
        .texts(6, operation, "produces")
        .texts(7, operation, "consumes");
    parameters(message, 8, operation)
        .child(9, operation, "responses", |r| Message::default().entries(1, r, response_value))
        .extensions(13, operation)
}

fn response_value(response: &Value) -> Message {
    let schema_item = |s: &Value| Message::default().message(1, &schema(s));
    let response = Message::default().text(1, response, "description").child(
        2,
        response,
        "schema",
        schema_item,
    );
    Message::default().message(1, &response)
}

fn parameters(message: Message, field: u32, object: &Value) -> Message {
    let list = object.get("parameters").and_then(Value::as_array).into_iter().flatten();
    list.fold(message, |m, parameter| {
        let item = Message::default().message(1, &self::parameter(parameter));
        m.message(field, &item)
    })
}

/// `Parameter`: a body, or a `NonBodyParameter` in the query or path.
fn parameter(parameter: &Value) -> Message {
    match parameter.get("in").and_then(Value::as_str) {
        Some("body") => {
            let body = Message::default()
                .text(2, parameter, "name")
                .text(3, parameter, "in")
                .flag(4, parameter, "required")
                .child(5, parameter, "schema", schema);
            Message::default().message(1, &body)
        }
        Some("path") => {
            let path =
                common(parameter).text(5, parameter, "type").flag(19, parameter, "uniqueItems");
            Message::default().message(2, &Message::default().message(4, &path))
        }
        _ => {
            let query =
                common(parameter).text(6, parameter, "type").flag(20, parameter, "uniqueItems");
            Message::default().message(2, &Message::default().message(3, &query))
        }
    }
}

/// What query and path parameters number alike.
fn common(parameter: &Value) -> Message {
    Message::default()
        .flag(1, parameter, "required")
        .text(2, parameter, "in")
        .text(3, parameter, "description")
        .text(4, parameter, "name")
}
