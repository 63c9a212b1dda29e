//! Feeds [`State`] with the API's news and carries out what it decides.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::{Recorder, Severity};
use bowline_api::informer::{Cached, Informer, Key};
use bowline_api::ready::until_ready;
use bowline_api::trim;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::queue::FLUSH;
use crate::snapshot::PodInfo;
use crate::state::{Action, State};

/// Requests to the apiserver under way at once; at the limit no further pod is tried.
const REQUESTS: usize = 256;
/// Keeps the caches honest about pods that nothing calls back.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
const _: () = assert!(FLUSH_EVERY.as_secs() < FLUSH.as_secs());

/// Keys that changed since they were last looked at; bounded by the number of objects.
#[derive(Clone, Default)]
struct Changed {
    keys: Arc<Mutex<HashSet<Key>>>,
}

impl Changed {
    fn follow<K: Cached>(&self, informer: &Informer<K>, wake: &Arc<Notify>) {
        let (changed, wake) = (self.clone(), Arc::clone(wake));
        informer.on_change(move |change| {
            changed.keys.lock().insert(Key::of(change.object().as_ref()));
            wake.notify_one();
        });
    }

    fn take(&self) -> HashSet<Key> {
        std::mem::take(&mut *self.keys.lock())
    }
}

/// The caches and what of them changed.
struct Sources {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    changed_pods: Changed,
    changed_nodes: Changed,
    changed_namespaces: Changed,
    wake: Arc<Notify>,
}

impl Sources {
    fn new() -> Self {
        let sources = Self {
            pods: Informer::new(),
            nodes: Informer::new(),
            namespaces: Informer::new(),
            changed_pods: Changed::default(),
            changed_nodes: Changed::default(),
            changed_namespaces: Changed::default(),
            wake: Arc::new(Notify::new()),
        };
        sources.changed_pods.follow(&sources.pods, &sources.wake);
        sources.changed_nodes.follow(&sources.nodes, &sources.wake);
        sources.changed_namespaces.follow(&sources.namespaces, &sources.wake);
        sources
    }

    fn watch(&self, client: &Client, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let all = watcher::Config::default;
        let token = || shutdown.clone();
        let pods = Api::all(client.clone());
        tasks.spawn(self.pods.clone().run(pods, all(), trim_pod, token()));
        let nodes = Api::all(client.clone());
        tasks.spawn(self.nodes.clone().run(nodes, all(), trim_node, token()));
        let namespaces = Api::all(client.clone());
        tasks.spawn(self.namespaces.clone().run(namespaces, all(), |_| {}, token()));
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
    }

    /// Tells the state what changed; nodes before pods, so that no pod looks for a home too early.
    fn tell(&self, state: &mut State, now: Instant) {
        for key in self.changed_namespaces.take() {
            let namespace = self.namespaces.get(&key);
            let labels = namespace.map(|one| one.metadata.labels.clone().unwrap_or_default());
            state.namespace_changed(&key.name, labels);
        }
        for key in self.changed_nodes.take() {
            state.node_changed(&key.name, self.nodes.get(&key), now);
        }
        for key in self.changed_pods.take() {
            state.pod_changed(&key, self.pods.get(&key), now);
        }
    }
}

/// Schedules until `shutdown`.
pub(crate) async fn drive(config: Config, shutdown: CancellationToken) {
    tokio::select! {
        () = until_ready(&config.client) => {}
        () = shutdown.cancelled() => return,
    }
    let recorder = Recorder::new(config.client.clone(), &config.scheduler_name, "");
    let requests = Requests { client: config.client.clone(), recorder };
    let sources = Sources::new();
    let mut watches = JoinSet::new();
    sources.watch(&config.client, &mut watches, &shutdown);
    tokio::select! {
        () = sources.synced() => {}
        () = shutdown.cancelled() => return,
    }
    let mut state = State::new(&config.scheduler_name);
    let mut under_way: JoinSet<Done> = JoinSet::new();
    let mut flush = tokio::time::interval(FLUSH_EVERY);
    loop {
        sources.tell(&mut state, Instant::now());
        while under_way.len() < REQUESTS
            && let Some(action) = state.next(Instant::now())
        {
            under_way.spawn(requests.clone().carry_out(action));
            // News may have come meanwhile; deciding on old news costs a retry.
            sources.tell(&mut state, Instant::now());
        }
        let rest = state.next_at();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sources.wake.notified() => {}
            Some(done) = under_way.join_next(), if !under_way.is_empty() => match done {
                Ok(Done::Bound(pod)) => state.bound(&pod),
                Ok(Done::BindFailed(pod)) => state.bind_failed(&pod, Instant::now()),
                Ok(Done::Reported) => {}
                Err(error) => tracing::error!(%error, "a request of the scheduler's panicked"),
            },
            () = sleep_until(rest) => {}
            _ = flush.tick() => state.flush(Instant::now()),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

enum Done {
    Bound(Arc<PodInfo>),
    BindFailed(Arc<PodInfo>),
    Reported,
}

#[derive(Clone)]
struct Requests {
    client: Client,
    recorder: Recorder,
}

impl Requests {
    async fn carry_out(self, action: Action) -> Done {
        match action {
            Action::Bind { pod, node } => self.bind(pod, &node).await,
            Action::Report { pod, message, preemption } => {
                let node = preemption.as_ref().map(|one| one.node.clone());
                self.report(&pod, &message, node.as_deref()).await;
                if let Some(preemption) = preemption {
                    for victim in &preemption.victims {
                        self.preempt(&pod, victim, &preemption.node).await;
                    }
                }
                Done::Reported
            }
        }
    }

    fn pods(&self, pod: &PodInfo) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.key.namespace)
    }

    async fn bind(&self, pod: Arc<PodInfo>, node: &str) -> Done {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.clone()),
                namespace: Some(pod.key.namespace.clone()),
                // The apiserver refuses to bind a namesake.
                uid: Some(pod.uid.clone()),
                ..Default::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..Default::default()
            },
        };
        let bound: Result<serde_json::Value, _> = self
            .pods(&pod)
            .create_subresource("binding", &pod.key.name, &PostParams::default(), &binding)
            .await;
        match bound {
            Ok(_) => {
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(pod.pod.as_ref(), Severity::Normal, "Scheduled", text);
                Done::Bound(pod)
            }
            Err(error) => {
                tracing::debug!(pod = %pod.key, node, %error, "the binding was refused");
                Done::BindFailed(pod)
            }
        }
    }

    /// Writes the reason into the pod's conditions, unless it is there already.
    async fn report(&self, pod: &PodInfo, message: &str, nominated: Option<&str>) {
        let (severity, reason) = (Severity::Warning, "FailedScheduling");
        self.recorder.event(pod.pod.as_ref(), severity, reason, message);
        let old = scheduled_condition(&pod.pod);
        if nominated.is_none() && old.is_some_and(|old| old.message.as_deref() == Some(message)) {
            return;
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let since = old.filter(|old| old.status == "False");
        let since = since.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now));
        let mut status = json!({"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "observedGeneration": pod.pod.metadata.generation,
            "lastTransitionTime": since,
        }]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = json!(node);
        }
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
        let name = &pod.key.name;
        if let Err(error) = self.pods(pod).patch_status(name, &PatchParams::default(), &patch).await
        {
            tracing::debug!(pod = %pod.key, %error, "can't tell why the pod has no node");
        }
    }

    async fn preempt(&self, pod: &PodInfo, victim: &PodInfo, node: &str) {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(victim.uid.clone()),
                resource_version: None,
            }),
            ..Default::default()
        };
        let text = format!("Preempted by pod {} on node {node}", pod.uid);
        match self.pods(victim).delete(&victim.key.name, &parameters).await {
            Ok(_) => {
                self.recorder.event(victim.pod.as_ref(), Severity::Normal, "Preempted", text);
            }
            Err(error) => tracing::debug!(pod = %victim.key, %error, "can't preempt"),
        }
    }
}

fn scheduled_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == "PodScheduled")
}

/// Keeps of a pod what scheduling reads: a cluster's pods are most of the cache.
fn trim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    if let Some(spec) = &mut pod.spec {
        trim::containers(spec);
    }
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| condition.type_ == "PodScheduled");
        }
    }
}

fn trim_node(node: &mut Node) {
    node.metadata.annotations = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.conditions = None;
        status.node_info = None;
    }
}
