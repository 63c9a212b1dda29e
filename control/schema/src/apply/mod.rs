//! Server-side apply: a manager declares the fields that it wants; what it declared before and no longer
//! does is removed, unless another manager owns it; a field that another manager owns with another value
//! is a conflict.

mod merge;

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::Gvk;
use crate::managed::entries::{self, Entry};
use crate::managed::set::Set;
use crate::managed::walk::{Node, Parts, compare, owned};
use crate::managed::{Writer, ownable};
use crate::types;

/// The manager that is given what an object without managed fields has, at the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// `conflict with "kubectl-client-side-apply" using apps/v1`
    pub message: String,
    /// `.spec.replicas`
    pub field: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409 with one `FieldManagerConflict` cause a conflict. The text only counts them: the caller says
    /// each.
    #[error("Apply failed with {} conflict{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Conflicts(Vec<Conflict>),
    /// 400: `metadata.managedFields must be nil`.
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsGiven,
    /// 400 or 422: the configuration can't be read as this kind.
    #[error("failed to create typed patch object ({what}): {why}")]
    Typed { what: String, why: String },
}

/// Applies `config` to `live` (`None`: create) and returns the merged object with its managedFields.
/// Both must be normalised, `config` not defaulted. The result still needs defaulting and validation;
/// a result equal to `live` means nothing is to be written.
pub fn apply(
    gvk: &Gvk,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if config.pointer("/metadata/managedFields").is_some() {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    let mut config = config.clone();
    without_foreign_sections(gvk, &mut config, writer.subresource);
    check_keys(gvk, Node::root(gvk), &config)?;
    let root = Node::root(gvk);
    let applied = owned(root, &ownable(&config));
    let Some(live) = live else {
        entries::write(&mut config, vec![Entry::new(gvk, writer, true, applied)]);
        return Ok(config);
    };

    let mut all = entries_of(gvk, live, writer);
    let own = all.iter().position(|e| e.is_of(gvk, writer, true));
    let last = own.map(|at| all[at].clone());
    let last_set = last.as_ref().map(|e| e.set.clone()).unwrap_or_default();
    match own {
        Some(at) => all[at].set = applied.clone(),
        None => all.push(Entry::new(gvk, writer, true, applied.clone())),
    }

    let everybody = all.iter().fold(Set::default(), |sum, e| sum.union(&e.set));
    let merged = merge::merge(root, live, &config);
    let mut result = merge::prune(root, &merged, &last_set, Some(&everybody))
        .unwrap_or_else(|| Value::Object(Map::new()));
    // What the server or the path says of the object isn't the configuration's to change.
    keep_metadata(&mut result, live);

    let changes = compare(root, &ownable(live), &ownable(&result));
    let mut conflicts = Vec::new();
    for entry in all.iter_mut().filter(|e| !e.is_of(gvk, writer, true)) {
        let lost = entry.set.intersection(&changes.changed);
        if !lost.is_empty() {
            conflicts.extend(conflicts_with(entry, &lost));
            entry.set = entry.set.difference(&lost);
        }
        entry.set = entry.set.difference(&changes.removed);
    }
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    let same =
        last.is_some_and(|last| last.set == applied && last.api_version == gvk.api_version());
    if changes.is_empty() && same {
        return Ok(live.clone());
    }
    if let Some(own) = all.iter_mut().find(|e| e.is_of(gvk, writer, true)) {
        own.time = Some(writer.now.to_owned());
        own.api_version = gvk.api_version();
    }
    entries::write(&mut result, all);
    Ok(result)
}

fn entries_of(gvk: &Gvk, live: &Value, writer: &Writer<'_>) -> Vec<Entry> {
    let all = entries::read(live);
    if !all.is_empty() {
        return all;
    }
    let first = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", now: writer.now };
    vec![Entry::new(gvk, &first, false, owned(Node::root(gvk), &ownable(live)))]
}

/// The main resource doesn't write the status, the status subresource nothing else.
fn without_foreign_sections(gvk: &Gvk, config: &mut Value, subresource: &str) {
    let Some(map) = config.as_object_mut() else { return };
    match subresource {
        "" if types::has_spec_and_status(gvk) => {
            map.remove("status");
        }
        "status" => map.retain(|name, _| {
            matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")
        }),
        _ => {}
    }
}

fn keep_metadata(result: &mut Value, live: &Value) {
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation"] {
        if let Some(value) = live.get("metadata").and_then(|m| m.get(name)) {
            result["metadata"][name] = value.clone();
        }
    }
}

/// Every list that merges by keys must have them, each once.
fn check_keys(gvk: &Gvk, node: Node, value: &Value) -> Result<(), ApplyError> {
    if let Some(why) = node.key_problem(value) {
        return Err(ApplyError::Typed { what: gvk.to_string(), why });
    }
    match node.parts(value) {
        Parts::Whole => Ok(()),
        Parts::Fields(map) => {
            map.iter().try_for_each(|(name, value)| check_keys(gvk, node.field(name), value))
        }
        Parts::Items(items) => {
            items.iter().try_for_each(|(_, item)| check_keys(gvk, node.item(), item))
        }
    }
}

fn conflicts_with(entry: &Entry, lost: &Set) -> Vec<Conflict> {
    let mut message = format!("conflict with {:?}", entry.manager);
    if !entry.subresource.is_empty() {
        let _ = write!(message, " with subresource {:?}", entry.subresource);
    }
    if !entry.applied {
        let _ = write!(message, " using {}", entry.api_version);
        if let Some(time) = &entry.time {
            let _ = write!(message, " at {time}");
        }
    }
    lost.paths().into_iter().map(|field| Conflict { message: message.clone(), field }).collect()
}

#[cfg(test)]
mod tests;
