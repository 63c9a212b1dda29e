//! delete and deletecollection.
//!
//! ```text
//! delete -> grace or finalizers? -- no --> removed
//!                '- yes --> deletionTimestamp set --> removed when the last finalizer is gone and
//!                                                     (pods) the kubelet deletes with grace 0
//! ```

use bowline_api::names::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::selection::Selection;
use super::write::{self, Outcome, Step};
use super::{Call, decode, meta};
use crate::admission;
use crate::object;
use crate::present;
use crate::reply::{self, Reply};
use crate::status::{self, ApiError, ApiResult};

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Options {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) dry_run: Vec<String>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Options {
    /// From the body, and from the query where the body says nothing.
    fn of(call: &Call, body: &Bytes) -> ApiResult<Self> {
        let mut options = if body.is_empty() {
            Self::default()
        } else {
            let (document, _) = decode::document(&call.headers, body)?;
            let kind = object::text(&document, "/kind");
            if !matches!(kind, "" | "DeleteOptions") {
                return Err(ApiError::bad_request(format!(
                    "the body of a delete is DeleteOptions, but this is a {kind}"
                )));
            }
            serde_json::from_value(document)
                .map_err(|e| ApiError::bad_request(format!("cannot read the DeleteOptions: {e}")))?
        };
        if options.grace_period_seconds.is_none() {
            let given = call.query.get("gracePeriodSeconds");
            options.grace_period_seconds = given.and_then(|text| text.parse().ok());
        }
        if options.propagation_policy.is_none() {
            options.propagation_policy = call.query.get("propagationPolicy").map(str::to_owned);
        }
        if let Some(policy) = &options.propagation_policy
            && !matches!(policy.as_str(), "Background" | "Foreground" | "Orphan")
        {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy \"{policy}\" is not supported: use Background, Foreground or \
                 Orphan"
            )));
        }
        Ok(options)
    }

    fn grace(&self) -> Option<u64> {
        self.grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok())
    }

    /// Fails if the object is not the one that the client means.
    fn check(&self, call: &Call, old: &Value) -> ApiResult<()> {
        let Some(wanted) = &self.preconditions else { return Ok(()) };
        let name = object::name(old);
        let revision = object::text(old, "/metadata/resourceVersion");
        let refuse = |what: &str, wanted: &str, found: &str| {
            Err(ApiError::conflict(
                &call.kind,
                name,
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object \
                     meta: {found}"
                ),
            ))
        };
        match (&wanted.uid, &wanted.resource_version) {
            (Some(uid), _) if uid != object::uid(old) => refuse("UID", uid, object::uid(old)),
            (_, Some(rv)) if rv != revision => refuse("ResourceVersion", rv, revision),
            _ => Ok(()),
        }
    }
}

pub(super) async fn delete(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let form = call.form()?;
    let options = Options::of(call, body)?;
    let outcome = remove(call, &call.target.name, &options).await?;
    if outcome.removed && call.kind.kind != "Pod" {
        let uid = object::uid(&outcome.object);
        return Ok(reply::json(200, &status::success(&call.kind, &call.target.name, uid)));
    }
    Ok(reply::json(200, &present::object(&call.kind, form, outcome.object)))
}

/// Deletes, or begins to.
pub(crate) async fn remove(call: &Call, name: &str, options: &Options) -> ApiResult<Outcome> {
    let dry;
    let call = if options.dry_run.is_empty() || call.dry_run()? {
        call
    } else {
        let query = crate::query::Query::parse("dryRun=All");
        dry = Call { query, ..call.sibling(name) };
        &dry
    };
    write::change(call, name, |old| {
        let old = old.ok_or_else(|| ApiError::not_found(&call.kind, name))?;
        options.check(call, old)?;
        admission::delete(call, old)?;
        Ok(step(call, old, options))
    })
    .await
}

fn step(call: &Call, old: &Value, options: &Options) -> Step {
    let kind = &call.kind;
    let mut new = old.clone();
    set_propagation(&mut new, options);
    let grace = kind.strategy.deletion_grace(old, options.grace());
    let pending = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
    let grace = match (object::is_deleting(old), grace, pending) {
        // A second deletion can only shorten the wait.
        (true, Some(asked), Some(left)) if asked >= left => {
            return if meta::same(old, &new) { Step::Keep } else { Step::Put(new) };
        }
        (_, grace, _) => grace.unwrap_or(0),
    };
    let held = object::finalizers(&new).next().is_some() || kind.strategy.holds_deletion(&new);
    if grace == 0 && !held {
        return Step::Remove;
    }
    if object::is_deleting(old) && grace == 0 && pending == Some(0) {
        return if meta::same(old, &new) { Step::Keep } else { Step::Put(new) };
    }
    meta::mark_deleted(kind, &mut new, grace);
    Step::Put(new)
}

/// How dependents are to be treated is written as a finalizer for the garbage collector.
fn set_propagation(object: &mut Value, options: &Options) {
    let policy = options.propagation_policy.as_deref().or(match options.orphan_dependents {
        Some(true) => Some("Orphan"),
        Some(false) => Some("Background"),
        None => None,
    });
    let Some(policy) = policy else { return };
    for (name, finalizer) in [("Foreground", FINALIZER_FOREGROUND), ("Orphan", FINALIZER_ORPHAN)] {
        if policy == name {
            object::add_finalizer(object, finalizer);
        } else {
            object::remove_finalizer(object, finalizer);
        }
    }
}

pub(super) async fn delete_collection(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let options = Options::of(call, body)?;
    let selection = Selection::of(call)?;
    let prefix = call.kind.prefix_in(&call.target.namespace);
    let snapshot = call.app.cache.list(&prefix, None, |entry| selection.matches(entry));
    let mut items = Vec::new();
    for entry in &snapshot.entries {
        let object = entry.value();
        let mut one = call.sibling(object::name(&object));
        one.target.namespace = object::namespace(&object).to_owned();
        match remove(&one, &one.target.name, &options).await {
            Ok(outcome) => items.push(present::object(
                &call.kind,
                crate::negotiate::Form::Object,
                outcome.object,
            )),
            // Someone else was faster.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": format!("{}List", call.kind.kind), "apiVersion": call.kind.api_version(),
        "metadata": {"resourceVersion": snapshot.revision.to_string()}, "items": items,
    });
    Ok(reply::json(200, &list))
}
