//! `meta.k8s.io/v1` Tables: what `kubectl get` shows.
//!
//! Each kind has its columns, in a short form, and a function that makes a row's cells. Columns, their
//! order and what the cells say are upstream's.

mod age;
mod cell;
mod events;
mod network;
mod node;
mod pod;
mod policy;
mod storage;
mod workload;

use serde_json::{Value, json};

use crate::Gvk;
use cell::Row;

/// The `includeObject` parameter: what each row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// Makes the cells of one object.
type Cells = fn(&Row<'_>) -> Vec<Value>;

/// The columns of a kind, by name, joined by `|`: a trailing `+` marks those of `-o wide`, `#` numbers.
struct Layout {
    columns: &'static str,
    cells: Cells,
}

fn layout(gvk: &Gvk) -> Layout {
    let found = match gvk.group.as_str() {
        "" => core(&gvk.kind),
        "apps" | "batch" | "autoscaling" => workload::layout(&gvk.kind),
        "networking.k8s.io" | "discovery.k8s.io" => network::layout(&gvk.kind),
        "storage.k8s.io" => storage::layout(&gvk.kind),
        "events.k8s.io" => events::layout(&gvk.kind),
        _ => policy::layout(&gvk.kind),
    };
    let (columns, cells) = found.unwrap_or(("Name|Age", |row| vec![row.name(), row.age()]));
    Layout { columns, cells }
}

fn core(kind: &str) -> Option<(&'static str, Cells)> {
    match kind {
        "Pod" => Some(pod::LAYOUT),
        "Node" => Some(node::LAYOUT),
        "Event" => events::layout(kind),
        "Service" | "Endpoints" => network::layout(kind),
        "PersistentVolume" | "PersistentVolumeClaim" => storage::layout(kind),
        "ReplicationController" | "PodTemplate" => workload::layout(kind),
        _ => policy::layout(kind),
    }
}

/// The `columnDefinitions` of a kind, in order.
pub fn columns(gvk: &Gvk) -> Value {
    let definition = |column: &str| {
        let name = column.trim_end_matches(['+', '#']);
        json!({
            "name": name,
            "type": if column.contains('#') { "integer" } else { "string" },
            "format": if name == "Name" { "name" } else { "" },
            "description": format!("{name} of the object."),
            "priority": u8::from(column.contains('+')),
        })
    };
    layout(gvk).columns.split('|').map(definition).collect()
}

/// One row. `now` is Unix seconds (ages are relative to it).
pub fn row(gvk: &Gvk, object: &Value, include: IncludeObject, now: i64) -> Value {
    let mut row = json!({"cells": (layout(gvk).cells)(&Row { object, now })});
    if gvk.group.is_empty()
        && gvk.kind == "Pod"
        && let Some(conditions) = pod::row_conditions(object)
    {
        row["conditions"] = conditions;
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata"),
            });
        }
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
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
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta,
        "columnDefinitions": columns, "rows": rows,
    })
}

#[cfg(test)]
mod tests;
