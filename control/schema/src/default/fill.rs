//! The few ways to fill a field.

use serde_json::{Map, Value};

pub(super) type Object = Map<String, Value>;

/// Sets a field that is absent.
pub(super) fn value(object: &mut Object, name: &str, default: impl Into<Value>) {
    if object.get(name).is_none_or(Value::is_null) {
        object.insert(name.to_owned(), default.into());
    }
}

/// Sets a string that is absent or empty.
pub(super) fn text(object: &mut Object, name: &str, default: &str) {
    if object.get(name).is_none_or(|v| v.is_null() || v == "") {
        object.insert(name.to_owned(), default.into());
    }
}

/// Sets a number that is absent or zero.
pub(super) fn number(object: &mut Object, name: &str, default: i64) {
    if object.get(name).is_none_or(|v| v.is_null() || v == 0) {
        object.insert(name.to_owned(), default.into());
    }
}

/// The structure in a field, if there is one.
pub(super) fn object_at<'a>(object: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    object.get_mut(name).and_then(Value::as_object_mut)
}

/// The structure in a field, made if it is absent; `None` if something else is there.
pub(super) fn object_made<'a>(object: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    value(object, name, Map::new());
    object_at(object, name)
}

/// The structures in a list; none if the field is absent.
pub(super) fn each<'a>(
    object: &'a mut Object,
    name: &str,
) -> impl Iterator<Item = &'a mut Object> + use<'a> {
    let items = object.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Whether a string field has this value.
pub(super) fn is(object: &Object, name: &str, expected: &str) -> bool {
    object.get(name).and_then(Value::as_str) == Some(expected)
}
