//! The kubelet: runs the pods that the API server binds to this node, through a CRI runtime.

pub mod config;
pub mod cri;

pub use config::{Auth, Config, Serving};

use tokio_util::sync::CancellationToken;

/// Why a kubelet could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("create {path}")]
    CreateDir { path: std::path::PathBuf, source: std::io::Error },
}

/// Runs a kubelet until `shutdown`. Pods go on running afterwards: a later `run` adopts them.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    std::fs::create_dir_all(&config.root_dir)
        .map_err(|source| Error::CreateDir { path: config.root_dir.clone(), source })?;
    shutdown.cancelled().await;
    Ok(())
}
