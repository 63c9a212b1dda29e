//! create.

use bowline_schema::managed::Writer;
use bowline_schema::{default, managed, validate};
use bytes::Bytes;
use serde_json::Value;

use super::write::{self, Outcome, Step};
use super::{Call, decode, meta};
use crate::admission;
use crate::object;
use crate::present;
use crate::reply::{self, Reply};
use crate::status::{ApiError, ApiResult};

/// How often another generated name is tried when one is taken.
const NAME_ATTEMPTS: usize = 8;

pub(super) async fn create(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let form = call.form()?;
    let (object, mut warnings) = decode::object(call, body)?;
    let outcome = store(call, object, &mut warnings).await?;
    let mut reply = reply::json(201, &present::object(&call.kind, form, outcome.object));
    reply::warn(&mut reply, &warnings);
    Ok(reply)
}

/// Creates an object in the storage version.
pub(crate) async fn store(
    call: &Call,
    object: Value,
    warnings: &mut Vec<String>,
) -> ApiResult<Outcome> {
    let generated = object::name(&object).is_empty();
    for _ in 1..NAME_ATTEMPTS {
        let attempt = store_once(call, object.clone(), warnings).await;
        match attempt {
            Err(error) if generated && error.reason == "AlreadyExists" => {}
            other => return other,
        }
    }
    store_once(call, object, warnings).await
}

async fn store_once(
    call: &Call,
    mut object: Value,
    warnings: &mut Vec<String>,
) -> ApiResult<Outcome> {
    ready(call, &mut object, warnings, true)?;
    let name = object::name(&object).to_owned();
    write::change(call, &name, |old| match old {
        Some(_) => Err(ApiError::already_exists(&call.kind, &name)),
        None => Ok(Step::Put(object.clone())),
    })
    .await
}

/// Makes a new object ready to be stored: own metadata, defaults, admission, validation. `track` is
/// off where the ownership of fields was settled before (apply).
pub(super) fn ready(
    call: &Call,
    object: &mut Value,
    warnings: &mut Vec<String>,
    track: bool,
) -> ApiResult<()> {
    let kind = &call.kind;
    meta::begin(call, object)?;
    if kind.has_subresource("status") && !kind.strategy.keeps_status_at_creation() {
        object::as_map(object).remove("status");
    }
    default::apply(&kind.storage, object);
    kind.strategy.prepare_create(object, &call.user);
    admission::create(call, object, warnings)?;
    // Admission may have added what has defaults itself.
    default::apply(&kind.storage, object);
    let errors = validate::create(&kind.storage, object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind, object::name(object), &errors));
    }
    if object::name(object).is_empty() {
        return Err(ApiError::bad_request("name or generateName is required"));
    }
    if track {
        let (manager, now) = (call.manager(), object::now());
        let writer = Writer { manager: &manager, subresource: "", now: &now };
        managed::track(&kind.storage, None, object, &writer);
    }
    Ok(())
}
