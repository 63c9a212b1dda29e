//! Answers: bodies and their headers.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use crate::status::ApiError;

pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;
pub(crate) type Reply = Response<Body>;

pub(crate) const JSON: &str = "application/json";

/// Most `Warning` headers in one answer.
const MAX_WARNINGS: usize = 32;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn bytes(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(full(body));
    *reply.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Intermediaries must not keep what depends on who asks.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    reply
}

pub(crate) fn text(code: u16, body: impl Into<String>) -> Reply {
    bytes(code, "text/plain; charset=utf-8", body.into())
}

pub(crate) fn json(code: u16, value: &Value) -> Reply {
    bytes(code, JSON, value.to_string())
}

pub(crate) fn error(error: &ApiError) -> Reply {
    let mut reply = json(error.code, &error.body());
    if let Some(seconds) = error.retry_after {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// Adds RFC 7234 warnings, as `kubectl` prints them.
pub(crate) fn warn(reply: &mut Reply, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let clean: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{clean}\"")) {
            reply.headers_mut().append(WARNING, value);
        }
    }
}
