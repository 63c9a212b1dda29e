//! Validation with upstream's reasons and field paths.

use serde_json::Value;

use crate::Gvk;

/// The reason of a cause in a 422 Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
}

impl Reason {
    /// `FieldValueRequired`, ...: the `reason` of a `StatusCause`.
    pub fn as_cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub reason: Reason,
    /// `spec.containers[0].name`
    pub field: String,
    /// `None` where the message names no value (required, forbidden).
    pub bad_value: Option<Value>,
    pub detail: String,
}

impl FieldError {
    /// The `message` of the cause, without the field: `Invalid value: "A": must be ...`.
    pub fn message(&self) -> String {
        self.detail.clone()
    }
}

/// Checks an object that is to be created; it has been normalised and defaulted.
pub fn create(gvk: &Gvk, object: &Value) -> Vec<FieldError> {
    let _ = (gvk, object);
    Vec::new()
}

/// Checks an update of the main resource: `new` on its own, and what may not change from `old`.
pub fn update(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (gvk, new, old);
    Vec::new()
}

/// Checks an update of the status subresource.
pub fn update_status(gvk: &Gvk, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = (gvk, new, old);
    Vec::new()
}
