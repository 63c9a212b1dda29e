//! `meta.k8s.io/v1` Tables: what `kubectl get` shows.

use serde_json::Value;

use crate::Gvk;

/// The `includeObject` parameter: what each row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// The `columnDefinitions` of a kind, in order.
pub fn columns(gvk: &Gvk) -> Value {
    let _ = gvk;
    Value::Array(Vec::new())
}

/// One row. `now` is Unix seconds (ages are relative to it).
pub fn row(gvk: &Gvk, object: &Value, include: IncludeObject, now: i64) -> Value {
    let _ = (gvk, object, include, now);
    Value::Null
}

/// A whole Table: of a list (`list_meta` is the list's metadata) or of one object. For a watch, leave
/// the columns out of all but the first event (`with_columns`).
pub fn table<'a>(
    gvk: &Gvk,
    objects: impl IntoIterator<Item = &'a Value>,
    list_meta: &Value,
    include: IncludeObject,
    with_columns: bool,
    now: i64,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|o| row(gvk, o, include, now)).collect();
    let columns = if with_columns { columns(gvk) } else { Value::Array(Vec::new()) };
    serde_json::json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta,
        "columnDefinitions": columns, "rows": rows,
    })
}
