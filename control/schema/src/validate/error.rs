//! What is wrong with one field.

use serde_json::Value;

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
        let head = match self.reason {
            Reason::Required => "Required value",
            Reason::Duplicate => "Duplicate value",
            Reason::Invalid => "Invalid value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::TooLong => "Too long",
            Reason::TooMany => "Too many",
            Reason::NotFound => "Not found",
        };
        let value = self.bad_value.as_ref().map(Value::to_string);
        let detail = Some(self.detail.clone()).filter(|d| !d.is_empty());
        let parts: Vec<String> =
            [Some(head.to_owned()), value, detail].into_iter().flatten().collect();
        parts.join(": ")
    }
}

impl std::fmt::Display for FieldError {
    /// `spec.replicas: Invalid value: -1: must be greater than or equal to 0`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}
