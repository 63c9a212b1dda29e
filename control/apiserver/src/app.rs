//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bowline_schema::openapi::OpenApi;
use bowline_store::Store;
use tokio::sync::Semaphore;
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
    /// Bootstrap objects are there.
    pub(crate) ready: AtomicBool,
    pub(crate) shutdown: CancellationToken,
}
