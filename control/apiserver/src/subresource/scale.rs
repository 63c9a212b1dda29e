//! `scale`: a size, the same for every kind that has one.

use bowline_api::selector::{LabelSelector, Operator};
use bowline_schema::Gvk;
use bowline_schema::patch;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::object::{self, child, text};
use crate::reply::{self, Reply};
use crate::rest::write::{self, Step};
use crate::rest::{Call, decode, update};
use crate::status::{ApiError, ApiResult};

/// The scale that is asked for, given the present one.
type Wanted = Box<dyn Fn(&Value) -> ApiResult<Value> + Send + Sync>;

pub(super) async fn serve(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    let wanted: Wanted = match call.verb {
        "get" => {
            let entry = call.app.cache.get(&call.key()).ok_or_else(|| call.not_found())?;
            return Ok(reply::json(200, &scale(&entry.value())));
        }
        "update" => {
            let given = decode::of_kind(call, &gvk, body)?;
            Box::new(move |_| Ok(given.clone()))
        }
        "patch" => {
            let content_type = decode::content_type(&call.headers).to_owned();
            let document = match content_type.as_str() {
                "application/apply-patch+yaml" => decode::yaml(body)?,
                _ => {
                    let parsed = bowline_schema::decode::parse(body);
                    parsed.map_err(|e| ApiError::bad_request(e.to_string()))?.value
                }
            };
            Box::new(move |old| {
                let result = match content_type.as_str() {
                    "application/json-patch+json" => patch::json(old, &document),
                    _ => patch::merge(old, &document),
                };
                result.map_err(|error| ApiError::bad_request(error.to_string()))
            })
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let outcome = write::change(call, &call.target.name, |old| {
        let old = old.ok_or_else(|| call.not_found())?;
        let given = wanted(&scale(old))?;
        update::check_revision(call, old, object::revision(&given))?;
        resized(call, old, &given)
    })
    .await?;
    Ok(reply::json(200, &scale(&outcome.object)))
}

fn resized(call: &Call, old: &Value, given: &Value) -> ApiResult<Step> {
    let replicas = given.pointer("/spec/replicas").cloned().unwrap_or_else(|| 0.into());
    if replicas.as_i64().is_none_or(|count| !(0..=i64::from(i32::MAX)).contains(&count)) {
        let error = bowline_schema::validate::FieldError {
            reason: bowline_schema::validate::Reason::Invalid,
            field: "spec.replicas".to_owned(),
            detail: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            bad_value: Some(replicas),
        };
        return Err(ApiError::invalid(&call.kind, object::name(old), &[error]));
    }
    let mut new = old.clone();
    child(&mut new, "spec").insert("replicas".into(), replicas);
    update::finish(call, old, new, true)
}

/// The `Scale` of an object.
fn scale(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let pick = |name: &str| metadata.get(name).cloned().unwrap_or_default();
    let number = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_else(|| 0.into());
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": pick("name"), "namespace": pick("namespace"), "uid": pick("uid"),
            "resourceVersion": pick("resourceVersion"),
            "creationTimestamp": pick("creationTimestamp"),
        },
        "spec": {"replicas": number("/spec/replicas")},
        "status": {"replicas": number("/status/replicas"), "selector": selector_text(object)},
    })
}

/// The selector in the form that queries take.
fn selector_text(object: &Value) -> String {
    let Some(selector) = object.pointer("/spec/selector") else { return String::new() };
    if text(object, "/kind") == "ReplicationController" {
        let pairs = selector.as_object().into_iter().flatten();
        let parts: Vec<String> =
            pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        return parts.join(",");
    }
    let parsed = serde_json::from_value(selector.clone()).ok();
    let Some(parsed) = parsed.as_ref().and_then(LabelSelector::from_object) else {
        return String::new();
    };
    let parts: Vec<String> = parsed
        .requirements
        .iter()
        .map(|requirement| {
            let key = &requirement.key;
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
                Operator::In(values) => format!("{key} in ({})", values.join(",")),
                Operator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
                Operator::Exists => key.clone(),
                Operator::DoesNotExist => format!("!{key}"),
                _ => String::new(),
            }
        })
        .collect();
    parts.join(",")
}
