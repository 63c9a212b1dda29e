//! The task that owns one pod.
//!
//! ```text
//!  spawned --> running --(deleted, or gone from its source)--> ending --> torn down --> forgotten
//!                 |                                              ^            (API object deleted)
//!                 +--(all containers ended) --> finished --------+
//!                     deadline, eviction ----------^   volumes and cgroup are gone, logs stay
//! ```
//!
//! Each round: take what is new (desired pod, runtime events, finished jobs), read the runtime if
//! anything may have changed there, ask [`actions::compute`], publish the status, start jobs, and
//! wait for the next news or the time that the plan named. Long acts are jobs beside the task, so a
//! deletion is heard at once.

mod begin;
mod finish;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::actions::{self, Plan};
use super::jobs::{Done, Job, StartError, termination_file};
use super::memory::{
    Cause, End, Failure, Memory, PULL_FIRST, PULL_LONGEST, Progress, RETRY_FIRST, RETRY_LONGEST,
};
use super::news::{Desired, News, Shown};
use super::status::{self, Facts};
use super::view::{self, Role};
use super::writer::{self, Told, Wanted};
use crate::context::Context;
use crate::logs::last_words;
use crate::probe::Probes;
use crate::runtime::{Container, PodRuntime, State};
use crate::source::{files, kept};
use crate::volume::Ready;

/// An exit that was heard but that the runtime does not tell yet is asked for again so soon; the
/// wait doubles.
const EXIT_RECHECK: Duration = Duration::from_millis(3);
const EXIT_RECHECK_LONGEST: Duration = Duration::from_secs(1);
/// A failed look at the runtime is repeated after this.
const REREAD: Duration = Duration::from_millis(200);
/// Volumes are brought up to date this often even when nobody told of a change.
const REFRESH: Duration = Duration::from_secs(60);

/// One pod's task.
pub struct Worker {
    ctx: Arc<Context>,
    desired: watch::Receiver<Desired>,
    news: Arc<News>,
    shown: watch::Sender<Shown>,
    /// Ids are announced here, so that their events find this worker.
    announce: Arc<dyn Fn(&PodRuntime) + Send + Sync>,
    pod: Arc<Pod>,
    gone: bool,
    runtime: PodRuntime,
    memory: Memory,
    volumes: Ready,
    probes: Probes,
    jobs: JoinSet<Done>,
    kills: BTreeMap<String, AbortHandle>,
    stop_starts: CancellationToken,
    status: PodStatus,
    believed: BTreeMap<String, (String, bool, bool)>,
    wanted: watch::Sender<Wanted>,
    told: Told,
    /// Something may have changed in the runtime since it was read.
    dirty: bool,
    /// The runtime has been read at all.
    seen: bool,
    /// Ids whose end was heard of and not yet seen.
    exits: HashSet<String>,
    exit_wait: Duration,
    refresh_at: Timestamp,
    finished: bool,
}

impl Worker {
    pub fn new(
        ctx: Arc<Context>,
        desired: watch::Receiver<Desired>,
        news: Arc<News>,
        shown: watch::Sender<Shown>,
        announce: Arc<dyn Fn(&PodRuntime) + Send + Sync>,
    ) -> Self {
        let pod = Arc::clone(&desired.borrow().pod);
        let status = pod.status.clone().unwrap_or_default();
        let poke = Arc::clone(&news);
        let probes = Probes::new(Arc::clone(&ctx), Arc::new(move || poke.poke()));
        Self {
            believed: status::remembered(&status),
            ctx,
            desired,
            news,
            shown,
            announce,
            pod,
            gone: false,
            runtime: PodRuntime::default(),
            memory: Memory::default(),
            volumes: Ready::default(),
            probes,
            jobs: JoinSet::new(),
            kills: BTreeMap::new(),
            stop_starts: CancellationToken::new(),
            status,
            wanted: watch::Sender::new(Wanted::default()),
            told: Told::default(),
            dirty: true,
            seen: false,
            exits: HashSet::new(),
            exit_wait: EXIT_RECHECK,
            refresh_at: Timestamp::now(),
            finished: false,
        }
    }

    /// Runs until the pod is gone from everywhere.
    pub async fn run(mut self) {
        let receiver = self.wanted.subscribe();
        let (pod, told) = (Arc::clone(&self.pod), self.told.clone());
        let writer = tokio::spawn(writer::run(Arc::clone(&self.ctx), pod, receiver, told));
        let mut network = self.ctx.network_missing.clone();
        loop {
            self.take_desired();
            self.take_news();
            let mut again = self.look().await;
            self.memory.network_missing = match view::host_network(&self.pod) {
                true => None,
                false => network.borrow_and_update().clone(),
            };
            let now = Timestamp::now();
            let deadline = self.deadline(now);
            self.probe();
            // Until the runtime has told what is there, nothing is known that could be acted on.
            let plan = match self.seen {
                true => actions::compute(&self.pod, &self.runtime, &self.memory, now),
                false => Plan::default(),
            };
            if self.seen {
                self.publish(&plan, now);
            }
            if plan.stopped && self.jobs.is_empty() && self.finish().await {
                break;
            }
            for wake in [plan.wake_at, self.refresh_due(), deadline].into_iter().flatten() {
                let left = Duration::try_from(wake.duration_since(now)).unwrap_or_default();
                again = Some(again.map_or(left, |a| a.min(left)));
            }
            for action in plan.actions {
                self.begin(action);
            }
            self.wait(again, &mut network).await;
        }
        self.ctx.objects.release(view::uid(&self.pod));
        self.ctx.tokens.forget(view::uid(&self.pod));
        let _ = writer.await;
    }

    fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        self.pod = desired.pod;
        self.gone = desired.gone;
        if self.gone {
            self.wanted.send_modify(|w| w.gone = true);
        }
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        if self.gone || deleted {
            let grace = view::grace_period(&self.pod);
            let shorter = self.memory.end.as_ref().is_none_or(|end| grace < end.grace);
            let other = self.memory.end.as_ref().is_some_and(|end| end.cause != Cause::Deleted);
            if shorter || other {
                self.end(Cause::Deleted, grace);
            }
        } else if self.memory.end.is_none() {
            let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
            if matches!(phase, Some("Succeeded" | "Failed")) && !files::is_static(&self.pod) {
                let grace = view::grace_period(&self.pod);
                self.end(Cause::Over, grace);
            }
        }
    }

    /// The pod must end. A failure that was named before stays named.
    fn end(&mut self, cause: Cause, grace: i64) {
        let kept = match self.memory.end.take().map(|e| e.cause) {
            Some(failed @ Cause::Failed { .. }) => failed,
            _ => cause,
        };
        self.memory.end = Some(End { cause: kept, grace });
        self.stop_starts.cancel();
    }

    fn take_news(&mut self) {
        let mut pending = self.news.take();
        self.dirty |= pending.reread || !pending.exited.is_empty();
        self.exits.extend(pending.exited.drain());
        if pending.refresh {
            self.refresh_at = Timestamp::now();
        }
        if let Some(message) = pending.evict
            && self.memory.end.is_none()
        {
            let grace = view::grace_period(&self.pod);
            self.end(Cause::Failed { reason: "Evicted".to_owned(), message }, grace);
        }
    }

    /// Reads the runtime if anything may have changed there. Returns when to look again.
    async fn look(&mut self) -> Option<Duration> {
        if !self.dirty {
            return None;
        }
        match self.ctx.runtime.pod(view::uid(&self.pod)).await {
            Ok(runtime) => {
                self.runtime = runtime;
                (self.dirty, self.seen) = (false, true);
            }
            Err(error) => {
                tracing::debug!(pod = view::folder(&self.pod), %error, "the runtime can't be read");
                return Some(REREAD);
            }
        }
        (self.announce)(&self.runtime);
        let dir = self.ctx.pod_dir(view::uid(&self.pod));
        for c in self.runtime.containers.iter_mut().filter(|c| c.state == State::Exited) {
            if c.message.is_empty() {
                let file = termination_file(&dir, &c.name, c.attempt);
                c.message = last_words(c, &file);
            }
        }
        // A hook that sleeps on has nobody left to wait for.
        for c in self.runtime.containers.iter().filter(|c| c.state == State::Exited) {
            if let Some(kill) = self.kills.remove(&c.id) {
                kill.abort();
                self.memory.killing.remove(&c.id);
            }
        }
        let runtime = &self.runtime;
        self.exits.retain(|id| {
            let live = |c: &Container| c.id == *id && c.state == State::Running;
            runtime.containers.iter().any(live)
                || runtime.sandboxes.iter().any(|s| s.id == *id && s.ready)
        });
        if self.exits.is_empty() {
            self.exit_wait = EXIT_RECHECK;
            return None;
        }
        self.dirty = true;
        self.exit_wait = (self.exit_wait * 2).min(EXIT_RECHECK_LONGEST);
        Some(self.exit_wait)
    }

    /// Ends a pod that has been active for too long; else returns when it will have been.
    fn deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let seconds = view::spec(&self.pod).active_deadline_seconds?;
        let began = self.status.start_time.as_ref()?.0;
        if self.memory.end.is_some() || actions::outcome(&self.pod, &self.runtime).is_some() {
            return None;
        }
        let due = began.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()?;
        if now < due {
            return Some(due);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        let cause = Cause::Failed { reason: "DeadlineExceeded".to_owned(), message };
        self.end(cause, view::grace_period(&self.pod));
        None
    }

    /// Begins the probes of what runs, ends those of what does not, and takes their results.
    ///
    /// A pod that is ending is probed on: it serves until it has ended.
    fn probe(&mut self) {
        let ip = self.ip();
        let ephemeral = view::ephemeral_containers(&self.pod);
        let all = view::init_containers(&self.pod)
            .chain(view::main_containers(&self.pod).map(|c| (Role::Main, c)))
            .chain(ephemeral.iter().map(|c| (Role::Ephemeral, c)));
        for (_, c) in all {
            let run = self.runtime.latest(&c.name).filter(|run| run.state == State::Running);
            let starting = self.memory.starting.as_deref() == Some(c.name.as_str());
            match run {
                Some(run) if !starting => {
                    let believed = self.believed.get(&c.name).filter(|(id, _, _)| *id == run.id);
                    let believed = believed.map(|(_, started, ready)| (*started, *ready));
                    self.probes.begin(&self.pod, c, run, ip, believed);
                }
                _ => self.probes.end(&c.name),
            }
            let health = self.probes.health(&c.name).unwrap_or_default();
            self.memory.containers.entry(c.name.clone()).or_default().health = health;
        }
    }

    fn ip(&self) -> Option<std::net::IpAddr> {
        if view::host_network(&self.pod) {
            return self.ctx.config.node_ips.first().copied();
        }
        self.runtime.ready_sandbox().and_then(|s| s.ips.first().copied())
    }

    fn publish(&mut self, plan: &Plan, now: Timestamp) {
        let facts = Facts {
            pod: &self.pod,
            runtime: &self.runtime,
            memory: &self.memory,
            plan,
            host_ips: &self.ctx.config.node_ips,
            runtime_name: &self.ctx.runtime_name,
            before: &self.status,
            now,
        };
        let status = status::generate(&facts);
        let shown = Shown { runtime: self.runtime.clone(), status: status.clone() };
        self.shown.send_replace(shown);
        if status != self.status || self.wanted.borrow().status.is_none() {
            self.status = status.clone();
            self.keep_copy();
            self.wanted.send_modify(|w| w.status = Some(Arc::new(status)));
        }
    }

    /// A later kubelet begins with this, should the API server be away then.
    fn keep_copy(&self) {
        if self.gone || files::is_static(&self.pod) || self.ctx.config.standalone {
            return;
        }
        let mut copy = (*self.pod).clone();
        copy.status = Some(self.status.clone());
        match kept::keep(&self.ctx.pods_dir(), &copy) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(pod = view::folder(&self.pod), %error, "no copy could be kept");
            }
            _ => {}
        }
    }

    fn refresh_due(&self) -> Option<Timestamp> {
        let usable =
            self.memory.setup == Progress::Done && self.memory.end.is_none() && !self.finished;
        usable.then(|| self.volumes.renew_at.map_or(self.refresh_at, |r| r.min(self.refresh_at)))
    }

    fn job(&self) -> Job {
        Job { ctx: Arc::clone(&self.ctx), pod: Arc::clone(&self.pod) }
    }

    async fn wait(
        &mut self,
        again: Option<Duration>,
        network: &mut watch::Receiver<Option<String>>,
    ) {
        let again = again.unwrap_or(Duration::from_secs(3600));
        tokio::select! {
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The manager is gone: the kubelet stops, the pod stays.
                    std::future::pending::<()>().await;
                }
            }
            () = self.news.wait() => {}
            Ok(()) = network.changed() => {}
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                if let Ok(done) = done {
                    self.done(done);
                }
            }
            () = tokio::time::sleep(again) => {
                if self.refresh_due().is_some_and(|at| at <= Timestamp::now()) {
                    self.refresh_at = far(REFRESH);
                    self.volumes.renew_at = None;
                    let job = self.job();
                    self.jobs.spawn(async move { Done::Setup(job.setup().await) });
                }
            }
        }
    }

    fn done(&mut self, done: Done) {
        let now = Timestamp::now();
        match done {
            Done::Setup(Ok(ready)) => {
                self.volumes = ready;
                self.refresh_at = far(REFRESH);
                self.memory.setup = Progress::Done;
                self.keep_copy();
            }
            // Volumes that were there stay in use when bringing them up to date fails.
            Done::Setup(Err(_)) if self.memory.setup == Progress::Done => {
                self.refresh_at = far(Duration::from_secs(5));
            }
            Done::Setup(Err(message)) => {
                self.memory.setup.fail("FailedMount", message, now);
            }
            Done::Sandbox(Ok(())) => {
                self.memory.sandbox = Progress::Needed;
                self.dirty = true;
            }
            Done::Sandbox(Err(message)) => {
                self.memory.sandbox.fail("FailedCreatePodSandBox", message, now);
                self.dirty = true;
            }
            Done::Start { name, result } => {
                self.memory.starting = None;
                self.dirty = true;
                let memory = self.memory.container(&name);
                memory.failure =
                    result.err().map(|e| start_failure(memory.failure.as_ref(), e, now));
            }
            Done::Kill { id } => {
                self.kills.remove(&id);
                self.memory.killing.remove(&id);
                self.dirty = true;
            }
            Done::Remove { id } => {
                self.memory.removing.remove(&id);
                self.dirty = true;
            }
        }
    }
}

fn far(wait: Duration) -> Timestamp {
    Timestamp::now().checked_add(wait).unwrap_or(Timestamp::MAX)
}

fn start_failure(before: Option<&Failure>, error: StartError, now: Timestamp) -> Failure {
    let pull = error.reason.contains("Image");
    let waits = if pull { (PULL_FIRST, PULL_LONGEST) } else { (RETRY_FIRST, RETRY_LONGEST) };
    let mut failure = Failure::after(before, error.reason, error.message, waits, now);
    if error.reason == "ErrImagePull" && failure.count > 1 {
        failure.reason = "ImagePullBackOff".to_owned();
        failure.message = format!("Back-off pulling image: ErrImagePull: {}", failure.message);
    }
    failure
}
