//! What is under an object, or is asked of the server rather than stored.
//!
//! Parts of an object (`status`, `approval`, `finalize`, `ephemeralcontainers`, `resize`) take the
//! generic path with a rule of what they may change: [`part`]. The rest is here, one file each.

mod binding;
mod eviction;
mod review;
mod scale;
mod token;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::object::{self, child, keep};
use crate::reply::{self, Reply};
use crate::rest::Call;
use crate::status::ApiResult;

/// Serves what is no part of an object; `None` leaves the call to the generic path.
pub(crate) async fn serve(call: &Call, body: &Bytes) -> ApiResult<Option<Reply>> {
    let (resource, subresource) = (call.kind.plural.as_str(), call.target.subresource.as_str());
    let answer = match (resource, subresource, call.verb) {
        (_, "scale", _) => scale::serve(call, body).await?,
        ("pods", "eviction", "create") => eviction::evict(call, body).await?,
        ("pods", "binding", "create") | ("bindings", "", "create") => {
            binding::bind(call, body).await?
        }
        ("serviceaccounts", "token", "create") => token::issue(call, body)?,
        _ if subresource.is_empty() && call.kind.verbs == ["create"] => {
            let object = review::answer(call, body)?;
            reply::json(201, &object)
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

/// The object that results when a write to a subresource replaces `old` by `given`; `None` if the
/// subresource is none of those that hold a part.
pub(crate) fn part(kind: &Kind, subresource: &str, old: &Value, given: &Value) -> Option<Value> {
    let mut new = old.clone();
    match (kind.kind.as_str(), subresource) {
        (_, "status") => {
            keep(&mut new, "status", given.get("status"));
            // These may be written with the status; a deployment's labels are its selector's.
            let metadata = match kind.kind.as_str() {
                "Deployment" => &["annotations"][..],
                _ => &["annotations", "labels"],
            };
            for name in metadata {
                let value = given.pointer(&format!("/metadata/{name}"));
                object::keep_metadata(&mut new, name, value);
            }
            if kind.kind == "CertificateSigningRequest" {
                // Only approval changes whether a request is approved.
                merge_conditions(&mut new, old, &["Approved", "Denied"]);
            }
        }
        ("CertificateSigningRequest", "approval") => {
            let conditions = given.pointer("/status/conditions").cloned();
            keep(&mut new, "status", old.get("status"));
            match conditions {
                Some(conditions) => {
                    child(&mut new, "status").insert("conditions".into(), conditions)
                }
                None => child(&mut new, "status").remove("conditions"),
            };
            stamp_conditions(&mut new);
        }
        ("Namespace", "finalize") => {
            let finalizers = given.pointer("/spec/finalizers").cloned().unwrap_or(json!([]));
            child(&mut new, "spec").insert("finalizers".into(), finalizers);
        }
        ("Pod", "ephemeralcontainers") => {
            let list = given.pointer("/spec/ephemeralContainers").cloned().unwrap_or(json!([]));
            child(&mut new, "spec").insert("ephemeralContainers".into(), list);
        }
        ("Pod", "resize") => resize(&mut new, given),
        _ => return None,
    }
    Some(new)
}

fn resize(new: &mut Value, given: &Value) {
    for list in ["containers", "initContainers"] {
        let wanted = object::items(given, &format!("/spec/{list}")).to_vec();
        let own = child(new, "spec").get_mut(list).and_then(Value::as_array_mut);
        for container in own.into_iter().flatten() {
            let same = wanted.iter().find(|w| w.get("name") == container.get("name"));
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = same.and_then(|w| w.get(field)) {
                    container[field] = value.clone();
                }
            }
        }
    }
}

/// Conditions of these types stay as they were.
fn merge_conditions(new: &mut Value, old: &Value, fixed: &[&str]) {
    let is_fixed = |c: &&Value| fixed.contains(&object::text(c, "/type"));
    let given = object::items(new, "/status/conditions").iter();
    let mut merged: Vec<Value> = given.filter(|c| !is_fixed(c)).cloned().collect();
    let own = object::items(old, "/status/conditions").iter();
    merged.extend(own.filter(|c| is_fixed(c)).cloned());
    if !merged.is_empty() {
        child(new, "status").insert("conditions".into(), Value::Array(merged));
    }
}

fn stamp_conditions(new: &mut Value) {
    let now = object::now();
    let conditions = child(new, "status").get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.entry("lastUpdateTime").or_insert_with(|| now.clone().into());
        condition.entry("lastTransitionTime").or_insert_with(|| now.clone().into());
    }
}
