//! One object in the cache.

use std::sync::Arc;

use bowline_schema::Gvk;
use bowline_store::{Record, Revision};
use bytes::Bytes;
use serde_json::Value;

use crate::object;

/// Fields that the key tells.
const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

/// An object as clients read it, and what selectors ask about.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    /// The JSON text in the storage version, resourceVersion included.
    pub(crate) bytes: Bytes,
    pub(crate) revision: Revision,
    labels: Pairs,
    fields: Pairs,
}

/// Names and values, all in one text: most objects are only ever read whole.
#[derive(Debug, Default)]
struct Pairs(Box<str>);

impl Pairs {
    /// Ends names and values; no label and no field that is selected by has it.
    const END: char = '\0';

    fn of<N: AsRef<str>, V: AsRef<str>>(pairs: impl Iterator<Item = (N, V)>) -> Self {
        let mut text = String::new();
        for (name, value) in pairs {
            for part in [name.as_ref(), value.as_ref()] {
                text.extend(part.chars().filter(|c| *c != Self::END));
                text.push(Self::END);
            }
        }
        Self(text.into())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut parts = self.0.split_terminator(Self::END);
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            if key == name {
                return Some(value);
            }
        }
        None
    }
}

impl Entry {
    pub(crate) fn new(record: &Record, facts: Option<(&Gvk, &[&'static str])>) -> Self {
        let key = Arc::clone(&record.key);
        let revision = record.modified;
        let Some((gvk, names)) = facts else {
            let bytes = record.value.clone();
            return Self {
                key,
                bytes,
                revision,
                labels: Pairs::default(),
                fields: Pairs::default(),
            };
        };
        let bytes = object::with_revision(&record.value, revision);
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!(key = &*key, %error, "an object in the store is no JSON");
            Value::Null
        });
        let own = names.iter().filter(|name| !matches!(**name, NAME | NAMESPACE));
        let field = |name: &&'static str| {
            let value = bowline_schema::fields::value(gvk, &value, name)?;
            Some((*name, value)).filter(|(_, value)| !value.is_empty())
        };
        Self {
            key,
            bytes,
            revision,
            labels: labels(&value),
            fields: Pairs::of(own.filter_map(field)),
        }
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name)
    }

    /// The field's value for a selector; empty without one.
    pub(crate) fn field(&self, name: &str) -> &str {
        // `/registry/<group>/<resource>/[<namespace>/]<name>`
        let mut place = self.key.splitn(5, '/').skip(4).flat_map(|rest| rest.rsplitn(2, '/'));
        match name {
            NAME => place.next().unwrap_or_default(),
            NAMESPACE => place.nth(1).unwrap_or_default(),
            _ => self.fields.get(name).unwrap_or_default(),
        }
    }

    /// The object itself.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}

fn labels(object: &Value) -> Pairs {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    Pairs::of(labels.into_iter().flatten().map(|(k, v)| (k, v.as_str().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(key: &str, object: &Value) -> Entry {
        let value = object::encode(object);
        let record = Record { key: key.into(), value, created: 1, modified: 7 };
        let pod = Gvk::new("", "v1", "Pod");
        Entry::new(&record, Some((&pod, &[NAME, NAMESPACE, "spec.nodeName", "status.phase"])))
    }

    #[test]
    fn selectors_find_labels_and_fields() {
        let entry = entry(
            "/registry/core/pods/default/web",
            &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default",
            "labels": {"app": "web", "empty": ""}}, "spec": {"nodeName": "n1"}}),
        );
        assert_eq!((entry.label("app"), entry.label("web")), (Some("web"), None));
        assert_eq!(entry.label("empty"), Some(""), "an empty label is one");
        let fields = [NAME, NAMESPACE, "spec.nodeName", "status.phase"].map(|f| entry.field(f));
        assert_eq!(fields, ["web", "default", "n1", ""]);
    }

    #[test]
    fn what_is_in_no_namespace_has_a_name_only() {
        let entry = entry("/registry/core/nodes/n1", &json!({"metadata": {"name": "n1"}}));
        assert_eq!((entry.field(NAME), entry.field(NAMESPACE)), ("n1", ""));
    }
}
