//! Paths that are no resources: discovery, OpenAPI, health, keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bowline_schema::openapi::Document;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

use crate::app::App;
use crate::discovery;
use crate::negotiate;
use crate::query::Query;
use crate::reply::{self, JSON, Reply};
use crate::status::{ApiError, ApiResult};

/// Clients ask for `...v2@v1.0+protobuf`, but an `@` in an answer's type is an error to them.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) async fn serve(
    app: &Arc<App>,
    method: &Method,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Reply> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    match segments.as_slice() {
        ["healthz" | "livez", ..] => Ok(reply::text(200, "ok")),
        ["readyz", ..] => Ok(ready(app, query)),
        ["version"] => Ok(reply::json(200, &discovery::version())),
        ["metrics"] => Ok(reply::bytes(200, "text/plain; version=0.0.4", app.metrics.text())),
        ["cacerts"] => {
            let pem = app.config.tls.ca_pem.clone();
            Ok(reply::bytes(200, "application/x-pem-file", pem))
        }
        [".well-known", "openid-configuration"] => Ok(openid(app)),
        ["openid", "v1", "jwks"] => {
            let keys = app.authn.tokens.key_set().to_string();
            Ok(reply::bytes(200, "application/jwk-set+json", keys))
        }
        ["api" | "apis"] => Ok(root(app, segments[0] == "api", headers)),
        ["api", version] => found(discovery::resources(app, "", version)),
        ["apis", group] => found(discovery::group(app, group)),
        ["apis", group, version] => found(discovery::resources(app, group, version)),
        ["openapi", rest @ ..] => openapi(app, rest, query, headers).await,
        [] => Ok(reply::json(
            200,
            &json!({"paths": [
                "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/cacerts",
            "/healthz",
                "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz",
                "/version",
            ]}),
        )),
        _ => Err(ApiError::no_route()),
    }
}

fn found(value: Option<serde_json::Value>) -> ApiResult<Reply> {
    value.map(|value| reply::json(200, &value)).ok_or_else(ApiError::no_route)
}

fn ready(app: &App, query: &Query) -> Reply {
    let checks = [
        ("bootstrap", app.ready.load(Ordering::Acquire)),
        ("shutdown", !app.shutdown.is_cancelled()),
    ];
    let good = checks.iter().all(|(_, good)| *good);
    if good && !query.has("verbose") {
        return reply::text(200, "ok");
    }
    let mut text = String::new();
    for (name, good) in checks {
        let mark = if good { "[+]" } else { "[-]" };
        text.push_str(&format!("{mark}{name} {}\n", if good { "ok" } else { "failed" }));
    }
    text.push_str(if good { "readyz check passed\n" } else { "readyz check failed\n" });
    reply::text(if good { 200 } else { 500 }, text)
}

fn openid(app: &App) -> Reply {
    let issuer = app.authn.tokens.issuer();
    reply::json(
        200,
        &json!({
            "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }),
    )
}

fn root(app: &App, core: bool, headers: &HeaderMap) -> Reply {
    let mut reply = if negotiate::wants_aggregated_discovery(headers) {
        reply::bytes(200, AGGREGATED, discovery::aggregated(app, core).to_string())
    } else if core {
        reply::json(200, &discovery::versions(app))
    } else {
        reply::json(200, &discovery::groups(app))
    };
    reply.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    reply
}

async fn openapi(
    app: &Arc<App>,
    rest: &[&str],
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Reply> {
    let app = Arc::clone(app);
    let protobuf = negotiate::accepts(headers, "proto-openapi.spec.v2");
    let wanted = rest.join("/");
    // The first making of a document takes a while: off the async threads.
    let made = tokio::task::spawn_blocking(move || match wanted.as_str() {
        "v2" if protobuf => Made::Document(app.openapi.v2_protobuf(), PROTOBUF),
        "v2" => Made::Document(app.openapi.v2_json(), JSON),
        "v3" => Made::Index(app.openapi.v3_index()),
        other => match other.strip_prefix("v3/").and_then(|path| app.openapi.v3(path)) {
            Some(document) => Made::Document(document, JSON),
            None => Made::Nothing,
        },
    });
    let made = made.await.map_err(|error| ApiError::internal(error.to_string()))?;
    match made {
        Made::Nothing => Err(ApiError::no_route()),
        Made::Index(bytes) => Ok(reply::bytes(200, JSON, bytes)),
        Made::Document(document, kind) => Ok(document_reply(&document, kind, query, headers)),
    }
}

enum Made {
    Document(Document, &'static str),
    Index(bytes::Bytes),
    Nothing,
}

fn document_reply(
    document: &Document,
    content_type: &'static str,
    query: &Query,
    headers: &HeaderMap,
) -> Reply {
    let tag = format!("\"{}\"", document.etag);
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.contains(&document.etag)) {
        return reply::bytes(304, content_type, bytes::Bytes::new());
    }
    let gzip = negotiate::accepts_gzip(headers);
    let body = if gzip { document.gzip.clone() } else { document.identity() };
    let mut reply = reply::bytes(200, content_type, body);
    let out = reply.headers_mut();
    if gzip {
        out.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(ETAG, tag);
    }
    out.insert(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    if query.get("hash") == Some(document.etag.as_str()) {
        // The address names the content, so it never changes.
        let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
        out.insert(http::header::CACHE_CONTROL, forever);
    }
    reply
}
