//! The one way in which objects change in the store.

use std::sync::Arc;

use bowline_store::{Expect, Operation, Revision, StoreError};
use bytes::Bytes;
use serde_json::Value;

use super::Call;
use crate::allocate;
use crate::app::App;
use crate::cache::Entry;
use crate::object;
use crate::status::{ApiError, ApiResult};

/// How often a change is tried when others change the same object in between.
const ATTEMPTS: usize = 32;

/// What is to happen to an object.
pub(crate) enum Step {
    /// Nothing: it is as it should be.
    Keep,
    Put(Value),
    Remove,
}

/// What did happen.
pub(crate) struct Outcome {
    /// The object after the change, or as it last was, with its revision.
    pub(crate) object: Value,
    pub(crate) created: bool,
    pub(crate) removed: bool,
}

impl Outcome {
    pub(crate) fn code(&self) -> u16 {
        if self.created { 201 } else { 200 }
    }
}

/// Changes the object that the call names: `decide` sees its present state (`None`: absent) and
/// says what is to be. It is asked again when the object changed meanwhile.
pub(crate) async fn change(
    call: &Call,
    name: &str,
    decide: impl Fn(Option<&Value>) -> ApiResult<Step>,
) -> ApiResult<Outcome> {
    let app = &call.app;
    let key: Arc<str> = call.kind.key(&call.target.namespace, name).into();
    let dry = call.dry_run()?;
    let mut _turn = None;
    for attempt in 0..ATTEMPTS {
        if attempt == 1 {
            // All who lost would try again at once, and all but one lose again.
            _turn = Some(app.turns.take(&key).await);
        }
        let entry = app.cache.get(&key);
        let old = entry.as_ref().map(|entry| entry.value());
        let step = decide(old.as_ref())?;
        let plan = plan(call, &key, entry.as_deref(), old, step)?;
        if dry || plan.operations.is_empty() {
            return Ok(plan.outcome);
        }
        match app.store.commit(plan.operations).await {
            Ok(revisions) => return Ok(finish(plan.outcome, &revisions)),
            Err(StoreError::Conflict { key: raced, found, .. }) => {
                if raced == key && plan.outcome.created {
                    return Err(ApiError::already_exists(&call.kind, name));
                }
                // The next look must show what this one missed.
                app.cache.reach(found.unwrap_or(0)).await;
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    Err(ApiError::modified(&call.kind, name))
}

struct Plan {
    operations: Vec<Operation>,
    outcome: Outcome,
}

fn plan(
    call: &Call,
    key: &Arc<str>,
    entry: Option<&Entry>,
    old: Option<Value>,
    step: Step,
) -> ApiResult<Plan> {
    let expect = entry.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
    let created = old.is_none();
    match step {
        Step::Keep => {
            let object = old.ok_or_else(|| call.not_found())?;
            let outcome = Outcome { object, created: false, removed: false };
            Ok(Plan { operations: Vec::new(), outcome })
        }
        Step::Put(mut object) => {
            let mut operations = allocate::operations(call, old.as_ref(), Some(&mut object))?;
            let value = sized(call, object::encode(&object))?;
            let put = Operation::Put { key: Arc::clone(key), value, expect };
            operations.insert(0, put);
            Ok(Plan { operations, outcome: Outcome { object, created, removed: false } })
        }
        Step::Remove => {
            let object = old.ok_or_else(|| call.not_found())?;
            let mut operations = allocate::operations(call, Some(&object), None)?;
            operations.insert(0, Operation::Delete { key: Arc::clone(key), expect });
            Ok(Plan { operations, outcome: Outcome { object, created: false, removed: true } })
        }
    }
}

/// What the server adds must not lift an object over the bound either.
fn sized(call: &Call, value: Bytes) -> ApiResult<Bytes> {
    let limit = call.app.config.limits.max_body_bytes;
    if value.len() > limit { Err(ApiError::too_large(limit)) } else { Ok(value) }
}

fn finish(mut outcome: Outcome, revisions: &[Revision]) -> Outcome {
    if let Some(revision) = revisions.first() {
        object::metadata(&mut outcome.object)
            .insert("resourceVersion".into(), revision.to_string().into());
    }
    outcome
}

pub(crate) fn failed(error: &StoreError) -> ApiError {
    ApiError::unavailable(error.to_string())
}

/// Stores an object that the server itself makes, if it is not there; the client's path is not
/// taken.
pub(crate) async fn ensure(app: &App, key: String, object: &Value) -> Result<bool, StoreError> {
    if app.cache.get(&key).is_some() {
        return Ok(false);
    }
    let value = object::encode(object);
    let put = Operation::Put { key: key.into(), value, expect: Expect::Absent };
    match app.store.commit(vec![put]).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
