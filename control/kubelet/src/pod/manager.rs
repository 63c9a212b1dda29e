//! All pods of this node: gives each its worker, takes news to them, and cleans up after pods that
//! nobody knows any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::news::{Desired, News, Shown};
use super::view;
use super::worker::Worker;
use crate::context::Context;
use crate::cri::events::Event;
use crate::runtime::{KnownPod, PodRuntime};
use crate::source::api::Change;
use crate::source::{files, kept};

/// How often leftovers are looked for.
const CLEAN_PERIOD: Duration = Duration::from_secs(60);
/// Exits of unknown containers that are remembered.
const MAX_EARLY: usize = 1024;
/// A failed look for leftovers is repeated after this.
const CLEAN_RETRY: Duration = Duration::from_secs(1);

/// One pod as others may see it.
#[derive(Clone)]
pub struct Handle {
    desired: watch::Sender<Desired>,
    news: Arc<News>,
    shown: watch::Receiver<Shown>,
}

impl Handle {
    pub fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.desired.borrow().pod)
    }

    /// What runs, and the status as this kubelet sees it.
    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.clone()
    }

    pub fn evict(&self, message: String) {
        self.news.evict(message);
    }
}

/// The pods of this node, by UID. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pods {
    handles: Arc<Mutex<HashMap<String, Handle>>>,
    /// Which pod a sandbox or container belongs to.
    owners: Arc<Mutex<HashMap<String, String>>>,
    /// Exits of containers that ended before their start was noted, the newest last.
    early: Arc<Mutex<VecDeque<String>>>,
}

impl Pods {
    pub fn all(&self) -> Vec<Handle> {
        self.handles.lock().values().cloned().collect()
    }

    /// The newest pod with this name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Handle> {
        let all = self.all();
        let named = all.into_iter().filter(|h| {
            let pod = h.pod();
            view::namespace(&pod) == namespace && view::name(&pod) == name
        });
        named.max_by_key(|h| h.pod().metadata.creation_timestamp.clone())
    }

    /// Tells pod `uid` that an object that it uses has changed.
    pub fn refresh(&self, uid: &str) {
        if let Some(handle) = self.handles.lock().get(uid) {
            handle.news.refresh();
        }
    }

    fn event(&self, event: &Event) {
        let id = match event {
            Event::Resync => {
                self.handles.lock().values().for_each(|h| h.news.reread());
                return;
            }
            Event::Exited(id) | Event::Changed(id) => id,
        };
        let owners = self.owners.lock();
        let Some(uid) = owners.get(id).cloned() else {
            if matches!(event, Event::Exited(_)) {
                let mut early = self.early.lock();
                early.push_back(id.clone());
                if early.len() > MAX_EARLY {
                    early.pop_front();
                }
            }
            return;
        };
        drop(owners);
        if let Some(handle) = self.handles.lock().get(&uid) {
            match event {
                Event::Exited(_) => handle.news.exited(id),
                _ => handle.news.reread(),
            }
        }
    }

    fn announce(&self, uid: &str, runtime: &PodRuntime) {
        let mut owners = self.owners.lock();
        let ids = runtime.sandboxes.iter().map(|s| &s.id);
        for id in ids.chain(runtime.containers.iter().map(|c| &c.id)) {
            if owners.insert(id.clone(), uid.to_owned()).is_none()
                && self.early.lock().contains(id)
                && let Some(handle) = self.handles.lock().get(uid)
            {
                handle.news.exited(id);
            }
        }
    }

    fn forget(&self, uid: &str) {
        self.handles.lock().remove(uid);
        self.owners.lock().retain(|_, owner| owner != uid);
    }
}

/// Where a change comes from; leftovers are cleaned only after every source has told all it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Api,
    Files,
}

/// What the manager listens to.
pub struct Inputs {
    pub changes: mpsc::Receiver<(Source, Change)>,
    pub events: mpsc::Receiver<Event>,
}

/// Runs until `ctx.shutdown`. Pods stay.
pub async fn run(ctx: Arc<Context>, pods: Pods, mut inputs: Inputs) {
    let mut manager = Manager {
        waiting_for: [!ctx.config.standalone, ctx.config.static_pod_dir.is_some()],
        ctx,
        pods,
        unconfirmed: HashSet::new(),
    };
    manager.restore();
    let mut clean_at = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = manager.ctx.shutdown.cancelled() => return,
            Some(event) = inputs.events.recv() => manager.pods.event(&event),
            Some((source, change)) = inputs.changes.recv() => manager.change(source, change),
            () = tokio::time::sleep_until(clean_at), if manager.waiting_for == [false; 2] => {
                let wait = match manager.clean().await {
                    Ok(()) => CLEAN_PERIOD,
                    Err(error) => {
                        tracing::debug!(%error, "leftovers can't be looked for now");
                        CLEAN_RETRY
                    }
                };
                clean_at = tokio::time::Instant::now() + wait;
            }
        }
    }
}

struct Manager {
    ctx: Arc<Context>,
    pods: Pods,
    /// Sources that have not told all yet: the API server, files.
    waiting_for: [bool; 2],
    /// Pods known from an earlier kubelet's copies only.
    unconfirmed: HashSet<String>,
}

impl Manager {
    /// Looks after the pods of the kubelet before, until the API server says otherwise.
    fn restore(&mut self) {
        if self.ctx.config.standalone {
            return;
        }
        for pod in kept::read_all(&self.ctx.pods_dir(), &self.ctx.config.node_name) {
            self.unconfirmed.insert(view::uid(&pod).to_owned());
            self.spawn(pod, false);
        }
    }

    /// Marks a pod as one whose object does not exist.
    fn gone(&self, uid: &str) {
        if let Some(handle) = self.pods.handles.lock().get(uid) {
            handle.desired.send_modify(|d| d.gone = true);
        }
    }

    fn change(&mut self, source: Source, change: Change) {
        match change {
            Change::Applied(pod) if files::is_mirror(&pod) => {}
            Change::Applied(pod) => {
                self.unconfirmed.remove(view::uid(&pod));
                self.apply(pod);
            }
            Change::Gone(uid) => self.gone(&uid),
            Change::Synced => match source {
                Source::Api => {
                    self.waiting_for[0] = false;
                    for uid in std::mem::take(&mut self.unconfirmed) {
                        self.gone(&uid);
                    }
                }
                Source::Files => self.waiting_for[1] = false,
            },
        }
    }

    fn apply(&mut self, pod: Arc<Pod>) {
        let known = self.pods.handles.lock().get(view::uid(&pod)).cloned();
        match known {
            Some(handle) => {
                let same_spec = handle.pod().metadata.generation == pod.metadata.generation
                    && handle.pod().metadata.labels == pod.metadata.labels
                    && handle.pod().metadata.annotations == pod.metadata.annotations;
                handle.desired.send_modify(|d| d.pod = pod);
                if !same_spec {
                    handle.news.refresh();
                }
            }
            None => self.spawn(pod, false),
        }
    }

    fn spawn(&mut self, pod: Arc<Pod>, gone: bool) {
        let uid = view::uid(&pod).to_owned();
        let (desired, desired_receiver) = watch::channel(Desired { pod, gone });
        let (shown, shown_receiver) = watch::channel(Shown::default());
        let news = Arc::new(News::default());
        let handle = Handle { desired, news: Arc::clone(&news), shown: shown_receiver };
        self.pods.handles.lock().insert(uid.clone(), handle);
        let (pods, owner) = (self.pods.clone(), uid.clone());
        let announce = Arc::new(move |runtime: &PodRuntime| pods.announce(&owner, runtime));
        let worker = Worker::new(Arc::clone(&self.ctx), desired_receiver, news, shown, announce);
        let (pods, shutdown) = (self.pods.clone(), self.ctx.shutdown.clone());
        tokio::spawn(async move {
            let done = shutdown.run_until_cancelled(Box::pin(worker.run())).await;
            if done.is_some() {
                pods.forget(&uid);
            }
        });
    }

    /// Ends pods of the runtime that no source knows, and removes folders and cgroups of pods that
    /// are nowhere.
    async fn clean(&mut self) -> Result<(), crate::runtime::Error> {
        // A net under the events: whatever they missed is seen now.
        self.pods.event(&Event::Resync);
        let known = self.ctx.runtime.pods().await?;
        for pod in known {
            let here = self.pods.handles.lock().contains_key(&pod.uid);
            if !here {
                tracing::info!(
                    uid = pod.uid,
                    name = pod.name,
                    "ending a pod that nobody knows any more"
                );
                self.spawn(Arc::new(stand_in(&pod)), true);
            }
        }
        let (ctx, pods) = (Arc::clone(&self.ctx), self.pods.clone());
        let swept = tokio::task::spawn_blocking(move || sweep(&ctx, &pods)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "sweeping leftovers failed");
        }
        Ok(())
    }
}

/// A pod of which only the runtime's labels are left, being deleted.
fn stand_in(known: &KnownPod) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(known.name.clone()),
            namespace: Some(known.namespace.clone()),
            uid: Some(known.uid.clone()),
            deletion_timestamp: Some(Time(Timestamp::now())),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            termination_grace_period_seconds: known.grace_period,
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// Removes folders and cgroups of pods without a worker.
fn sweep(ctx: &Context, pods: &Pods) {
    let here = |uid: &str| pods.handles.lock().contains_key(uid);
    for (uid, path) in ctx.cgroups.pods() {
        if !here(&uid) {
            ctx.cgroups.remove(&path);
        }
    }
    for uid in names(&ctx.pods_dir()) {
        if !here(&uid)
            && let Err(error) = crate::volume::teardown(&ctx.pod_dir(&uid))
        {
            tracing::warn!(uid, error = bowline_api::chain::chain(&error), "a leftover stays");
        }
    }
    for name in names(&ctx.config.pod_log_dir) {
        // `<namespace>_<name>_<uid>`; anything else is not ours.
        let mut parts = name.split('_');
        if let (Some(_), Some(_), Some(uid), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
            && !here(uid)
        {
            let _ = std::fs::remove_dir_all(ctx.config.pod_log_dir.join(&name));
        }
    }
    for link in
        ctx.config.container_log_dir.iter().flat_map(|d| std::fs::read_dir(d).ok()).flatten()
    {
        let Ok(link) = link else { continue };
        if std::fs::read_link(link.path()).is_ok_and(|target| !target.exists()) {
            let _ = std::fs::remove_file(link.path());
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}
