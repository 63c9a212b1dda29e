//! update: of an object, or of its status.

use bowline_schema::managed::Writer;
use bowline_schema::{default, managed, validate};
use bytes::Bytes;
use serde_json::Value;

use super::write::{self, Step};
use super::{Call, decode, meta};
use crate::admission;
use crate::object;
use crate::present;
use crate::reply::{self, Reply};
use crate::status::{ApiError, ApiResult};
use crate::subresource::part;

pub(super) async fn update(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let form = call.form()?;
    let (new, warnings) = decode::object(call, body)?;
    let given = object::revision(&new);
    let outcome = write::change(call, &call.target.name, |old| {
        let old = old.ok_or_else(|| call.not_found())?;
        check_revision(call, old, given)?;
        replace(call, old, new.clone(), true)
    })
    .await?;
    let code = outcome.code();
    let mut reply = reply::json(code, &present::object(&call.kind, form, outcome.object));
    reply::warn(&mut reply, &warnings);
    Ok(reply)
}

/// A revision that the client names must be the present one.
pub(crate) fn check_revision(call: &Call, old: &Value, given: Option<u64>) -> ApiResult<()> {
    match given {
        Some(revision) if Some(revision) != object::revision(old) => {
            Err(ApiError::modified(&call.kind, object::name(old)))
        }
        _ => Ok(()),
    }
}

/// What is to be stored when `given` is to replace `old`, by the rules of the (sub)resource.
/// `track` is off where the ownership of fields was settled before (apply).
pub(crate) fn replace(call: &Call, old: &Value, given: Value, track: bool) -> ApiResult<Step> {
    let kind = &call.kind;
    let subresource = call.target.subresource.as_str();
    let mut new = given;
    meta::carry(call, old, &mut new)?;
    default::apply(&kind.storage, &mut new);
    if subresource.is_empty() {
        if kind.has_subresource("status") {
            object::keep(&mut new, "status", old.get("status"));
        }
        kind.strategy.prepare_update(old, &mut new);
    } else {
        let managed = new.pointer("/metadata/managedFields").cloned();
        new = part(kind, subresource, old, &new).ok_or_else(ApiError::method_not_allowed)?;
        object::keep_metadata(&mut new, "managedFields", managed.as_ref());
    }
    finish(call, old, new, track)
}

/// Admits, validates and settles a change.
pub(crate) fn finish(call: &Call, old: &Value, mut new: Value, track: bool) -> ApiResult<Step> {
    let kind = &call.kind;
    admission::update(call, old, &mut new)?;
    meta::count_generation(kind, old, &mut new);
    let errors = match call.target.subresource.as_str() {
        "" | "scale" => validate::update(&kind.storage, &new, old),
        "status" => validate::update_status(&kind.storage, &new, old),
        // Their own rules were kept by what they may change.
        _ => Vec::new(),
    };
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind, object::name(old), &errors));
    }
    Ok(settle(call, old, new, track))
}

/// The last steps, common to all ways of changing an object.
fn settle(call: &Call, old: &Value, mut new: Value, track: bool) -> Step {
    let kind = &call.kind;
    if track {
        let (manager, now) = (call.manager(), object::now());
        let subresource = call.target.subresource.as_str();
        let writer = Writer { manager: &manager, subresource, now: &now };
        managed::track(&kind.storage, Some(old), &mut new, &writer);
    }
    if meta::may_go(kind, &new) {
        return Step::Remove;
    }
    if meta::same(old, &new) { Step::Keep } else { Step::Put(new) }
}
