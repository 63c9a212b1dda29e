//! The cluster's controllers: each drives what it sees towards what is asked for.
//!
//! One shared informer a kind ([`context`]) feeds keyed work queues ([`queue`]); a reconciler is a
//! function of a key, reads the caches, and may be run again at any time. What a reconciler writes
//! goes into the cache at once, so no pass acts on a view older than its own writes.

mod cluster_roles;
mod config;
mod context;
mod cron_job;
mod csr;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endpoint_slice;
mod gc;
mod hash;
mod job;
mod namespace;
mod node;
mod owners;
mod pod_gc;
mod pods;
mod queue;
mod replicas;
mod revisions;
mod root_ca;
mod service_account;
mod stateful_set;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::{CertificateAuthority, Config};
use context::{Context, Reconciled};
use queue::Queue;

/// Why the controllers can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting contradicts another.
    #[error("controllers' configuration: {0}")]
    Config(String),
}

/// Keys of one controller that are worked on at once.
const PARALLEL: usize = 8;

/// Runs every controller until `shutdown`; an apiserver that is away is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    tokio::select! {
        () = bowline_api::ready::until_ready(&config.client) => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let context = Context::new(config);
    let mut tasks = JoinSet::new();
    // Handlers first: what the first list brings must reach the queues.
    let mut controllers =
        Controllers { context: &context, waiting: Vec::new(), shutdown: &shutdown };
    controllers.add_all();
    let garbage = Queue::new();
    controllers.add("garbage-collector", garbage.clone(), gc::reconcile);
    let waiting = controllers.waiting;
    let collector = Arc::clone(&context.collector);
    tasks.spawn(gc::follow(context.client.clone(), collector, garbage, shutdown.clone()));
    tasks.spawn(node::health::notice_pauses(Arc::clone(&context), shutdown.clone()));
    context.watch(&mut tasks, &shutdown);
    tokio::select! {
        () = context.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    tracing::info!("controllers: every cache is filled");
    for controller in waiting {
        tasks.spawn(controller);
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Controllers that wait for the caches.
struct Controllers<'a> {
    context: &'a Arc<Context>,
    waiting: Vec<Work>,
    shutdown: &'a CancellationToken,
}

impl Controllers<'_> {
    fn add_all(&mut self) {
        let context = self.context;
        self.add("deployment", deployment::watch(context), deployment::reconcile);
        let queue = replicas::watch::<ReplicaSet>(context);
        self.add("replica-set", queue, replicas::reconcile::<ReplicaSet>);
        let queue = replicas::watch::<ReplicationController>(context);
        self.add("replication-controller", queue, replicas::reconcile::<ReplicationController>);
        self.add("daemon-set", daemon_set::watch(context), daemon_set::reconcile);
        self.add("stateful-set", stateful_set::watch(context), stateful_set::reconcile);
        self.add("job", job::watch(context), job::reconcile);
        self.add("cron-job", cron_job::watch(context), cron_job::reconcile);
        self.add("endpoint-slice", endpoint_slice::watch(context), endpoint_slice::reconcile);
        let mirror = endpoint_slice::mirror::watch(context);
        self.add("endpoint-mirror", mirror, endpoint_slice::mirror::reconcile);
        self.add("namespace", namespace::watch(context), namespace::reconcile);
        self.add("service-account", service_account::watch(context), service_account::reconcile);
        self.add("certificates", csr::watch(context), csr::reconcile);
        self.add("pod-collector", pod_gc::watch(context), pod_gc::reconcile);
        self.add("disruption", disruption::watch(context), disruption::reconcile);
        self.add("cluster-roles", cluster_roles::watch(context), cluster_roles::reconcile);
        self.add("root-ca", root_ca::watch(context), root_ca::reconcile);
        self.add("node-cidr", node::cidr::watch(context), node::cidr::reconcile);
        self.add("node-health", node::health::watch(context), node::health::reconcile);
        self.add("node-eviction", node::eviction::watch(context), node::eviction::reconcile);
    }

    fn add<T, F>(
        &mut self,
        name: &'static str,
        queue: Queue<T>,
        reconcile: impl Fn(Arc<Context>, T) -> F + Send + 'static,
    ) where
        T: Clone + Eq + std::hash::Hash + std::fmt::Display + Send + Sync + 'static,
        F: Future<Output = Reconciled> + Send + 'static,
    {
        let context = Arc::clone(self.context);
        let reconcile = move |key| reconcile(Arc::clone(&context), key);
        let work = queue::work(name, queue, PARALLEL, self.shutdown.clone(), reconcile);
        self.waiting.push(Box::pin(work));
    }
}
