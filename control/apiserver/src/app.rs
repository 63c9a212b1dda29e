//! What all requests share.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bowline_schema::openapi::OpenApi;
use bowline_store::Store;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::cache::Cache;
use crate::config::Config;
use crate::kinds::Kinds;
use crate::kubelet::Kubelets;
use crate::metrics::Metrics;

pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) kinds: Kinds,
    pub(crate) authn: Authenticator,
    pub(crate) authz: Authorizer,
    pub(crate) openapi: OpenApi,
    pub(crate) kubelets: Kubelets,
    pub(crate) metrics: Metrics,
    /// Requests in flight; watches and upgraded streams hold no permit.
    pub(crate) in_flight: Arc<Semaphore>,
    /// Writers that lost a race for an object take turns by its key.
    pub(crate) turns: Turns,
    /// Bootstrap objects are there.
    pub(crate) ready: AtomicBool,
    pub(crate) shutdown: CancellationToken,
}

/// One lock for each of a fixed number of classes of keys.
pub(crate) struct Turns([Mutex<()>; Turns::CLASSES]);

impl Turns {
    const CLASSES: usize = 64;

    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }

    pub(crate) async fn take(&self, key: &str) -> MutexGuard<'_, ()> {
        let mut hasher = std::hash::DefaultHasher::new();
        key.hash(&mut hasher);
        let class = hasher.finish() % Self::CLASSES as u64;
        self.0[usize::try_from(class).unwrap_or(0)].lock().await
    }
}
