//! `bowline-proxy run`: builds the parts, joins them, and waits for the end.
//!
//! Stopping leaves everything in the kernel as it is: traffic goes on, and the next agent takes
//! over. Only [`cleanup`] takes it away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health::{self, Health};
use crate::http::{self, ListenError};
use crate::loader::{self, LoadError};
use crate::maps::{MapError, Maps};
use crate::metrics::Metrics;
use crate::reconciler::Reconciler;
use crate::reflector::{self, Outlets};
use crate::routes::{self, Peers};
use crate::{dataplane, uplinks};

/// How long the dataplane's thread may take to finish its round when the agent stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What `run` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name in the API.
    pub node: String,
    /// The BPF directory and the cgroup root.
    pub loader: loader::Config,
    /// Interfaces for the packet path; empty: those that the default routes name.
    pub uplinks: Vec<String>,
    /// All pods' ranges; empty: those of the nodes.
    pub cluster_cidrs: Vec<IpNetwork>,
    pub health_address: SocketAddr,
    pub metrics_address: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("can't read what the maps hold")]
    Restore(#[source] MapError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("can't read the cookie of this network namespace")]
    Netns(#[source] std::io::Error),
    #[error("can't start the dataplane's thread")]
    Thread(#[source] std::io::Error),
    #[error("the dataplane's thread ended on its own; see its last messages above")]
    Died,
}

/// Runs until `stop` is cancelled. The dataplane is in the kernel before the apiserver is asked for
/// anything.
pub async fn run(
    client: kube::Client,
    config: Config,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let health_listener = http::listen(config.health_address)?;
    let metrics_listener = http::listen(config.metrics_address)?;
    let loaded = loader::Dataplane::start(&config.loader)?;
    uplinks::attach(&loaded, &config.uplinks)?;
    let maps = loaded.maps;
    let dump = maps.dump().map_err(RunError::Restore)?;
    let reconciler = Reconciler::restore(&dump);
    let inherited = reconciler.unclaimed();
    tracing::info!(services = inherited, "the dataplane is loaded; waiting for the apiserver");

    let metrics = Arc::new(Metrics::default());
    let cookie = loader::netns_cookie().map_err(RunError::Netns)?;
    let (maps, child) = (Box::new(maps), stop.child_token());
    let plane = dataplane::start(maps, reconciler, cookie, metrics.clone(), child)
        .map_err(RunError::Thread)?;
    let (peers, peers_reader) = watch::channel(Peers::default());
    let (eligible, eligible_reader) = watch::channel(true);
    let outlets = Outlets { updates: plane.updates.clone(), peers, eligible };
    let health = Health { report: plane.report.clone(), eligible: eligible_reader, metrics };
    let routes = routes::Config {
        node: config.node.as_str().into(),
        cluster_cidrs: config.cluster_cidrs.clone(),
    };
    let (answers, metrics_answers) = (health.clone(), health.clone());
    let mut thread = tokio::task::spawn_blocking(move || plane.thread.join());
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        _ = &mut thread => Err(RunError::Died),
        () = reflector::run(client, config.node.as_str().into(), outlets, inherited) => Ok(()),
        () = routes::run(routes, peers_reader) => Ok(()),
        () = health::serve_checks(health) => Ok(()),
        () = http::serve(health_listener, move |path| answers.answer(path)) => Ok(()),
        () = http::serve(metrics_listener, move |path| metrics_answers.metrics_answer(path)) => Ok(()),
    };
    if ended.is_ok() && tokio::time::timeout(STOP_WITHIN, thread).await.is_err() {
        tracing::warn!("the dataplane's thread is still busy; leaving it");
    }
    ended
}

#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error(transparent)]
    Unload(#[from] LoadError),
    #[error(transparent)]
    Routes(#[from] routes::RouteError),
    #[error(transparent)]
    Nft(#[from] routes::NftError),
    #[error(transparent)]
    Forwarding(#[from] routes::ForwardingError),
}

/// Takes everything of ours off the node: programs, pins, routes, nftables. Succeeds when there is
/// nothing; goes on after a failure and returns the first.
pub async fn cleanup(config: &loader::Config) -> Result<(), CleanupError> {
    let unloaded = loader::unload(&config.directory).map_err(CleanupError::from);
    let routes = routes::remove_all().await.map_err(CleanupError::from);
    let table = routes::remove_table().map_err(CleanupError::from);
    let forwarding = routes::undo_forwarding().map_err(CleanupError::from);
    unloaded.and(routes).and(table).and(forwarding)
}
