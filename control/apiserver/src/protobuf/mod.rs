//! Reads objects in Kubernetes' protobuf form: `kubectl create` and other Go clients send nothing
//! else.
//!
//! Only reading: answers are JSON, which every client takes. The wire format is proto2's; which
//! field is which stands in `fields.txt`, one message a line:
//!
//! ```text
//! apps/v1.DeploymentSpec replicas=1*i selector=2*Mmeta/v1.LabelSelector paused=7b ...
//!                        |        ||'- type: s string, i integer, b bool, f double, y bytes,
//!                        |        ||   M message, Q quantity, I int-or-string, t time,
//!                        |        ||   u microtime, d duration,
//!                        |        ||   F raw fields, R raw object, L list of strings in a message
//!                        |        |'- * set only if given (else a zero value means "not given");
//!                        |        |   ^ its members belong to the enclosing object
//!                        |        |   [ before a type: repeated; { before a type: map from string
//!                        |        '- number on the wire
//!                        '- name in JSON
//! ```

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use bowline_schema::Gvk;
use serde_json::{Map, Value};

/// What an object in this form begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; the deepest kind has about twenty.
const MAX_DEPTH: usize = 64;

static TABLE: &str = include_str!("fields.txt");

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("the body does not begin as a Kubernetes protobuf object does")]
    Magic,
    #[error("the body ends within a field, or a field is malformed")]
    Wire,
    #[error("no protobuf form of {0} is known: send JSON")]
    Unknown(String),
    #[error("messages are nested too deeply")]
    Depth,
    #[error("an embedded JSON document cannot be read: {0}")]
    Json(String),
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// Reads an object with its envelope (`k8s.io/apimachinery` runtime.Unknown).
pub(crate) fn read(body: &[u8]) -> Result<Value> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind, mut raw, mut content_type) = ("", "", &b""[..], "");
    for field in Fields(body) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (4, Wire::Bytes(text)) => content_type = utf8(text)?,
            _ => {}
        }
    }
    if content_type.contains("json") {
        return serde_json::from_slice(raw).map_err(|e| ProtobufError::Json(e.to_string()));
    }
    let message = message_name(api_version, kind);
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    read_message(&message, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

/// The table's name of a kind: `rbac.authorization.k8s.io/v1` is `rbac/v1` there, and what all
/// groups share is in `meta/v1`.
fn message_name(api_version: &str, kind: &str) -> String {
    let meta = format!("meta/v1.{kind}");
    if table().contains_key(meta.as_str()) {
        return meta;
    }
    let gvk = Gvk::of(&serde_json::json!({"apiVersion": api_version, "kind": kind}));
    let (group, version) = gvk.map(|gvk| (gvk.group, gvk.version)).unwrap_or_default();
    let group = match group.split('.').next().unwrap_or_default() {
        "" => "core",
        first => first,
    };
    format!("{group}/{version}.{kind}")
}

/// Lines of the table by message.
fn table() -> &'static HashMap<&'static str, &'static str> {
    static LINES: OnceLock<HashMap<&str, &str>> = OnceLock::new();
    LINES.get_or_init(|| {
        TABLE.lines().map(|line| line.split_once(' ').unwrap_or((line, ""))).collect()
    })
}

/// One entry of a line.
#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    number: u64,
    /// Zero values were given.
    explicit: bool,
    inline: bool,
    kind: &'static str,
}

fn fields(line: &'static str) -> impl Iterator<Item = Field> {
    line.split(' ').filter_map(|entry| {
        let (name, rest) = entry.split_once('=')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, kind) = rest.split_at(digits);
        let explicit = kind.starts_with('*');
        let inline = kind.starts_with('^');
        let kind = if explicit || inline { &kind[1..] } else { kind };
        Some(Field { name, number: number.parse().ok()?, explicit, inline, kind })
    })
}

fn read_message(
    name: &str,
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    let line = table().get(name).ok_or_else(|| ProtobufError::Unknown(name.to_owned()))?;
    let known: Vec<Field> = fields(line).collect();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let Some(field) = known.iter().find(|field| field.number == number) else { continue };
        if field.inline {
            let (Wire::Bytes(bytes), Some(message)) = (wire, field.kind.strip_prefix('M')) else {
                return Err(ProtobufError::Wire);
            };
            read_message(message, bytes, into, depth + 1)?;
        } else if let Some(element) = field.kind.strip_prefix('[') {
            let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                read_element(element, wire, list, depth)?;
            }
        } else if let Some(element) = field.kind.strip_prefix('{') {
            let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let (Value::Object(map), Wire::Bytes(entry)) = (map, wire) {
                read_entry(element, entry, map, depth)?;
            }
        } else {
            let value = read_value(field.kind, wire, depth)?;
            if !value.is_null() && (field.explicit || !is_zero(&value)) {
                into.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// A value that a field without presence has when nothing was given.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn read_element(kind: &str, wire: Wire<'_>, list: &mut Vec<Value>, depth: usize) -> Result<()> {
    // Numbers may come packed.
    if let (Wire::Bytes(mut packed), "i" | "b") = (wire, kind) {
        while !packed.is_empty() {
            list.push(read_value(kind, Wire::Varint(varint(&mut packed)?), depth)?);
        }
        return Ok(());
    }
    list.push(read_value(kind, wire, depth)?);
    Ok(())
}

fn read_entry(kind: &str, entry: &[u8], map: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let (mut key, mut value) = (String::new(), None);
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = utf8(text)?.to_owned(),
            (2, wire) => value = Some(read_value(kind, wire, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        // An entry without a value has the type's empty one.
        None if kind.starts_with('M') => Value::Object(Map::new()),
        None => "".into(),
    };
    map.insert(key, value);
    Ok(())
}

fn read_value(kind: &str, wire: Wire<'_>, depth: usize) -> Result<Value> {
    match (kind, wire) {
        ("i", Wire::Varint(number)) => Ok(number.cast_signed().into()),
        ("b", Wire::Varint(number)) => Ok((number != 0).into()),
        ("f", Wire::Fixed64(bits)) => Ok(f64::from_bits(bits).into()),
        ("s", Wire::Bytes(text)) => Ok(utf8(text)?.into()),
        ("y", Wire::Bytes(bytes)) => {
            Ok(base64::engine::general_purpose::STANDARD.encode(bytes).into())
        }
        ("Q", Wire::Bytes(bytes)) => Ok(first_text(bytes)?.unwrap_or("0").into()),
        ("I", Wire::Bytes(bytes)) => int_or_string(bytes),
        ("t", Wire::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%SZ"),
        ("u", Wire::Bytes(bytes)) => time(bytes, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        ("d", Wire::Bytes(bytes)) => Ok(format!("{}ns", numbers(bytes)?.0).into()),
        ("F" | "R", Wire::Bytes(bytes)) => match first_bytes(bytes)? {
            None | Some([]) => Ok(Value::Null),
            Some(raw) => {
                serde_json::from_slice(raw).map_err(|e| ProtobufError::Json(e.to_string()))
            }
        },
        ("L", Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            for field in Fields(bytes) {
                if let (1, Wire::Bytes(text)) = field? {
                    list.push(utf8(text)?.into());
                }
            }
            Ok(Value::Array(list))
        }
        (kind, Wire::Bytes(bytes)) => {
            let name = kind.strip_prefix('M').ok_or(ProtobufError::Wire)?;
            let mut message = Map::new();
            read_message(name, bytes, &mut message, depth + 1)?;
            Ok(Value::Object(message))
        }
        _ => Err(ProtobufError::Wire),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Wire)
}

fn first_bytes(bytes: &[u8]) -> Result<Option<&[u8]>> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(bytes)) = field? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn first_text(bytes: &[u8]) -> Result<Option<&str>> {
    first_bytes(bytes)?.map(utf8).transpose()
}

/// Fields 1 and 2 as numbers.
fn numbers(bytes: &[u8]) -> Result<(i64, i64)> {
    let (mut first, mut second) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(number)) => first = number.cast_signed(),
            (2, Wire::Varint(number)) => second = number.cast_signed(),
            _ => {}
        }
    }
    Ok((first, second))
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (is_text, number) = numbers(bytes)?;
    if is_text == 0 {
        return Ok(number.into());
    }
    for field in Fields(bytes) {
        if let (3, Wire::Bytes(text)) = field? {
            return Ok(utf8(text)?.into());
        }
    }
    Ok("".into())
}

/// Seconds and nanoseconds; the beginning of 1970 stands for no time.
fn time(bytes: &[u8], format: &str) -> Result<Value> {
    let (seconds, nanos) = numbers(bytes)?;
    if (seconds, nanos) == (0, 0) {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Wire)?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Wire)?;
    Ok(time.strftime(format).to_string().into())
}

/// A field's content on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, with their numbers.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            // Nothing after it can be made sense of.
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u64, Wire<'a>)> {
        let tag = varint(&mut self.0)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => {
                let bits = take(&mut self.0, 8)?.try_into().map_err(|_| ProtobufError::Wire)?;
                Wire::Fixed64(u64::from_le_bytes(bits))
            }
            2 => {
                let length = varint(&mut self.0)?;
                let length = usize::try_from(length).map_err(|_| ProtobufError::Wire)?;
                Wire::Bytes(take(&mut self.0, length)?)
            }
            5 => Wire::Bytes(take(&mut self.0, 4)?),
            _ => return Err(ProtobufError::Wire),
        };
        Ok((tag >> 3, wire))
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(ProtobufError::Wire)?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first().ok_or(ProtobufError::Wire)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtobufError::Wire)
}

#[cfg(test)]
mod tests;
