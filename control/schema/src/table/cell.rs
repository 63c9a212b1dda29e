//! One object on its way into a row, and what cells of many kinds share.

use serde_json::{Map, Value};

use super::age;

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";
pub(super) const UNSET: &str = "<unset>";

pub(super) struct Row<'a> {
    pub object: &'a Value,
    /// Unix seconds.
    pub now: i64,
}

impl<'a> Row<'a> {
    /// The value at a JSON pointer; null if absent.
    pub(super) fn at(&self, pointer: &str) -> &'a Value {
        self.object.pointer(pointer).unwrap_or(&Value::Null)
    }

    pub(super) fn text(&self, pointer: &str) -> &'a str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    pub(super) fn number(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or_default()
    }

    pub(super) fn list(&self, pointer: &str) -> &'a [Value] {
        self.at(pointer).as_array().map_or(&[], Vec::as_slice)
    }

    /// A string cell with a stand-in for the empty one.
    pub(super) fn or(&self, pointer: &str, absent: &str) -> Value {
        let text = self.text(pointer);
        if text.is_empty() { absent.into() } else { text.into() }
    }

    pub(super) fn name(&self) -> Value {
        self.text("/metadata/name").into()
    }

    pub(super) fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp", UNKNOWN).into()
    }

    /// How long ago the time at a pointer was.
    pub(super) fn since(&self, pointer: &str, absent: &str) -> String {
        match age::seconds(self.text(pointer)) {
            Some(then) => age::human(self.now - then),
            None => absent.to_owned(),
        }
    }

    /// The status of a condition: `True`, `False`, `Unknown`, or empty if there is none.
    pub(super) fn condition(&self, kind: &str) -> &'a str {
        let found = self.list("/status/conditions").iter().find(|c| c["type"] == kind);
        found.and_then(|c| c["status"].as_str()).unwrap_or_default()
    }
}

pub(super) fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number or string as text (`IntOrString`).
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn labels(map: Option<&Map<String, Value>>) -> String {
    let pairs: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// A `LabelSelector` in its text form; `<none>` if it is absent or selects everything.
pub(super) fn selector(selector: &Value) -> String {
    let mut parts: Vec<String> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in
        selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten()
    {
        let key = text_of(expression, "key");
        let mut values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        parts.push(match text_of(expression, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

/// Joins with commas; at most `max`, then `+ N more...`.
pub(super) fn join_some(items: &[String], max: usize) -> String {
    let shown = items.iter().take(max).cloned().collect::<Vec<_>>().join(",");
    match items.len().checked_sub(max) {
        Some(more) if more > 0 => format!("{shown} + {more} more..."),
        _ => shown,
    }
}

pub(super) fn join_or(items: &[String], absent: &str) -> String {
    if items.is_empty() { absent.to_owned() } else { items.join(",") }
}

/// The strings of a list.
pub(super) fn texts(list: &[Value]) -> Vec<String> {
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
