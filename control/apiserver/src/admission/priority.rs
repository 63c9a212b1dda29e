//! A pod's priority is that of its class, not what the client writes.

use serde_json::Value;

use crate::kinds;
use crate::object::{self, child, text};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

pub(super) fn apply(call: &Call, pod: &mut Value) -> ApiResult<()> {
    let prefix = kinds::prefix("scheduling.k8s.io", "priorityclasses");
    let named = text(pod, "/spec/priorityClassName").to_owned();
    let class = if named.is_empty() {
        let all = call.app.cache.all(&prefix);
        let defaults = all.iter().map(|entry| entry.value());
        // The lowest of several defaults, as upstream.
        defaults
            .filter(|class| class.get("globalDefault") == Some(&Value::Bool(true)))
            .min_by_key(|class| class.get("value").and_then(Value::as_i64))
    } else {
        let class = call.app.cache.get(&format!("{prefix}{named}"));
        let class = class.ok_or_else(|| {
            let why = format!("no PriorityClass with name {named} was found");
            ApiError::refused(&call.kind, pod, &why)
        })?;
        Some(class.value())
    };
    let value = class.as_ref().and_then(|c| c.get("value")).cloned().unwrap_or_else(|| 0.into());
    let given = pod.pointer("/spec/priority").filter(|given| !given.is_null());
    if given.is_some_and(|given| *given != value) {
        return Err(ApiError::refused(
            &call.kind,
            pod,
            "the integer value of priority must not be provided in pod spec; priority admission \
             controller computed it from the given PriorityClass name",
        ));
    }
    let spec = child(pod, "spec");
    spec.insert("priority".into(), value);
    if let Some(class) = &class {
        spec.insert("priorityClassName".into(), object::name(class).into());
    }
    let policy = class.as_ref().and_then(|c| c.get("preemptionPolicy")).cloned();
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".into());
    spec.entry("preemptionPolicy").or_insert(policy);
    Ok(())
}
