//! patch: JSON patch, merge patch, strategic merge patch, server-side apply.

use bowline_schema::apply::{self, ApplyError};
use bowline_schema::managed::Writer;
use bowline_schema::patch::{self, PatchError};
use bowline_schema::{decode as reading, types};
use bytes::Bytes;
use serde_json::{Value, json};

use super::decode::{self, Validation};
use super::update::{check_revision, replace};
use super::write::{self, Step};
use super::{Call, create, meta};
use crate::convert;
use crate::object;
use crate::present;
use crate::reply::{self, Reply};
use crate::status::{ApiError, ApiResult};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const SERVED: &str = "application/json-patch+json, application/merge-patch+json, \
                      application/strategic-merge-patch+json, application/apply-patch+yaml";

pub(super) async fn patch(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let form = call.form()?;
    let content_type = decode::content_type(&call.headers).to_owned();
    let warnings = parking_lot::Mutex::new(Vec::new());
    let outcome = if content_type == APPLY {
        server_side_apply(call, body, &warnings).await?
    } else {
        let document = reading::parse(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let validation = Validation::of(call)?;
        write::change(call, &call.target.name, |old| {
            let old = old.ok_or_else(|| call.not_found())?;
            let new = patched(call, &content_type, old, &document.value)?;
            check_revision(call, old, object::revision(&new))?;
            let duplicates = document.duplicates.clone();
            let new = normal(call, new, duplicates, validation, &warnings)?;
            replace(call, old, new, true)
        })
        .await?
    };
    let code = outcome.code();
    let mut reply = reply::json(code, &present::object(&call.kind, form, outcome.object));
    reply::warn(&mut reply, &warnings.into_inner());
    Ok(reply)
}

/// The stored object with the patch applied, both in the request's version.
fn patched(call: &Call, content_type: &str, old: &Value, document: &Value) -> ApiResult<Value> {
    let mut base = old.clone();
    convert::from_storage(&call.kind, &mut base);
    let gvk = call.kind.gvk();
    let result = match content_type {
        JSON_PATCH => patch::json(&base, document),
        MERGE_PATCH => patch::merge(&base, document),
        STRATEGIC if types::known(&gvk) => patch::strategic(&gvk, &base, document),
        other => return Err(ApiError::unsupported_media_type(other, SERVED)),
    };
    result.map_err(|error| match error {
        PatchError::Malformed(_) => ApiError::bad_request(error.to_string()),
        PatchError::NotApplicable(_) => ApiError::unprocessable(error.to_string()),
        PatchError::NoSchema => ApiError::unsupported_media_type(STRATEGIC, SERVED),
        PatchError::TooManyOperations(_) | PatchError::TooLarge => {
            ApiError::too_large(call.app.config.limits.max_body_bytes)
        }
    })
}

/// The patched object in normal form and the storage version.
fn normal(
    call: &Call,
    mut new: Value,
    duplicates: Vec<String>,
    validation: Validation,
    warnings: &parking_lot::Mutex<Vec<String>>,
) -> ApiResult<Value> {
    let found = decode::normal(call, &call.kind.gvk(), &mut new, duplicates, validation)?;
    *warnings.lock() = found;
    convert::to_storage(&call.kind, &mut new);
    Ok(new)
}

async fn server_side_apply(
    call: &Call,
    body: &Bytes,
    warnings: &parking_lot::Mutex<Vec<String>>,
) -> ApiResult<write::Outcome> {
    let Some(manager) = call.query.get("fieldManager") else {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ));
    };
    let config = decode::yaml(body)?;
    let given = object::revision(&config);
    let config = normal(call, config, Vec::new(), Validation::of(call)?, warnings)?;
    let named = object::name(&config);
    if !named.is_empty() && named != call.target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            call.target.name
        )));
    }
    let (now, force) = (object::now(), call.query.flag("force"));
    let subresource = call.target.subresource.as_str();
    let writer = Writer { manager, subresource, now: &now };
    write::change(call, &call.target.name, |old| {
        if let Some(old) = old {
            check_revision(call, old, given)?;
        }
        let mut config = config.clone();
        object::metadata(&mut config).insert("name".into(), call.target.name.clone().into());
        meta::check_namespace(call, &mut config)?;
        object::metadata(&mut config).remove("resourceVersion");
        let merged = apply::apply(&call.kind.storage, old, &config, &writer, force);
        let mut merged = merged.map_err(refusal)?;
        match old {
            Some(old) => replace(call, old, merged, false),
            None if !subresource.is_empty() => Err(call.not_found()),
            None => {
                create::ready(call, &mut merged, &mut warnings.lock(), false)?;
                Ok(Step::Put(merged))
            }
        }
    })
    .await
}

fn refusal(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts.iter().map(|conflict| {
                json!({"reason": "FieldManagerConflict", "message": conflict.message,
                       "field": conflict.field})
            });
            let list: Vec<String> =
                conflicts.iter().map(|c| format!("{}: {}", c.message, c.field)).collect();
            let message = format!("{message}: {}", list.join("\n"));
            ApiError::apply_conflicts(message, causes.collect())
        }
        ApplyError::ManagedFieldsGiven => ApiError::bad_request(message),
        ApplyError::Typed { .. } => ApiError::unprocessable(message),
    }
}
