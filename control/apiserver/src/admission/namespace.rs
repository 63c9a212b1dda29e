//! Objects are created only in namespaces that exist and are not being deleted.

use serde_json::Value;

use crate::kinds;
use crate::object::{self, is_deleting};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

pub(super) fn exists(call: &Call, object: &Value) -> ApiResult<()> {
    if !call.kind.namespaced {
        return Ok(());
    }
    let name = &call.target.namespace;
    let kind = call.app.kinds.find("", "v1", "namespaces");
    let found = call.app.cache.get(&format!("{}{name}", kinds::prefix("", "namespaces")));
    let Some(namespace) = found.map(|entry| entry.value()) else {
        return Err(kind.map_or_else(ApiError::no_route, |k| ApiError::not_found(k, name)));
    };
    if is_deleting(&namespace) || object::text(&namespace, "/status/phase") == "Terminating" {
        let why = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        let mut error = ApiError::refused(&call.kind, object, &why);
        if let Some(details) = &mut error.details {
            details["causes"] = serde_json::json!([{
                "reason": "NamespaceTerminating", "field": "metadata.namespace",
                "message": format!("namespace {name} is being terminated"),
            }]);
        }
        return Err(error);
    }
    Ok(())
}
