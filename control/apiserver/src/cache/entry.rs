//! One object in the cache.

use std::sync::Arc;

use bowline_schema::Gvk;
use bowline_store::{Record, Revision};
use bytes::Bytes;
use serde_json::Value;

use crate::object;

/// An object as clients read it, and what selectors ask about.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    /// The JSON text in the storage version, resourceVersion included.
    pub(crate) bytes: Bytes,
    pub(crate) revision: Revision,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
}

impl Entry {
    pub(crate) fn new(record: &Record, facts: Option<(&Gvk, &[&'static str])>) -> Self {
        let key = Arc::clone(&record.key);
        let revision = record.modified;
        let Some((gvk, names)) = facts else {
            let bytes = record.value.clone();
            return Self { key, bytes, revision, labels: Box::default(), fields: Box::default() };
        };
        let bytes = object::with_revision(&record.value, revision);
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!(key = &*key, %error, "an object in the store is no JSON");
            Value::Null
        });
        let field = |name: &&'static str| {
            bowline_schema::fields::value(gvk, &value, name).map(|v| (*name, v.into_boxed_str()))
        };
        Self {
            key,
            bytes,
            revision,
            labels: labels(&value),
            fields: names.iter().filter_map(field).collect(),
        }
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.labels[found].1)
    }

    /// The field's value for a selector; empty without one.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// The object itself.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}

fn labels(object: &Value) -> Box<[(Box<str>, Box<str>)]> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    // The map is sorted, which the search relies on.
    let pairs = labels.into_iter().flatten();
    pairs.map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into())).collect()
}
