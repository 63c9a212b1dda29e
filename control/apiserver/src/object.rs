//! Reading and writing parts of objects that all kinds share.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

/// Text at a JSON pointer; empty if it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// The revision that the object says it is of; `None` if it says nothing usable.
pub(crate) fn revision(object: &Value) -> Option<u64> {
    text(object, "/metadata/resourceVersion").parse().ok()
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|v| !v.is_null())
}

pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    items(object, "/metadata/finalizers").iter().filter_map(Value::as_str)
}

/// The elements of the list at a pointer; none if it is not there.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object's metadata, made if it is not there.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// A member that is an object, made (or replaced, if it is something else).
pub(crate) fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    as_map(as_map(object).entry(name).or_insert(Value::Null))
}

/// The value as an object, whatever it was.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

/// Sets a member of the metadata, or removes it when there is nothing to keep.
pub(crate) fn keep_metadata(object: &mut Value, name: &str, value: Option<&Value>) {
    let metadata = metadata(object);
    match value {
        Some(value) => metadata.insert(name.to_owned(), value.clone()),
        None => metadata.remove(name),
    };
}

/// The same for a member of the object itself.
pub(crate) fn keep(object: &mut Value, name: &str, value: Option<&Value>) {
    let map = as_map(object);
    match value {
        Some(value) => map.insert(name.to_owned(), value.clone()),
        None => map.remove(name),
    };
}

/// Adds a finalizer if it is not there.
pub(crate) fn add_finalizer(object: &mut Value, finalizer: &str) {
    let list = metadata(object).entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list
        && !list.iter().any(|f| f == finalizer)
    {
        list.push(Value::from(finalizer));
    }
}

pub(crate) fn remove_finalizer(object: &mut Value, finalizer: &str) {
    let metadata = metadata(object);
    if let Some(Value::Array(list)) = metadata.get_mut("finalizers") {
        list.retain(|f| f != finalizer);
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// Now, as objects write it: RFC 3339 in whole seconds.
pub(crate) fn now() -> String {
    rfc3339(jiff::Timestamp::now())
}

pub(crate) fn rfc3339(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What every stored object's text goes on with after its kind: see [`encode`].
const METADATA: &[u8] = b",\"metadata\":{";

/// The text of an object: `apiVersion`, `kind` and `metadata` come first, and the metadata holds no
/// `resourceVersion`, so that [`with_revision`] can put it in without reading the text.
pub(crate) fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"apiVersion\":");
    write(&mut out, object.get("apiVersion").unwrap_or(&Value::Null));
    out.extend_from_slice(b",\"kind\":");
    write(&mut out, object.get("kind").unwrap_or(&Value::Null));
    out.extend_from_slice(METADATA);
    let empty = Map::new();
    let members = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut first = true;
    for (name, value) in members.iter().filter(|(name, _)| *name != "resourceVersion") {
        write_member(&mut out, name, value, &mut first);
    }
    out.push(b'}');
    let known = ["apiVersion", "kind", "metadata"];
    let rest = object.as_object().unwrap_or(&empty).iter();
    for (name, value) in rest.filter(|(name, _)| !known.contains(&name.as_str())) {
        write_member(&mut out, name, value, &mut false);
    }
    out.push(b'}');
    Bytes::from(out)
}

fn write_member(out: &mut Vec<u8>, name: &str, value: &Value, first: &mut bool) {
    if !*first {
        out.push(b',');
    }
    *first = false;
    write(out, &Value::from(name));
    out.push(b':');
    write(out, value);
}

fn write(out: &mut Vec<u8>, value: &Value) {
    // Writing a `Value` to memory can't fail: its keys are strings and a Vec takes everything.
    serde_json::to_writer(out, value).expect("a JSON value is always writable to memory");
}

/// Puts the revision into a text made by [`encode`].
pub(crate) fn with_revision(text: &[u8], revision: u64) -> Bytes {
    let start = text.windows(METADATA.len()).position(|window| window == METADATA);
    let Some(start) = start.map(|at| at + METADATA.len()) else {
        return Bytes::copy_from_slice(text);
    };
    let mut out = BytesMut::with_capacity(text.len() + 48);
    out.put_slice(&text[..start]);
    out.put_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
    if text.get(start) != Some(&b'}') {
        out.put_u8(b',');
    }
    out.put_slice(&text[start..]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_encoded_object_takes_a_revision_and_reads_back_equal() {
        let object = json!({
            "data": {"a": ",\"metadata\":{"}, "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "x", "resourceVersion": "7"},
        });
        let text = with_revision(&encode(&object), 42);
        let read: Value = serde_json::from_slice(&text).expect("it is JSON");
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(read, expected);
    }

    #[test]
    fn empty_metadata_is_no_trap() {
        let text = with_revision(&encode(&json!({"kind": "X"})), 3);
        let read: Value = serde_json::from_slice(&text).expect("it is JSON");
        assert_eq!(revision(&read), Some(3));
    }
}
