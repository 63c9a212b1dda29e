//! The metadata that the server owns.

use serde_json::{Map, Value, json};

use super::Call;
use crate::kinds::Kind;
use crate::object::{self, keep_metadata, metadata, text};
use crate::status::{ApiError, ApiResult};

/// Characters of a generated name's random end: no vowels, so that no words appear.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// A generated name's prefix is cut to leave room for its end.
const MAX_PREFIX: usize = 63 - SUFFIX;

/// Metadata of a new object.
pub(super) fn begin(call: &Call, object: &mut Value) -> ApiResult<()> {
    check_namespace(call, object)?;
    if !text(object, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let generate = text(object, "/metadata/generateName").to_owned();
    if object::name(object).is_empty() && !generate.is_empty() {
        metadata(object).insert("name".into(), generated_name(&generate).into());
    }
    let generation = call.kind.generation;
    let metadata = metadata(object);
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(name);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), object::now().into());
    if generation {
        metadata.insert("generation".into(), 1.into());
    } else {
        metadata.remove("generation");
    }
    Ok(())
}

pub(super) fn generated_name(prefix: &str) -> String {
    let random = *uuid::Uuid::new_v4().as_bytes();
    let cut = prefix.char_indices().nth(MAX_PREFIX).map_or(prefix.len(), |(at, _)| at);
    let suffix = random.iter().filter(|byte| **byte < 243).chain(random.iter()).take(SUFFIX);
    let letters = suffix.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    format!("{}{}", &prefix[..cut], letters.collect::<String>())
}

/// The namespace of the path goes into the object; another one in it is a mistake.
pub(super) fn check_namespace(call: &Call, object: &mut Value) -> ApiResult<()> {
    if !call.kind.namespaced {
        metadata(object).remove("namespace");
        return Ok(());
    }
    let asked = &call.target.namespace;
    let given = object::namespace(object);
    if given.is_empty() {
        metadata(object).insert("namespace".into(), asked.clone().into());
    } else if given != asked {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Metadata of an object that replaces another: what the client can't change comes back.
pub(super) fn carry(call: &Call, old: &Value, new: &mut Value) -> ApiResult<()> {
    let kind = &call.kind;
    let given = object::name(new);
    if !given.is_empty() && given != object::name(old) {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            object::name(old)
        )));
    }
    check_namespace(call, new)?;
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        return Err(ApiError::conflict(
            kind,
            object::name(old),
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::uid(old)
            ),
        ));
    }
    for name in [
        "name",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "resourceVersion",
    ] {
        keep_metadata(new, name, old.pointer(&format!("/metadata/{name}")));
    }
    metadata(new).remove("selfLink");
    Ok(())
}

/// Counts a change of what the object asks for.
pub(super) fn count_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.generation || wish(old) == wish(new) {
        return;
    }
    let before = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    metadata(new).insert("generation".into(), (before + 1).into());
}

fn wish(object: &Value) -> Option<Map<String, Value>> {
    let mut wish = object.as_object()?.clone();
    for name in ["metadata", "status", "apiVersion", "kind"] {
        wish.remove(name);
    }
    Some(wish)
}

/// Whether two states differ in nothing that matters (when a manager last wrote does not).
pub(super) fn same(old: &Value, new: &Value) -> bool {
    let managed = |object: &Value| {
        let mut list = object.pointer("/metadata/managedFields").cloned().unwrap_or_default();
        for entry in list.as_array_mut().into_iter().flatten() {
            object::as_map(entry).remove("time");
        }
        list
    };
    let rest = |object: &Value| {
        let mut object = object.clone();
        let metadata = metadata(&mut object);
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
        object
    };
    rest(old) == rest(new) && managed(old) == managed(new)
}

/// Whether an object that is being deleted has nothing left that holds it.
pub(super) fn may_go(kind: &Kind, object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    object::is_deleting(object)
        && object::finalizers(object).next().is_none()
        && grace.unwrap_or(0) == 0
        && !kind.strategy.holds_deletion(object)
}

/// Marks an object as being deleted, in so many seconds.
pub(super) fn mark_deleted(kind: &Kind, object: &mut Value, grace: u64) {
    let now = jiff::Timestamp::now();
    let grace = i64::try_from(grace).unwrap_or(i64::MAX);
    let at = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let first = !object::is_deleting(object);
    let metadata = metadata(object);
    metadata.insert("deletionTimestamp".into(), object::rfc3339(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if let Some(generation) = generation.filter(|_| first && kind.generation) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    kind.strategy.mark_deleted(object);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label_and_differ() {
        let long = "x".repeat(80);
        let name = generated_name(&long);
        assert_eq!(name.len(), 63, "a name must fit a DNS label");
        assert_ne!(generated_name("a-"), generated_name("a-"));
    }
}
