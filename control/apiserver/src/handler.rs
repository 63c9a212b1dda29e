//! One request, from its head to its answer.

use std::sync::Arc;
use std::time::Instant;

use bowline_api::selector::FieldSelector;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::authn::{self, User};
use crate::authz::Attributes;
use crate::documents;
use crate::kubelet;
use crate::query::Query;
use crate::reply::{self, Reply};
use crate::rest::{self, Call};
use crate::route::{self, Route, Target};
use crate::status::{ApiError, ApiResult};

/// Bytes of a body that is too large which are still read, so that its client hears why it failed.
const MAX_DISCARDED: usize = 16 << 20;

/// Answers a request, whatever happens; `certificate` is the client's, if it showed one.
pub(crate) async fn handle(
    app: Arc<App>,
    certificate: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Reply {
    let begun = Instant::now();
    let audit = uuid::Uuid::new_v4().to_string();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let route = route::route(request.uri().path());
    let verb = match &route {
        Route::Resource(target) => route::verb(request.method(), target, &query),
        Route::Other => http_verb(request.method()),
    };
    let (group, resource) = match &route {
        Route::Resource(t) if app.kinds.find(&t.group, &t.version, &t.resource).is_some() => {
            (t.group.clone(), t.resource.clone())
        }
        _ => (String::new(), String::new()),
    };
    let path = request.uri().path().to_owned();
    let answer = answer(&app, certificate.as_deref(), request, route, verb, query).await;
    let mut answer = answer.unwrap_or_else(|error| {
        tracing::debug!(verb, path, code = error.code, message = error.message, "refused");
        reply::error(&error)
    });
    if let Ok(id) = HeaderValue::from_str(&audit) {
        answer.headers_mut().insert("audit-id", id);
    }
    app.metrics.count(verb, &group, &resource, answer.status().as_u16(), begun.elapsed());
    answer
}

async fn answer(
    app: &Arc<App>,
    certificate: Option<&User>,
    request: Request<Incoming>,
    route: Route,
    verb: &'static str,
    query: Query,
) -> ApiResult<Reply> {
    let user = app.authn.authenticate(request.headers(), certificate)?;
    let user = impersonate(app, user, request.headers())?;
    match route {
        Route::Other => {
            let path = request.uri().path().to_owned();
            let wanted = Attributes {
                verb: verb.to_owned(),
                path: Some(path.clone()),
                ..Attributes::default()
            };
            // Joining nodes must be able to fetch the CA before they can trust it: they know its
            // hash.
            if path != "/cacerts" {
                app.authz.authorize(&user, &wanted)?;
            }
            documents::serve(app, request.method(), &path, &query, request.headers()).await
        }
        Route::Resource(target) => {
            let wanted = attributes(verb, &target, &query);
            app.authz.authorize(&user, &wanted)?;
            if is_session(&target) && verb == "get" {
                // A WebSocket begins with a GET, yet it does what a POST does (since 1.35).
                let wanted = Attributes { verb: "create".to_owned(), ..wanted };
                app.authz.authorize(&user, &wanted)?;
            }
            let kind = app.kinds.find(&target.group, &target.version, &target.resource);
            let kind = Arc::clone(kind.ok_or_else(ApiError::no_route)?);
            check_target(&kind, &target)?;
            let call = Call {
                app: Arc::clone(app),
                kind,
                user,
                verb,
                method: request.method().clone(),
                target,
                query,
                headers: request.headers().clone(),
            };
            resource(call, request).await
        }
    }
}

fn http_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "options",
    }
}

/// Whether it is a way to act inside of a pod.
fn is_session(target: &Target) -> bool {
    target.resource == "pods"
        && matches!(target.subresource.as_str(), "exec" | "attach" | "portforward")
}

fn attributes(verb: &str, target: &Target, query: &Query) -> Attributes {
    let mut wanted = Attributes {
        verb: verb.to_owned(),
        group: target.group.clone(),
        resource: target.resource.clone(),
        subresource: target.subresource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        ..Attributes::default()
    };
    if matches!(verb, "list" | "watch" | "deletecollection")
        && let Some(Ok(fields)) = query.get("fieldSelector").map(FieldSelector::parse)
    {
        let one = |field| fields.required(field).unwrap_or_default().to_owned();
        (wanted.name, wanted.node) = (one("metadata.name"), one("spec.nodeName"));
    }
    wanted
}

/// Takes the user that the headers name, if the one who asks may.
fn impersonate(app: &App, user: User, headers: &http::HeaderMap) -> ApiResult<User> {
    let Some(wanted) = authn::impersonated(headers)? else { return Ok(user) };
    let may = |group: &str, resource: &str, part: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: part.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        app.authz.authorize(&user, &attributes)
    };
    match authn::service_account(&wanted.name) {
        Some((namespace, name)) => app.authz.authorize(
            &user,
            &Attributes {
                verb: "impersonate".to_owned(),
                resource: "serviceaccounts".to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..Attributes::default()
            },
        )?,
        None => may("", "users", "", &wanted.name)?,
    }
    for group in headers.get_all("impersonate-group").iter().filter_map(|g| g.to_str().ok()) {
        if group != authn::AUTHENTICATED && group != authn::UNAUTHENTICATED {
            may("", "groups", "", group)?;
        }
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, value)?;
        }
    }
    if let Some(uid) = &wanted.uid {
        may("authentication.k8s.io", "uids", "", uid)?;
    }
    Ok(wanted)
}

/// The path must fit the kind's scope and know its subresources.
fn check_target(kind: &crate::kinds::Kind, target: &Target) -> ApiResult<()> {
    let is_namespace = kind.kind == "Namespace";
    if !kind.namespaced && !is_namespace && !target.namespace.is_empty() {
        return Err(ApiError::no_route());
    }
    if kind.namespaced && target.namespace.is_empty() && !target.name.is_empty() {
        return Err(ApiError::no_route());
    }
    let known = target.subresource.is_empty() || kind.has_subresource(&target.subresource);
    if known { Ok(()) } else { Err(ApiError::no_route()) }
}

async fn resource(call: Call, request: Request<Incoming>) -> ApiResult<Reply> {
    if kubelet::is_stream(&call.target.resource, &call.target.subresource) {
        return kubelet::serve(&call, request).await;
    }
    if call.kind.namespaced && call.target.namespace.is_empty() && call.verb == "create" {
        return Err(ApiError::bad_request("an object of this kind is created in a namespace"));
    }
    // A watch lives long and costs little: it takes no one's place.
    let _permit = if call.verb == "watch" { None } else { Some(permit(&call.app)?) };
    let body = body(&call, request).await?;
    Box::pin(rest::serve(call, body)).await
}

fn permit(app: &App) -> ApiResult<OwnedSemaphorePermit> {
    Arc::clone(&app.in_flight)
        .try_acquire_owned()
        .map_err(|_| ApiError::too_many("Too many requests, please try again later.", Some(1)))
}

async fn body(call: &Call, request: Request<Incoming>) -> ApiResult<Bytes> {
    let limits = &call.app.config.limits;
    if matches!(call.method, Method::GET | Method::HEAD) {
        return Ok(Bytes::new());
    }
    let told = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let told = told.and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let read = read_body(request.into_body(), told, limits.max_body_bytes);
    tokio::time::timeout(limits.body_timeout, read)
        .await
        .map_err(|_| ApiError::bad_request("the request's body did not come in time"))?
}

/// Reads a body of at most `max` bytes. Of one that is too large up to [`MAX_DISCARDED`] bytes are
/// read and thrown away: a client that still sends when the connection closes never sees the answer.
async fn read_body(mut body: Incoming, told: usize, max: usize) -> ApiResult<Bytes> {
    let (mut kept, mut seen) = (BytesMut::with_capacity(told.min(max)), 0);
    while seen < MAX_DISCARDED {
        let Some(frame) = body.frame().await else { break };
        let frame = frame
            .map_err(|error| ApiError::bad_request(format!("cannot read the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if told <= max && seen <= max {
            kept.extend_from_slice(&data);
        }
    }
    if told > max || seen > max { Err(ApiError::too_large(max)) } else { Ok(kept.freeze()) }
}
