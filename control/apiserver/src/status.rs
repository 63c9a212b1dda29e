//! Failures as the `Status` objects that clients read: code, reason, message and details decide
//! what they do next.

use bowline_schema::validate::FieldError;
use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::object;

/// A failed request; see the API conventions, "Response Status Kind".
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
    /// Seconds after which the client should try again.
    pub(crate) retry_after: Option<u32>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, retry_after: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(json!({
            "name": name, "group": kind.group, "kind": kind.plural,
        }));
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// An admission rule refused the object. One whose name is generated is called by the prefix:
    /// nobody has heard of the name.
    pub(crate) fn refused(kind: &Kind, object: &Value, why: &str) -> Self {
        let name = match object::text(object, "/metadata/generateName") {
            "" => object::name(object),
            prefix => prefix,
        };
        let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!("{}{quoted} is forbidden: {why}", kind.qualified());
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// No such path.
    pub(crate) fn no_route() -> Self {
        let mut error =
            Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(json!({}));
        error
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        Self::new(404, "NotFound", message).about(kind, name)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn not_acceptable(served: &str) -> Self {
        let message = format!(
            "only the following media types are accepted: {served}; change the Accept header"
        );
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// The object changed since the client read it.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// Fields owned by other appliers; `causes` is the list of `FieldManagerConflict`s.
    pub(crate) fn apply_conflicts(message: String, causes: Vec<Value>) -> Self {
        let mut error = Self::new(409, "Conflict", message);
        error.details = Some(json!({ "causes": causes }));
        error
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request is too large: at most {limit} bytes are accepted");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub(crate) fn unsupported_media_type(found: &str, served: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format ({found}) - accepted media types \
             include: {served}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422 with one cause for each field that is wrong.
    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let parts: Vec<String> =
            errors.iter().map(|e| format!("{}: {}", e.field, e.message())).collect();
        let list = match parts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
        let message = format!("{}{group} \"{name}\" is invalid: {list}", kind.kind);
        let mut error = Self::new(422, "Invalid", message);
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| {
                json!({"reason": e.reason.as_cause(), "message": e.message(), "field": e.field})
            })
            .collect();
        error.details = Some(json!({
            "name": name, "group": kind.group, "kind": kind.kind, "causes": causes,
        }));
        error
    }

    /// 422 without a field: the patch can't be applied.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    pub(crate) fn too_many(message: impl Into<String>, retry_after: Option<u32>) -> Self {
        Self { retry_after, ..Self::new(429, "TooManyRequests", message) }
    }

    /// An eviction that a budget does not allow now.
    pub(crate) fn disruption_budget(details: &str) -> Self {
        let mut error = Self::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        error.details =
            Some(json!({"causes": [{"reason": "DisruptionBudget", "message": details}]}));
        error
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub(crate) fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(502, "BadGateway", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(503, "ServiceUnavailable", message) }
    }

    /// The client asked for a revision that this server has not reached.
    pub(crate) fn future_version(wanted: u64, newest: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {newest}");
        let mut error = Self::new(504, "Timeout", message);
        error.details = Some(json!({
            "retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge",
                        "message": "Too large resource version"}],
        }));
        error.retry_after = Some(1);
        error
    }

    /// The object that goes into the body.
    pub(crate) fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        let mut details = self.details.clone();
        if let Some(seconds) = self.retry_after {
            details.get_or_insert_with(|| json!({}))["retryAfterSeconds"] = json!(seconds);
        }
        if let Some(details) = details {
            status["details"] = details;
        }
        status
    }
}

/// The `Status` of something that worked and has no object to show.
pub(crate) fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "group": kind.group, "kind": kind.plural, "uid": uid},
    })
}
