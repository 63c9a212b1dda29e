//! The Kubernetes 1.35 API over TLS.
//!
//! One generic path serves every resource: route -> authenticate -> authorize -> decode -> default ->
//! admit -> validate -> store. A kind is a row of data and a small strategy.

mod config;

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{Config, Limits, ServiceAccounts, Tls};

/// Why the server could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket could not be opened.
    #[error("cannot listen on {address}; is another server running there?")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A server that has its socket, but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens the store and the socket.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let address = config.listen;
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled and open requests have ended (or the grace is over).
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let _listener = self.listener;
        shutdown.cancelled().await;
        Ok(())
    }
}

/// Opens the store, listens, and serves until `shutdown` is cancelled.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Server::bind(config).await?.serve(shutdown).await
}
