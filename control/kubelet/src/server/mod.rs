//! The kubelet's HTTPS server, through which the API server reaches logs and processes.
//!
//! | path | what |
//! |---|---|
//! | `/healthz` | lives; needs no identity |
//! | `/pods` | this node's pods |
//! | `/containerLogs/<ns>/<pod>/<container>` | a container's log |
//! | `/exec`, `/attach` `/<ns>/<pod>[/<uid>]/<container>`, `/run/...` | streams, passed through unparsed |
//! | `/portForward/<ns>/<pod>[/<uid>]` | likewise |
//! | `/stats/summary`, `/metrics`, `/metrics/cadvisor`, `/metrics/resource` | usage |
//!
//! HTTP/1.1 only: upgrades need it, and nothing else is gained by more.

mod auth;
mod cert;
mod logs;
mod metrics;
mod routes;
mod stats;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::context::Context;
use crate::pod::manager::Pods;

/// Connections at one time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 1024;
/// A client must have said what it wants after this long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, std::io::Error>;
type Response = http::Response<Body>;
type Request = http::Request<hyper::body::Incoming>;

/// The server could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}: is another kubelet running? --kubelet-port chooses another port")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Auth(#[from] auth::Error),
    #[error(transparent)]
    Cert(#[from] cert::Error),
}

/// What every request needs.
struct Server {
    ctx: Arc<Context>,
    pods: Pods,
    auth: auth::Auth,
}

/// A server that has its port.
pub struct Bound {
    server: Arc<Server>,
    listener: TcpListener,
    tls: Arc<cert::Certificates>,
}

/// Takes the port and reads the certificates.
pub async fn bind(ctx: &Arc<Context>, pods: Pods) -> Result<Bound, Error> {
    let address = ctx.config.listen;
    let auth = auth::Auth::new(&ctx.config)?;
    let tls = cert::Certificates::new(ctx, auth.client_verifier())?;
    let listener =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let server = Arc::new(Server { ctx: Arc::clone(ctx), pods, auth });
    Ok(Bound { server, listener, tls })
}

impl Bound {
    /// Serves until shutdown.
    pub async fn serve(self) {
        let shutdown = self.server.ctx.shutdown.clone();
        tokio::spawn(Arc::clone(&self.tls).keep_signed(Arc::clone(&self.server.ctx)));
        let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = Arc::clone(&limit).acquire_owned().await;
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of files, most likely: others must end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let acceptor = TlsAcceptor::from(self.tls.config());
            let server = Arc::clone(&self.server);
            tokio::spawn(async move {
                connection(server, acceptor, stream).await;
                drop(permit);
            });
        }
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: tokio::net::TcpStream) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else { return };
    let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(auth::user_of);
    let peer = peer.flatten();
    let service = hyper::service::service_fn(move |request| {
        let (server, peer) = (Arc::clone(&server), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(server, peer, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection ended");
    }
}

fn full(status: http::StatusCode, kind: &str, body: impl Into<Bytes>) -> Response {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut answer = http::Response::new(body);
    *answer.status_mut() = status;
    if let Ok(value) = kind.parse() {
        answer.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    answer
}

fn text(status: http::StatusCode, body: impl Into<String>) -> Response {
    full(status, "text/plain; charset=utf-8", body.into())
}

fn json(body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => full(http::StatusCode::OK, "application/json", body),
        Err(e) => text(http::StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}
