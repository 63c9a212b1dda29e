//! `metadata.managedFields`: who owns which field.

pub(crate) mod entries;
pub(crate) mod set;
pub(crate) mod walk;

use serde_json::{Map, Value};

use crate::Gvk;
use entries::Entry;
use walk::{Node, compare};

/// Who writes, and how.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or the start of the user agent.
    pub manager: &'a str,
    /// `status`, `scale`, ... or empty.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
}

/// Metadata that the server writes, or that names the object: nobody owns it.
const UNOWNED_METADATA: [&str; 11] = [
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "clusterName",
];

/// The object without what nobody owns.
pub(crate) fn ownable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| !UNOWNED_METADATA.contains(&name.as_str()));
            if metadata.is_empty() {
                map.remove("metadata");
            }
        }
    }
    object
}

/// Updates `new.metadata.managedFields` for a create (`old` is `None`), an update or a patch other than
/// apply: what changed from `old` to `new` becomes the writer's, and is taken from all others. A client
/// that sends an empty list, or one empty entry, clears them. Idempotent: no change, no new time.
pub fn track(gvk: &Gvk, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let given = new.pointer("/metadata/managedFields").and_then(Value::as_array);
    if let Some(given) = given
        && given.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty))
    {
        entries::write(new, Vec::new());
        return;
    }
    let known = entries::read(new);
    let mut all = if known.is_empty() { old.map(entries::read).unwrap_or_default() } else { known };
    let before = old.map_or_else(|| Value::Object(Map::new()), ownable);
    let mut changes = compare(Node::root(gvk), &before, &ownable(new));
    // Every object has these; owning them as such would say nothing.
    for section in ["f:metadata", "f:spec", "f:status"] {
        if let Some(set) = changes.changed.children.get_mut(section)
            && !set.children.is_empty()
        {
            set.member = false;
        }
    }
    if !changes.is_empty() {
        let mut own = None;
        for entry in &mut all {
            entry.set = entry.set.difference(&changes.removed);
            if entry.is_of(gvk, writer, false) {
                own = Some(entry);
            } else {
                entry.set = entry.set.difference(&changes.changed);
            }
        }
        match own {
            Some(own) => {
                own.set = std::mem::take(&mut own.set).union(&changes.changed);
                own.time = Some(writer.now.to_owned());
            }
            None => all.push(Entry::new(gvk, writer, false, changes.changed)),
        }
    }
    entries::write(new, all);
}

#[cfg(test)]
mod tests;
