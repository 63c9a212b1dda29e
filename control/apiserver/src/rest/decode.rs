//! From a request's body to an object of the kind that the path names.

use bowline_schema::{Gvk, decode};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::Call;
use crate::convert;
use crate::kinds::Kind;
use crate::object::as_map;
use crate::protobuf;
use crate::status::{ApiError, ApiResult};

const SERVED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What to do with fields that the kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validation {
    Ignore,
    Warn,
    Strict,
}

impl Validation {
    pub(crate) fn of(call: &Call) -> ApiResult<Self> {
        match call.query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Strict") => Ok(Self::Strict),
            Some("Ignore") => Ok(Self::Ignore),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation \"{other}\" is not supported: use Ignore, Warn or Strict"
            ))),
        }
    }
}

/// The `Content-Type` without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

/// Reads JSON, YAML or protobuf; also tells which fields were given twice.
pub(crate) fn document(headers: &HeaderMap, body: &Bytes) -> ApiResult<(Value, Vec<String>)> {
    match content_type(headers) {
        "" | "application/json" | "*/*" => {
            let parsed = decode::parse(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            Ok((parsed.value, parsed.duplicates))
        }
        "application/vnd.kubernetes.protobuf" => {
            let object = protobuf::read(body);
            Ok((object.map_err(|e| ApiError::bad_request(e.to_string()))?, Vec::new()))
        }
        "application/yaml" | "text/yaml" | "application/x-yaml" => Ok((yaml(body)?, Vec::new())),
        other => Err(ApiError::unsupported_media_type(other, SERVED)),
    }
}

pub(crate) fn yaml(body: &[u8]) -> ApiResult<Value> {
    serde_yaml::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))
}

/// The object in the storage version, and warnings for the client.
pub(crate) fn object(call: &Call, body: &Bytes) -> ApiResult<(Value, Vec<String>)> {
    let validation = Validation::of(call)?;
    let (mut object, duplicates) = document(&call.headers, body)?;
    let warnings = normal(call, &call.kind.gvk(), &mut object, duplicates, validation)?;
    convert::to_storage(&call.kind, &mut object);
    Ok((object, warnings))
}

/// Brings an object into normal form and judges what was wrong with it.
pub(crate) fn normal(
    call: &Call,
    gvk: &Gvk,
    object: &mut Value,
    duplicates: Vec<String>,
    validation: Validation,
) -> ApiResult<Vec<String>> {
    check_kind(&call.kind, gvk, object)?;
    let unknown = decode::normalize(gvk, object).map_err(|error| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {error}",
            gvk.kind, gvk.version, gvk.kind
        ))
    })?;
    let unknown = unknown.iter().map(|field| format!("unknown field \"{field}\""));
    let twice = duplicates.iter().map(|field| format!("duplicate field \"{field}\""));
    let problems: Vec<String> = unknown.chain(twice).collect();
    match validation {
        Validation::Strict if !problems.is_empty() => Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            gvk.kind,
            gvk.version,
            gvk.kind,
            problems.join(", ")
        ))),
        Validation::Warn => Ok(problems),
        Validation::Strict | Validation::Ignore => Ok(Vec::new()),
    }
}

/// What the object says that it is must be what the path says; what it does not say is filled in.
fn check_kind(kind: &Kind, gvk: &Gvk, object: &mut Value) -> ApiResult<()> {
    if !object.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized: a {} must be a JSON object",
            gvk.kind
        )));
    }
    let map = as_map(object);
    for (name, expected) in [("apiVersion", gvk.api_version()), ("kind", gvk.kind.clone())] {
        let given = map.get(name).and_then(Value::as_str).unwrap_or_default();
        if given.is_empty() {
            map.insert(name.to_owned(), expected.into());
        } else if given != expected {
            return Err(ApiError::bad_request(format!(
                "the {name} of the provided object does not match the expected {name}: it is \
                 \"{given}\", but {} takes \"{expected}\"",
                kind.plural
            )));
        }
    }
    Ok(())
}

/// An object of another kind than the path's resource (a `Scale`, a `Binding`, an `Eviction`). What
/// it says about its own version is not looked at: these exist in several that are the same.
pub(crate) fn of_kind(call: &Call, gvk: &Gvk, body: &Bytes) -> ApiResult<Value> {
    let (mut object, duplicates) = document(&call.headers, body)?;
    let map = as_map(&mut object);
    let given = map.get("kind").and_then(Value::as_str).unwrap_or(&gvk.kind);
    if given != gvk.kind {
        return Err(ApiError::bad_request(format!(
            "the kind of the provided object is \"{given}\", but \"{}\" is expected",
            gvk.kind
        )));
    }
    map.insert("apiVersion".into(), gvk.api_version().into());
    normal(call, gvk, &mut object, duplicates, Validation::Ignore)?;
    Ok(object)
}
