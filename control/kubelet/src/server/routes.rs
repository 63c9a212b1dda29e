//! From a request's path to its answer.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::auth::User;
use super::{Request, Response, Server, full, json, logs, metrics, stats, stream, text};

/// What a path asks for, and the right that it needs on `nodes/<what>`.
struct Route<'a> {
    /// First part of the path.
    root: &'a str,
    rest: Vec<&'a str>,
}

/// Answers one request.
pub(super) async fn answer(server: Arc<Server>, peer: Option<User>, request: Request) -> Response {
    let path = request.uri().path().trim_matches('/').to_owned();
    let mut parts = path.split('/');
    let route = Route { root: parts.next().unwrap_or_default(), rest: parts.collect() };
    if route.root == "healthz" || route.root == "livez" || route.root == "readyz" {
        return text(StatusCode::OK, "ok");
    }
    let what = match route.root {
        "metrics" => "metrics",
        "stats" => "stats",
        "logs" => "log",
        _ => "proxy",
    };
    if let Err(refused) = admit(&server, peer, &request, what).await {
        return refused;
    }
    let query = pairs(request.uri().query().unwrap_or_default());
    match (route.root, route.rest.as_slice()) {
        ("pods" | "runningpods", _) => pods(&server),
        ("containerLogs", [namespace, pod, container]) => {
            logs::answer(&server, (namespace, pod, container), &query).await
        }
        ("exec" | "attach" | "run", [namespace, pod, container])
        | ("exec" | "attach" | "run", [namespace, pod, _, container]) => {
            let target = (*namespace, *pod, *container);
            stream::process(&server, route.root, target, &query, request).await
        }
        ("portForward", [namespace, pod] | [namespace, pod, _]) => {
            stream::port_forward(&server, (namespace, pod), &query, request).await
        }
        ("stats", ["summary"]) => stats::summary(&server).await,
        ("metrics", []) => metrics::own(&server),
        ("metrics", ["resource" | "cadvisor"]) => metrics::resource(&server).await,
        ("metrics", ["probes"]) => full(StatusCode::OK, metrics::CONTENT_TYPE, ""),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Refuses whoever is unknown or has no right.
async fn admit(
    server: &Server,
    peer: Option<User>,
    request: &Request,
    what: &'static str,
) -> Result<(), Response> {
    let user = match peer {
        Some(user) => Some(user),
        None => match bearer(request) {
            Some(token) => server.auth.by_token(token).await,
            None => None,
        },
    };
    let user = user.ok_or_else(|| text(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
    let verb = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::DELETE => "delete",
        _ => "get",
    };
    match server.auth.allows(&user, verb, what).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let node = &server.ctx.config.node_name;
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource={what}, node={node})",
                user.name
            );
            Err(text(StatusCode::FORBIDDEN, message))
        }
        Err(e) => {
            let message = format!("the API server can't be asked for {}'s rights: {e}", user.name);
            Err(text(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

fn pods(server: &Server) -> Response {
    let items: Vec<_> = server
        .pods
        .all()
        .iter()
        .map(|handle| {
            let mut pod = (*handle.pod()).clone();
            pod.status = Some(handle.shown().status);
            let mut item = serde_json::to_value(pod).unwrap_or_default();
            if let Some(map) = item.as_object_mut() {
                map.remove("apiVersion");
                map.remove("kind");
            }
            item
        })
        .collect();
    json(
        &serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
    )
}

/// The query's values by name; `command` may come many times.
pub(super) type Query = HashMap<String, Vec<String>>;

pub(super) fn pairs(query: &str) -> Query {
    let mut all = Query::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(decode(name)).or_default().push(decode(value));
    }
    all
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                if let (Some(high), Some(low)) = (digit(*high), digit(*low)) {
                    bytes.push(high << 4 | low);
                    rest = after;
                } else {
                    bytes.push(b'%');
                }
            }
            (other, _) => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Is a flag of the query set?
pub(super) fn flag(query: &Query, name: &str) -> bool {
    query.get(name).and_then(|v| v.first()).is_some_and(|v| v == "true" || v == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_keep_their_order() {
        let query = pairs("command=sh&command=-c&command=echo+%24A%26%zz&tty=1&stdin=");
        assert_eq!(query["command"], ["sh", "-c", "echo $A&%zz"]);
        assert!(flag(&query, "tty") && !flag(&query, "stdin") && !flag(&query, "none"));
    }
}
