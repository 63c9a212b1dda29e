//! The three patch formats that carry no ownership: JSON patch, merge patch, strategic merge patch.

mod order;
mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

pub(crate) use order::arrange;
pub use strategic::strategic;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself can't be read.
    #[error("{0}")]
    Malformed(String),
    /// 422: the patch is well formed but can't be applied to this object (a failed `test`, a path that
    /// doesn't exist).
    #[error("the server rejected our request due to an error in our request: {0}")]
    NotApplicable(String),
    /// 413: more than [`MAX_JSON_PATCH_OPERATIONS`].
    #[error(
        "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}"
    )]
    TooManyOperations(usize),
    /// 413: copies of copies, or nesting, beyond [`MAX_COPIED_BYTES`] and [`MAX_DEPTH`].
    #[error("The patch makes the object larger or deeper than is accepted")]
    TooLarge,
    /// 415: a strategic patch of a kind without a schema.
    #[error("strategic merge patch is not supported for this kind")]
    NoSchema,
}

pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// What the `copy` operations of one patch may add in all: each could double what is there.
pub const MAX_COPIED_BYTES: usize = 3 << 20;
/// Levels of an object, as the reader of JSON has it: deeper ones would exhaust a stack.
pub const MAX_DEPTH: usize = 128;

/// RFC 6902.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooManyOperations(count));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut object = object.clone();
    let mut copied = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        copied += added(&object, operation)?;
        if copied > MAX_COPIED_BYTES {
            return Err(PatchError::TooLarge);
        }
        json_patch::patch(&mut object, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = index;
            PatchError::NotApplicable(error.to_string())
        })?;
    }
    Ok(object)
}

/// Bytes that an operation copies within the object, which must not become too deep by it.
fn added(object: &Value, operation: &PatchOperation) -> Result<usize, PatchError> {
    let at = |from: &str| object.pointer(from).unwrap_or(&Value::Null);
    let (value, path, copies) = match operation {
        PatchOperation::Add(add) => (&add.value, &add.path, false),
        PatchOperation::Replace(replace) => (&replace.value, &replace.path, false),
        PatchOperation::Copy(copy) => (at(copy.from.as_str()), &copy.path, true),
        PatchOperation::Move(go) => (at(go.from.as_str()), &go.path, false),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(0),
    };
    let above = path.as_str().matches('/').count();
    let levels = MAX_DEPTH.checked_sub(above).ok_or(PatchError::TooLarge)?;
    let size = size(value, levels).ok_or(PatchError::TooLarge)?;
    Ok(if copies { size } else { 0 })
}

/// About the bytes of a value's text; none if it has more levels.
fn size(value: &Value, levels: usize) -> Option<usize> {
    let below = levels.checked_sub(1)?;
    Some(match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(list) => list.iter().try_fold(8, |sum, one| Some(sum + size(one, below)?))?,
        Value::Object(map) => map
            .iter()
            .try_fold(8, |sum, (name, one)| Some(sum + name.len() + 8 + size(one, below)?))?,
    })
}

/// RFC 7396.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be a JSON object".into()));
    }
    let mut object = object.clone();
    json_patch::merge(&mut object, patch);
    Ok(object)
}

#[cfg(test)]
mod tests;
