//! The three patch formats that carry no ownership: JSON patch, merge patch, strategic merge patch.

mod order;
mod strategic;

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
    /// 415: a strategic patch of a kind without a schema.
    #[error("strategic merge patch is not supported for this kind")]
    NoSchema,
}

pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// RFC 6902.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooManyOperations(count));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).map_err(|e| PatchError::NotApplicable(e.to_string()))?;
    Ok(object)
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
