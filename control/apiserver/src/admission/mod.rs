//! What may enter the store, and what is added to it on the way: one file for each rule.

mod certificates;
mod escalation;
mod limits;
mod namespace;
mod node;
mod priority;
mod service_account;
mod storage_class;
mod tolerations;

use serde_json::Value;

use crate::rest::Call;
use crate::status::ApiResult;

/// Admits a new object, which may be changed; runs after defaulting and before validation.
pub(crate) fn create(call: &Call, object: &mut Value, warnings: &mut Vec<String>) -> ApiResult<()> {
    namespace::exists(call, object)?;
    node::restrict(call, None, object)?;
    escalation::check(call, None, object)?;
    if call.kind.group.is_empty() {
        match call.kind.kind.as_str() {
            "Pod" => {
                service_account::apply(call, object)?;
                priority::apply(call, object)?;
                tolerations::apply(object);
                limits::apply(call, object)?;
            }
            "PersistentVolumeClaim" => storage_class::apply(call, object),
            _ => {}
        }
    }
    let _ = warnings;
    Ok(())
}

/// Admits a change.
pub(crate) fn update(call: &Call, old: &Value, new: &mut Value) -> ApiResult<()> {
    node::restrict(call, Some(old), new)?;
    certificates::check(call, old, new)?;
    escalation::check(call, Some(old), new)
}

/// Admits a deletion.
pub(crate) fn delete(call: &Call, old: &Value) -> ApiResult<()> {
    node::restrict(call, Some(old), old)
}
