//! exec, attach and port-forward: the runtime's own streaming server does the work, and the bytes
//! between it and the client are passed on unparsed, SPDY and WebSocket alike.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::routes::{Query, flag};
use super::{Request, Response, Server, text};
use crate::runtime::{State, Streams};

/// exec, attach or run in a container.
pub(super) async fn process(
    server: &Server,
    act: &str,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
    request: Request,
) -> Response {
    let Some(handle) = server.pods.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not exist here"));
    };
    let shown = handle.shown();
    let run = shown.runtime.latest(container).filter(|c| c.state == State::Running);
    let Some(run) = run else {
        let message = format!("container {container} of pod {namespace}/{pod} is not running");
        return text(StatusCode::NOT_FOUND, message);
    };
    let streams = Streams {
        stdin: flag(query, "input") || flag(query, "stdin"),
        stdout: flag(query, "output") || flag(query, "stdout"),
        stderr: flag(query, "error") || flag(query, "stderr"),
        tty: flag(query, "tty"),
    };
    let command = query.get("command").or_else(|| query.get("cmd")).cloned().unwrap_or_default();
    let runtime = &server.ctx.runtime;
    let url = match act {
        "run" => {
            let limit = std::time::Duration::from_secs(60);
            let command = command.iter().flat_map(|c| c.split(' ')).map(str::to_owned).collect();
            return match runtime.exec_sync(&run.id, command, limit).await {
                Ok(output) => {
                    let all = [output.stdout, output.stderr].concat();
                    text(StatusCode::OK, String::from_utf8_lossy(&all).into_owned())
                }
                Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
            };
        }
        "attach" => runtime.attach(&run.id, streams).await,
        _ if command.is_empty() => {
            return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
        }
        _ => runtime.exec(&run.id, command, streams).await,
    };
    match url {
        Ok(url) => forward(&url, request).await,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Ports of a pod.
pub(super) async fn port_forward(
    server: &Server,
    (namespace, pod): (&str, &str),
    query: &Query,
    request: Request,
) -> Response {
    let Some(handle) = server.pods.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not exist here"));
    };
    let shown = handle.shown();
    let Some(sandbox) = shown.runtime.ready_sandbox() else {
        return text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not running"));
    };
    let ports = query.get("port").or_else(|| query.get("ports"));
    let ports = ports.into_iter().flatten().flat_map(|p| p.split(','));
    let ports = ports.filter_map(|p| p.parse().ok()).collect();
    match server.ctx.runtime.port_forward(&sandbox.id, ports).await {
        Ok(url) => forward(&url, request).await,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Sends the request on to `url` and, when that server switches protocols, joins the two
/// connections byte by byte.
async fn forward(url: &str, request: Request) -> Response {
    match try_forward(url, request).await {
        Ok(response) => response,
        Err(message) => {
            text(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server: {message}"))
        }
    }
}

async fn try_forward(url: &str, mut request: Request) -> Result<Response, String> {
    let url: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let authority = url.authority().ok_or_else(|| format!("{url} names no host"))?.clone();
    let stream = TcpStream::connect(authority.as_str()).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let path = url.path_and_query().map_or("/", |p| p.as_str());
    let mut out = http::Request::builder().method(request.method().clone()).uri(path);
    for (name, value) in request.headers() {
        let skip = [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH];
        if !skip.contains(name) {
            out = out.header(name, value);
        }
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?;
    let out =
        out.header(header::HOST, host).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let mut answer = sender.send_request(out).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        return Ok(http::Response::from_parts(parts, body));
    }
    let (client, server) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let mut switched = http::Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = answer.headers().clone();
    Ok(switched)
}
