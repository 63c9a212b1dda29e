//! Events, in either of their two API forms.

use serde_json::Value;

use super::Cells;
use super::cell::{Row, UNKNOWN, text_of};

pub(super) fn layout(kind: &str) -> Option<(&'static str, Cells)> {
    (kind == "Event").then_some((
        "Last Seen|Type|Reason|Object|Subobject+|Source+|Message|First Seen+|Count#+|Name+",
        cells as Cells,
    ))
}

/// The first of these times that is set.
fn first_since(row: &Row<'_>, pointers: &[&str]) -> Value {
    let set = pointers.iter().find(|p| !row.text(p).is_empty());
    set.map_or(UNKNOWN.to_owned(), |p| row.since(p, UNKNOWN)).into()
}

fn cells(row: &Row<'_>) -> Vec<Value> {
    // events.k8s.io has other names for the same fields.
    let object = match row.at("/involvedObject") {
        Value::Null => row.at("/regarding"),
        object => object,
    };
    let component = match row.text("/source/component") {
        "" => row.text("/reportingComponent"),
        component => component,
    };
    let component = if component.is_empty() { row.text("/reportingController") } else { component };
    let host = match row.text("/source/host") {
        "" => row.text("/deprecatedSource/host"),
        host => host,
    };
    let source =
        if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let message = match row.text("/message") {
        "" => row.text("/note"),
        message => message,
    };
    let count = ["/series/count", "/count", "/deprecatedCount"]
        .iter()
        .map(|p| row.number(p))
        .find(|n| *n != 0)
        .unwrap_or(1);
    let kind = text_of(object, "kind").to_lowercase();
    vec![
        first_since(
            row,
            &[
                "/series/lastObservedTime",
                "/lastTimestamp",
                "/deprecatedLastTimestamp",
                "/eventTime",
                "/firstTimestamp",
            ],
        ),
        row.text("/type").into(),
        row.text("/reason").into(),
        format!("{kind}/{}", text_of(object, "name")).into(),
        text_of(object, "fieldPath").into(),
        source.into(),
        message.trim().into(),
        first_since(row, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]),
        count.into(),
        row.name(),
    ]
}
