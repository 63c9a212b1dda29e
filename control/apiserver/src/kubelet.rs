//! Streams into pods: log, exec, attach, port-forward and the proxies.
//!
//! The request goes on to the kubelet (or, for pod and service proxies, to the pod) and the answer
//! comes back; when the far side switches protocols, bytes are passed both ways and not looked at,
//! so that SPDY and WebSocket clients work alike.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::app::App;
use crate::cache::Entry;
use crate::kinds;
use crate::object::{self, is_deleting, items, text};
use crate::reply::{self, Body, BodyError, Reply};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KUBELET_PORT: u64 = 10250;

/// Headers that say who asks of us, and nothing to the far side.
const PRIVATE: &[HeaderName] = &[HOST, AUTHORIZATION];

/// How kubelets are reached.
pub(crate) struct Kubelets {
    tls: TlsConnector,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where a request goes on to.
struct Far {
    address: SocketAddr,
    /// The name that the far side's certificate must show; no TLS without it.
    tls: bool,
    path: String,
}

impl Kubelets {
    pub(crate) fn new(config: Arc<rustls::ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(config) }
    }

    async fn connect(&self, far: &Far) -> ApiResult<Box<dyn Stream>> {
        let address = far.address;
        let failed = |what: &str, why: String| {
            ApiError::bad_gateway(format!("error dialing backend {address}: {what}: {why}"))
        };
        let dial = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
        let stream = dial
            .await
            .map_err(|_| failed("connect", "timed out".to_owned()))?
            .map_err(|error| failed("connect", error.to_string()))?;
        // Small frames of an interactive session must not wait for one another.
        stream.set_nodelay(true).map_err(|error| failed("set TCP_NODELAY", error.to_string()))?;
        if !far.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::IpAddress(address.ip().into());
        let handshake = tokio::time::timeout(CONNECT_TIMEOUT, self.tls.connect(name, stream));
        let stream = handshake
            .await
            .map_err(|_| failed("TLS", "timed out".to_owned()))?
            .map_err(|error| failed("TLS", error.to_string()))?;
        Ok(Box::new(stream))
    }
}

/// Whether a call is passed on and not served here.
pub(crate) fn is_stream(resource: &str, subresource: &str) -> bool {
    match subresource {
        "proxy" => matches!(resource, "pods" | "services" | "nodes"),
        "log" | "exec" | "attach" | "portforward" => resource == "pods",
        _ => false,
    }
}

pub(crate) async fn serve(call: &Call, request: Request<Incoming>) -> ApiResult<Reply> {
    if call.target.subresource == "log" && call.verb != "get" {
        return Err(ApiError::method_not_allowed());
    }
    let Some(far) = far(call, request.uri().query().unwrap_or_default())? else {
        return Ok(reply::text(200, ""));
    };
    let stream = call.app.kubelets.connect(&far).await?;
    pass(&call.app, &far, stream, request).await
}

fn far(call: &Call, query: &str) -> ApiResult<Option<Far>> {
    let name = &call.target.name;
    match (call.kind.plural.as_str(), call.target.subresource.as_str()) {
        ("nodes", _) => {
            let name = name.split(':').next().unwrap_or_default();
            let (address, tls) = node_address(call, name)?;
            let path = with_query(&format!("/{}", call.target.rest), query);
            Ok(Some(Far { address, tls, path }))
        }
        ("services", _) => service_far(call, query).map(Some),
        ("pods", "proxy") => pod_proxy(call, query).map(Some),
        _ => container_far(call, query),
    }
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn pod(call: &Call, name: &str) -> ApiResult<Value> {
    let key = call.kind.key(&call.target.namespace, name);
    let entry = call.app.cache.get(&key);
    entry.map(|entry| entry.value()).ok_or_else(|| ApiError::not_found(&call.kind, name))
}

/// The kubelet's endpoint for a container (or, for port-forward, a pod).
fn container_far(call: &Call, query: &str) -> ApiResult<Option<Far>> {
    let (name, namespace) = (&call.target.name, &call.target.namespace);
    let pod = pod(call, name)?;
    let node = text(&pod, "/spec/nodeName");
    let subresource = call.target.subresource.as_str();
    let path = match subresource {
        "portforward" => format!("/portForward/{namespace}/{name}"),
        _ => {
            let container = container(call, &pod)?;
            let verb = if subresource == "log" { "containerLogs" } else { subresource };
            format!("/{verb}/{namespace}/{name}/{container}")
        }
    };
    if node.is_empty() {
        if subresource == "log" {
            return Ok(None);
        }
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let (address, tls) = node_address(call, node)?;
    Ok(Some(Far { address, tls, path: with_query(&path, query) }))
}

/// The container that is named, or the only one.
fn container(call: &Call, pod: &Value) -> ApiResult<String> {
    let names = |list: &str| -> Vec<String> {
        let list = items(pod, &format!("/spec/{list}")).iter();
        list.map(|container| text(container, "/name").to_owned()).collect()
    };
    let (own, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = object::name(pod);
    match call.query.get("container") {
        Some(wanted) => {
            let known = [&own, &init, &ephemeral].iter().any(|l| l.iter().any(|n| n == wanted));
            if known {
                Ok(wanted.to_owned())
            } else {
                Err(ApiError::bad_request(format!(
                    "container {wanted} is not valid for pod {pod_name}"
                )))
            }
        }
        None => match own.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {pod_name}"
            ))),
            many => {
                let mut message = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    many.join(" ")
                );
                if !init.is_empty() {
                    message
                        .push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(message))
            }
        },
    }
}

fn node_address(call: &Call, name: &str) -> ApiResult<(SocketAddr, bool)> {
    let kind = call.app.kinds.find("", "v1", "nodes").ok_or_else(ApiError::no_route)?;
    let node = call.app.cache.get(&kind.key("", name));
    let node = node.ok_or_else(|| ApiError::not_found(kind, name))?.value();
    let addresses = items(&node, "/status/addresses");
    let of = |wanted: &str| {
        let mut typed = addresses.iter().filter(|a| text(a, "/type") == wanted);
        typed.find_map(|a| text(a, "/address").parse::<std::net::IpAddr>().ok())
    };
    let address = of("InternalIP").or_else(|| of("ExternalIP")).or_else(|| of("Hostname"));
    let address = address
        .ok_or_else(|| ApiError::unavailable(format!("node {name} has not told an address yet")))?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
    Ok((SocketAddr::new(address, u16::try_from(port).unwrap_or(0)), true))
}

/// `[scheme:]name[:port]`.
fn split_name(name: &str) -> (bool, &str, &str) {
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [name] => (false, name, ""),
        [name, port] => (false, name, port),
        [scheme, name, port] => (*scheme == "https", name, port),
        _ => (false, "", ""),
    }
}

fn pod_proxy(call: &Call, query: &str) -> ApiResult<Far> {
    let (tls, name, port) = split_name(&call.target.name);
    let pod = pod(call, name)?;
    let address = text(&pod, "/status/podIP")
        .parse()
        .map_err(|_| ApiError::unavailable(format!("pod {name} has no address yet")))?;
    let mut ports = items(&pod, "/spec/containers").iter().flat_map(|c| items(c, "/ports"));
    let first = ports.next().and_then(|p| p.get("containerPort")).and_then(Value::as_u64);
    let port = match port {
        "" => first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80),
        text => text
            .parse()
            .map_err(|_| ApiError::bad_request(format!("invalid port \"{text}\" of pod {name}")))?,
    };
    let path = with_query(&format!("/{}", call.target.rest), query);
    Ok(Far { address: SocketAddr::new(address, port), tls, path })
}

/// One ready endpoint of the service: the server itself is outside of every node's load balancing.
fn service_far(call: &Call, query: &str) -> ApiResult<Far> {
    let (tls, name, port) = split_name(&call.target.name);
    let service = pod(call, name)?;
    let wanted = |p: &&Value| {
        port.is_empty()
            || text(p, "/name") == port
            || p.get("port").and_then(Value::as_u64).is_some_and(|n| n.to_string() == port)
    };
    let found = items(&service, "/spec/ports").iter().find(wanted);
    let found = found.ok_or_else(|| {
        ApiError::unavailable(format!("no service port \"{port}\" found for service \"{name}\""))
    })?;
    let port_name = text(found, "/name");
    let prefix = format!(
        "{}{}/",
        kinds::prefix("discovery.k8s.io", "endpointslices"),
        call.target.namespace
    );
    let mine = |entry: &Entry| entry.label("kubernetes.io/service-name") == Some(name);
    let slices = call.app.cache.list(&prefix, None, mine).entries;
    let mut candidates = Vec::new();
    for slice in slices.iter().map(|entry| entry.value()) {
        let number = items(&slice, "/ports")
            .iter()
            .find(|p| text(p, "/name") == port_name)
            .and_then(|p| p.get("port"))
            .and_then(Value::as_u64)
            .and_then(|p| u16::try_from(p).ok());
        let Some(number) = number else { continue };
        for endpoint in items(&slice, "/endpoints") {
            let ready = endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false));
            let address = items(endpoint, "/addresses").first().and_then(Value::as_str);
            if let Some(address) = address.filter(|_| ready).and_then(|a| a.parse().ok()) {
                candidates.push(SocketAddr::new(address, number));
            }
        }
    }
    if candidates.is_empty() || is_deleting(&service) {
        let message = format!("no endpoints available for service \"{name}\"");
        return Err(ApiError::unavailable(message));
    }
    let pick = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % candidates.len();
    let path = with_query(&format!("/{}", call.target.rest), query);
    Ok(Far { address: candidates[pick], tls, path })
}

/// Sends the request on and gives back what comes.
async fn pass(
    app: &App,
    far: &Far,
    stream: Box<dyn Stream>,
    mut request: Request<Incoming>,
) -> ApiResult<Reply> {
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::bad_gateway(format!("error talking to backend {}: {error}", far.address))
    };
    let upgrades = request.headers().contains_key(UPGRADE);
    let ours = upgrades.then(|| hyper::upgrade::on(&mut request));
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend ended");
        }
    });
    let mut onward = Request::builder().method(request.method()).uri(&far.path);
    if let Some(headers) = onward.headers_mut() {
        for (name, value) in request.headers() {
            let private = PRIVATE.contains(name) || name.as_str().starts_with("impersonate-");
            if !private {
                headers.append(name, value.clone());
            }
        }
        let host = HeaderValue::from_str(&far.address.to_string());
        headers.insert(HOST, host.map_err(|error| failed(&error))?);
    }
    let onward = onward.body(request.into_body()).map_err(|error| failed(&error))?;
    let mut answer = sender.send_request(onward).await.map_err(|error| failed(&error))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(ours) = ours
    {
        let theirs = hyper::upgrade::on(&mut answer);
        let open = app.metrics.open();
        tokio::spawn(async move {
            let _open = open;
            let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            // An end on one side is an end of the session: nothing is left to report to.
            let _ended = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
        });
    }
    let (mut head, body) = answer.into_parts();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        // It concerned the connection to the far side.
        head.headers.remove(CONNECTION);
    }
    Ok(Response::from_parts(head, stream_body(body)))
}

fn stream_body(body: Incoming) -> Body {
    body.map_frame(|frame| frame.map_data(Bytes::from)).map_err(BodyError::from).boxed_unsync()
}
