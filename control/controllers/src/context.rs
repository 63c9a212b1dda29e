//! What all controllers share: the client, the caches, the event recorder.

use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Recorder;
use bowline_api::informer::{Cached, Informer, Key};
use bowline_api::trim;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::endpoint_slice;
use crate::gc::Collector;
use crate::node::health::Heartbeats;
use crate::pod_gc::Missing;
use crate::queue::Failure;

/// The cause in the apiserver's answer to who creates something in a namespace that is going.
const NAMESPACE_GOING: &str = "NamespaceTerminating";
/// Namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";

/// A reconciler's error. Its text is for the log: what was asked of the apiserver and its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the apiserver: {0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Other(String),
}

impl Failure for Error {
    /// Conflicts, and things deleted meanwhile, solve themselves with the next look.
    fn is_routine(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }

    /// Nothing can be made any more in a namespace that is going, and what it lacks goes with it.
    fn is_moot(&self) -> bool {
        matches!(self, Self::Api(error) if is_namespace_going(error))
    }
}

/// The apiserver refused because the namespace is being deleted.
pub(crate) fn is_namespace_going(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == NAMESPACE_GOING)
}

pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// What a reconciler returns: nothing more to do, or when to look again.
pub(crate) type Reconciled = Result<Option<Duration>, Error>;

/// One cache a kind. What a service consists of comes in masses and is packed.
#[derive(Default)]
pub(crate) struct Caches {
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) leases: Informer<Lease>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) services: Informer<Service>,
    pub(crate) slices: Informer<EndpointSlice>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) accounts: Informer<ServiceAccount>,
    /// Only those named `kube-root-ca.crt`.
    pub(crate) root_cas: Informer<ConfigMap>,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) replication_controllers: Informer<ReplicationController>,
    pub(crate) daemon_sets: Informer<DaemonSet>,
    pub(crate) stateful_sets: Informer<StatefulSet>,
    pub(crate) revisions: Informer<ControllerRevision>,
    pub(crate) jobs: Informer<Job>,
    pub(crate) cron_jobs: Informer<CronJob>,
    pub(crate) requests: Informer<CertificateSigningRequest>,
    pub(crate) budgets: Informer<PodDisruptionBudget>,
    pub(crate) cluster_roles: Informer<ClusterRole>,
}

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) config: Config,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) collector: Arc<Collector>,
    pub(crate) missing: Missing,
}

impl Context {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let recorder = Recorder::new(config.client.clone(), "kube-controller-manager", "");
        let caches = Caches {
            services: Informer::packed(),
            slices: Informer::packed(),
            endpoints: Informer::packed(),
            ..Caches::default()
        };
        caches.pods.index("node", |pod| {
            pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()
        });
        caches.slices.index("service", |slice| service_of(slice).into_iter().collect());
        endpoint_slice::index(&caches.services);
        Arc::new(Self {
            client: config.client.clone(),
            config,
            caches,
            recorder,
            heartbeats: Heartbeats::default(),
            collector: Arc::new(Collector::default()),
            missing: Missing::default(),
        })
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    /// Starts every watch.
    pub(crate) fn watch(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let caches = &self.caches;
        let all = watcher::Config::default;
        let mut start = Start { client: &self.client, tasks, shutdown };
        start.trimmed(&caches.pods, all(), |pod| {
            pod.spec.iter_mut().for_each(trim::containers);
        });
        start.kind(&caches.nodes, all());
        start.kind(&caches.namespaces, all());
        start.kind(&caches.services, all());
        start.kind(&caches.slices, all());
        start.kind(&caches.endpoints, all());
        start.kind(&caches.accounts, all());
        start.kind(&caches.root_cas, all().fields("metadata.name=kube-root-ca.crt"));
        start.kind(&caches.deployments, all());
        start.kind(&caches.replica_sets, all());
        start.kind(&caches.replication_controllers, all());
        start.kind(&caches.daemon_sets, all());
        start.kind(&caches.stateful_sets, all());
        start.kind(&caches.revisions, all());
        start.kind(&caches.jobs, all());
        start.kind(&caches.cron_jobs, all());
        start.kind(&caches.requests, all());
        start.kind(&caches.budgets, all());
        start.kind(&caches.cluster_roles, all());
        let leases = Api::namespaced(self.client.clone(), LEASES);
        let run = caches.leases.clone().run(leases, all(), |_| {}, shutdown.clone());
        tasks.spawn(run);
    }

    /// Returns when every cache holds its first list.
    pub(crate) async fn synced(&self) {
        let caches = &self.caches;
        caches.pods.synced().await;
        caches.nodes.synced().await;
        caches.leases.synced().await;
        caches.namespaces.synced().await;
        caches.services.synced().await;
        caches.slices.synced().await;
        caches.endpoints.synced().await;
        caches.accounts.synced().await;
        caches.root_cas.synced().await;
        caches.deployments.synced().await;
        caches.replica_sets.synced().await;
        caches.replication_controllers.synced().await;
        caches.daemon_sets.synced().await;
        caches.stateful_sets.synced().await;
        caches.revisions.synced().await;
        caches.jobs.synced().await;
        caches.cron_jobs.synced().await;
        caches.requests.synced().await;
        caches.budgets.synced().await;
        caches.cluster_roles.synced().await;
    }
}

/// The service that a slice belongs to, as `namespace/name`.
fn service_of(slice: &EndpointSlice) -> Option<String> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get(bowline_api::names::LABEL_SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    Some(Key::new(namespace, service.as_str()).to_string())
}

struct Start<'a> {
    client: &'a Client,
    tasks: &'a mut JoinSet<()>,
    shutdown: &'a CancellationToken,
}

impl Start<'_> {
    fn kind<K: Cached>(&mut self, informer: &Informer<K>, config: watcher::Config) {
        self.trimmed(informer, config, |_| {});
    }

    fn trimmed<K: Cached>(
        &mut self,
        informer: &Informer<K>,
        config: watcher::Config,
        trim: fn(&mut K),
    ) {
        let api = Api::all(self.client.clone());
        self.tasks.spawn(informer.clone().run(api, config, trim, self.shutdown.clone()));
    }
}

/// A time as the API shows it: whole seconds.
pub(crate) fn seconds(at: jiff::Timestamp) -> Time {
    let whole = jiff::Timestamp::from_second(at.as_second()).unwrap_or(at);
    Time(whole)
}
