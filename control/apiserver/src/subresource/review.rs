//! Reviews: questions about who somebody is and what they may do. Nothing is stored.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::authn::User;
use crate::authz::Attributes;
use crate::object::{items, text};
use crate::rest::{Call, decode};
use crate::status::{ApiError, ApiResult};

pub(super) fn answer(call: &Call, body: &Bytes) -> ApiResult<Value> {
    let (mut review, _) = decode::object(call, body)?;
    let status = match call.kind.kind.as_str() {
        "SelfSubjectAccessReview" => access(call, &call.user, &review),
        "SubjectAccessReview" => access(call, &subject(&review)?, &review),
        "LocalSubjectAccessReview" => {
            let namespace = text(&review, "/spec/resourceAttributes/namespace");
            if namespace != call.target.namespace {
                return Err(ApiError::bad_request(
                    "spec.resourceAttributes.namespace must match the namespace of the request",
                ));
            }
            access(call, &subject(&review)?, &review)
        }
        "SelfSubjectRulesReview" => rules(call, &review),
        "TokenReview" => token(call, &review),
        "SelfSubjectReview" => json!({"userInfo": call.user.info()}),
        _ => return Err(ApiError::method_not_allowed()),
    };
    review["status"] = status;
    Ok(review)
}

fn strings(review: &Value, pointer: &str) -> Vec<String> {
    items(review, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn subject(review: &Value) -> ApiResult<User> {
    let user = User {
        name: text(review, "/spec/user").to_owned(),
        groups: strings(review, "/spec/groups"),
        ..User::default()
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(ApiError::bad_request("spec.user or spec.groups must be given"));
    }
    Ok(user)
}

fn access(call: &Call, user: &User, review: &Value) -> Value {
    let wanted = if review.pointer("/spec/nonResourceAttributes").is_some() {
        let part = |name: &str| text(review, &format!("/spec/nonResourceAttributes/{name}"));
        Attributes {
            verb: part("verb").to_owned(),
            path: Some(part("path").to_owned()),
            ..Attributes::default()
        }
    } else {
        let part =
            |name: &str| text(review, &format!("/spec/resourceAttributes/{name}")).to_owned();
        Attributes {
            verb: part("verb"),
            group: part("group"),
            resource: part("resource"),
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
            ..Attributes::default()
        }
    };
    match call.app.authz.allows(user, &wanted) {
        Some(reason) if reason.is_empty() => json!({"allowed": true}),
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    }
}

fn rules(call: &Call, review: &Value) -> Value {
    let all = call.app.authz.rules(&call.user, text(review, "/spec/namespace"));
    let (paths, resources): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn token(call: &Call, review: &Value) -> Value {
    let issuer = call.app.authn.tokens.issuer();
    let mut audiences = strings(review, "/spec/audiences");
    if audiences.is_empty() {
        audiences.push(issuer.to_owned());
    }
    let token = text(review, "/spec/token");
    // Which of the audiences the token is good for.
    let good: Vec<&String> = audiences
        .iter()
        .filter(|audience| call.app.authn.check_token(token, &[audience.as_str()]).is_some())
        .collect();
    let wanted: Vec<&str> = audiences.iter().map(String::as_str).collect();
    match call.app.authn.check_token(token, &wanted) {
        Some(user) => json!({"authenticated": true, "user": user.info(), "audiences": good}),
        None => json!({"authenticated": false, "user": {},
                       "error": "the token is not valid for any of the audiences"}),
    }
}
