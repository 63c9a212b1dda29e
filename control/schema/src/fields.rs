//! The fields that a field selector may name.

use serde_json::Value;

use crate::Gvk;

/// The value that field `name` has in `object` for a field selector (empty if the field is absent), or
/// `None` if the kind doesn't support that field: the request is then a 400
/// `field label not supported: <name>`.
pub fn value(gvk: &Gvk, object: &Value, name: &str) -> Option<String> {
    let _ = gvk;
    let path = match name {
        "metadata.name" => "/metadata/name",
        "metadata.namespace" => "/metadata/namespace",
        _ => return None,
    };
    Some(object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Whether a field selector on this kind may name the field.
pub fn supported(gvk: &Gvk, name: &str) -> bool {
    value(gvk, &Value::Null, name).is_some()
}
