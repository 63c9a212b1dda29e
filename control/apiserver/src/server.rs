//! The process's side: the store, the socket, connections, and the end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_schema::openapi::OpenApi;
use bowline_store::{Store, StoreError, sqlite};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Turns};
use crate::authn::{Authenticator, KeyError, Tokens, User, certificate_identity};
use crate::authz::Authorizer;
use crate::bootstrap;
use crate::cache::Cache;
use crate::config::Config;
use crate::discovery;
use crate::handler;
use crate::kinds::Kinds;
use crate::kubelet::Kubelets;
use crate::metrics::Metrics;
use crate::tls::{self, TlsError};

/// Streams that one HTTP/2 connection may have open: a client's watches all go over one.
const H2_STREAMS: u32 = 1000;
/// Wait after the kernel refused to give another connection (no file descriptors left).
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Why the server could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}; is another server running there?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot create the data folder {}", path.display())]
    DataFolder { path: PathBuf, source: std::io::Error },
    #[error("cannot open the store")]
    Store(#[from] sqlite::OpenError),
    #[error("cannot read the store")]
    Read(#[from] StoreError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("service account tokens cannot be set up: {0}")]
    Keys(String),
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::Keys(error.to_string())
    }
}

/// A server that has its socket and its store, but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    app: Arc<App>,
}

impl Server {
    /// Opens the store, reads its state into the cache, and opens the socket.
    pub async fn bind(mut config: Config) -> Result<Self, Error> {
        bowline_api::client::install_crypto();
        let asked = config.listen;
        let listen = |source| Error::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        config.listen = address;
        let path = config.data_dir.clone();
        let folder = |source| Error::DataFolder { path: path.clone(), source };
        std::fs::create_dir_all(&config.data_dir).map_err(folder)?;
        let store = sqlite::open(&config.data_dir.join("state.db"), sqlite::Options::default())?;
        let store: Arc<dyn Store> = Arc::new(store);
        let acceptor = TlsAcceptor::from(tls::server(&config.tls)?);
        let app = Arc::new(assemble(config, store).await?);
        Ok(Self { listener, address, acceptor, app })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled and open requests have ended (or the grace is over).
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { listener, acceptor, app, .. } = self;
        let stop = app.shutdown.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(bootstrap::run(Arc::clone(&app)));
        let connections = Arc::new(Semaphore::new(app.config.limits.max_connections));
        loop {
            let permit = Arc::clone(&connections).acquire_owned();
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = async {
                    let permit = permit.await;
                    (listener.accept().await, permit)
                } => accepted,
                Some(_ended) = tasks.join_next() => continue,
            };
            let stream = match accepted.0 {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (acceptor, app) = (acceptor.clone(), Arc::clone(&app));
            tasks.spawn(async move {
                let _permit = accepted.1;
                connection(acceptor, app, stream).await;
            });
        }
        // No new connections; watches end by this, other requests get the grace.
        drop(listener);
        stop.cancel();
        let grace = app.config.limits.shutdown_grace;
        let drained =
            tokio::time::timeout(grace, async { while tasks.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::info!(open = tasks.len(), "connections were cut off at the end of the grace");
        }
        Ok(())
    }
}

/// Opens the store, listens, and serves until `shutdown` is cancelled.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Server::bind(config).await?.serve(shutdown).await
}

async fn assemble(config: Config, store: Arc<dyn Store>) -> Result<App, Error> {
    let kinds = Kinds::built_in();
    let cache = Cache::start(&*store, &kinds).await?;
    let tokens = Tokens::new(&config.service_accounts)?;
    let kubelets = Kubelets::new(tls::kubelet_client(&config.tls)?);
    let openapi = OpenApi::new(discovery::openapi_resources(&kinds));
    Ok(App {
        store,
        authn: Authenticator::new(tokens, Arc::clone(&cache)),
        authz: Authorizer::new(Arc::clone(&cache)),
        cache,
        kinds,
        openapi,
        kubelets,
        metrics: Metrics::new(),
        in_flight: Arc::new(Semaphore::new(config.limits.max_requests_in_flight)),
        turns: Turns::new(),
        ready: AtomicBool::new(false),
        shutdown: CancellationToken::new(),
        config,
    })
}

/// One client: the handshake, then its requests until it goes or the server stops.
async fn connection(acceptor: TlsAcceptor, app: Arc<App>, stream: TcpStream) {
    let limits = &app.config.limits;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let stream = match tokio::time::timeout(limits.header_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate: Option<Arc<User>> = certificate.and_then(certificate_identity).map(Arc::new);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .keep_alive_interval(std::time::Duration::from_secs(30));
    let stop = app.shutdown.clone();
    let service = service_fn(move |request| {
        let (app, certificate) = (Arc::clone(&app), certificate.clone());
        async move { Ok::<_, Infallible>(handler::handle(app, certificate, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

impl App {
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}
