//! The cluster's controllers: each drives what it sees towards what is asked for.
//!
//! One shared informer a kind ([`context`]) feeds keyed work queues ([`queue`]); a reconciler is a
//! function of a key, reads the caches, and may be run again at any time. What a reconciler writes
//! goes into the cache at once, so no pass acts on a view older than its own writes.

mod config;
mod context;
mod deployment;
mod hash;
mod owners;
mod pods;
mod queue;
mod replica_set;

use std::sync::Arc;

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
    let context = Context::new(config);
    let mut tasks = JoinSet::new();
    // Handlers first: what the first list brings must reach the queues.
    let mut controllers =
        Controllers { context: &context, waiting: Vec::new(), shutdown: &shutdown };
    controllers.add("deployment", deployment::watch(&context), deployment::reconcile);
    controllers.add("replicaset", replica_set::watch(&context), replica_set::reconcile);
    let waiting = controllers.waiting;
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
