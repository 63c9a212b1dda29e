//! `serviceaccounts/token`: tokens on request (KEP-1205).

use bowline_schema::Gvk;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::authn::{Bound, Reference};
use crate::kinds;
use crate::object::{self, child, items, text};
use crate::reply::{self, Reply};
use crate::rest::{Call, decode};
use crate::status::{ApiError, ApiResult};

const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;
/// The longest that a token lasts, whatever is asked for.
const MAX_SECONDS: i64 = 86_400 * 365;

pub(super) fn issue(call: &Call, body: &Bytes) -> ApiResult<Reply> {
    let gvk = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = decode::of_kind(call, &gvk, body)?;
    let entry = call.app.cache.get(&call.key()).ok_or_else(|| call.not_found())?;
    let account = entry.value();
    let tokens = &call.app.authn.tokens;
    let mut audiences: Vec<String> = items(&request, "/spec/audiences")
        .iter()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(tokens.issuer().to_owned());
    }
    let given = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
    let seconds = given.unwrap_or(DEFAULT_SECONDS);
    if seconds < MIN_SECONDS {
        return Err(ApiError::unprocessable(format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: {seconds}: may not specify a duration less than 10 minutes"
        )));
    }
    let seconds = seconds.min(MAX_SECONDS);
    let bound = bound(call, &account, request.pointer("/spec/boundObjectRef"))?;
    if let Some(node) = call.user.node() {
        let own = bound.node.as_ref().is_some_and(|found| found.name == node);
        let exact = !text(&request, "/spec/boundObjectRef/uid").is_empty();
        if bound.pod.is_none() || !own || !exact {
            let why = format!(
                "node \"{node}\" may only ask for tokens of pods that run on it, named by their uid"
            );
            return Err(ApiError::refused(&call.kind, &account, &why));
        }
    }
    let token = tokens
        .issue(&account, bound, &audiences, seconds)
        .map_err(|error| ApiError::internal(format!("the token could not be signed: {error}")))?;
    let now = jiff::Timestamp::now();
    let end = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    let metadata = object::metadata(&mut request);
    metadata.insert("name".into(), call.target.name.clone().into());
    metadata.insert("namespace".into(), call.target.namespace.clone().into());
    metadata.insert("creationTimestamp".into(), object::now().into());
    let spec = child(&mut request, "spec");
    spec.insert("audiences".into(), json!(audiences));
    spec.insert("expirationSeconds".into(), seconds.into());
    request["status"] = json!({"token": token, "expirationTimestamp": object::rfc3339(end)});
    Ok(reply::json(201, &request))
}

/// Checks that what the token is to be bound to is there, and finds its uid.
fn bound(call: &Call, account: &Value, wanted: Option<&Value>) -> ApiResult<Bound> {
    let mut bound = Bound::default();
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_null()) else { return Ok(bound) };
    let (kind, name) = (text(wanted, "/kind"), text(wanted, "/name"));
    let (resource, scope) = match kind {
        "Pod" => ("pods", format!("{}/", call.target.namespace)),
        "Secret" => ("secrets", format!("{}/", call.target.namespace)),
        "Node" => ("nodes", String::new()),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to object kind {other}: use Pod, \
                 Secret or Node",
                call.target.name
            )));
        }
    };
    let kind_row = call.app.kinds.find("", "v1", resource).ok_or_else(ApiError::no_route)?;
    let entry = call.app.cache.get(&format!("{}{scope}{name}", kinds::prefix("", resource)));
    let found = entry.ok_or_else(|| ApiError::not_found(kind_row, name))?.value();
    let uid = text(wanted, "/uid");
    if !uid.is_empty() && uid != object::uid(&found) {
        return Err(ApiError::conflict(
            kind_row,
            name,
            &format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
             The object might have been deleted and then recreated"
            ),
        ));
    }
    let reference = Reference { name: name.to_owned(), uid: object::uid(&found).to_owned() };
    match kind {
        "Pod" => {
            if text(&found, "/spec/serviceAccountName") != object::name(account) {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different \
                     serviceaccount name.",
                    call.target.name
                )));
            }
            bound.pod = Some(reference);
            bound.node = node_of(call, &found);
        }
        "Secret" => bound.secret = Some(reference),
        _ => bound.node = Some(reference),
    }
    Ok(bound)
}

fn node_of(call: &Call, pod: &Value) -> Option<Reference> {
    let name = text(pod, "/spec/nodeName");
    let key = format!("{}{name}", kinds::prefix("", "nodes"));
    let node = call.app.cache.get(&key).map(|entry| entry.value());
    let uid = node.as_ref().map(|node| object::uid(node).to_owned()).unwrap_or_default();
    (!name.is_empty()).then(|| Reference { name: name.to_owned(), uid })
}
