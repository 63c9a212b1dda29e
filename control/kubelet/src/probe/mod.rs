//! Probes: what makes a container started, ready, or given up.
//!
//! ```text
//!            startup succeeds            liveness fails too often
//!  starting -----------------> started --------------------------> given up
//!      |                          |  readiness succeeds / fails
//!      | startup fails too often  +--> ready <--> not ready
//!      +-------------------------------------------------------> given up
//! ```
//!
//! One task for each run of a container; results go to [`Board`], and the pod's worker is told.

pub mod act;
pub mod counter;
mod grpc;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Severity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::context::Context;
use crate::pod::memory::{Health, ProbeKind};
use crate::runtime::Container;
use act::{Failure, Target};
use counter::{Counter, Verdict};

/// Waits between probes of a container that has just been started.
const WARM_UP_FIRST: Duration = Duration::from_millis(50);
const WARM_UP_LONGEST: Duration = Duration::from_secs(1);

/// The latest health of a pod's containers, by name.
pub type Board = Arc<Mutex<HashMap<String, Health>>>;

/// The probes of one pod.
pub struct Probes {
    ctx: Arc<Context>,
    board: Board,
    poke: Arc<dyn Fn() + Send + Sync>,
    running: HashMap<String, (String, AbortHandle)>,
}

impl Probes {
    /// `poke` is called after every change on the board.
    pub fn new(ctx: Arc<Context>, poke: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { ctx, board: Board::default(), poke, running: HashMap::new() }
    }

    pub fn health(&self, name: &str) -> Option<Health> {
        self.board.lock().get(name).cloned()
    }

    /// Probes this run of container `c` from now on. `believed` is (started, ready) as an earlier
    /// kubelet left them.
    pub fn begin(
        &mut self,
        pod: &Arc<Pod>,
        c: &Spec,
        run: &Container,
        ip: Option<std::net::IpAddr>,
        believed: Option<(bool, bool)>,
    ) {
        if self.running.get(&c.name).is_some_and(|(id, _)| *id == run.id) {
            return;
        }
        self.end(&c.name);
        let (started, ready) = believed.unwrap_or((false, false));
        let health = Health {
            container_id: run.id.clone(),
            started: started || c.startup_probe.is_none(),
            ready: ready || c.readiness_probe.is_none(),
            given_up: None,
        };
        self.board.lock().insert(c.name.clone(), health);
        let task = Task {
            ctx: Arc::clone(&self.ctx),
            pod: Arc::clone(pod),
            spec: c.clone(),
            id: run.id.clone(),
            started_at: run.started_at.unwrap_or_else(Timestamp::now),
            ip,
            board: Arc::clone(&self.board),
            poke: Arc::clone(&self.poke),
        };
        let handle = tokio::spawn(async move { task.run(started).await }).abort_handle();
        self.running.insert(c.name.clone(), (run.id.clone(), handle));
    }

    /// The container called `name` no longer runs.
    pub fn end(&mut self, name: &str) {
        if let Some((_, task)) = self.running.remove(name) {
            task.abort();
        }
        self.board.lock().remove(name);
    }

    pub fn end_all(&mut self) {
        for (_, (_, task)) in self.running.drain() {
            task.abort();
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Probes one run of one container.
struct Task {
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    spec: Spec,
    id: String,
    started_at: Timestamp,
    ip: Option<std::net::IpAddr>,
    board: Board,
    poke: Arc<dyn Fn() + Send + Sync>,
}

impl Task {
    async fn run(self, already_started: bool) {
        if let Some(probe) = self.spec.startup_probe.as_ref().filter(|_| !already_started) {
            self.repeat(probe, ProbeKind::Startup).await;
            let given_up =
                self.board.lock().get(&self.spec.name).is_none_or(|h| h.given_up.is_some());
            if given_up {
                return;
            }
        }
        let live = async {
            if let Some(probe) = &self.spec.liveness_probe {
                self.repeat(probe, ProbeKind::Liveness).await;
            }
        };
        let ready = async {
            if let Some(probe) = &self.spec.readiness_probe {
                self.repeat(probe, ProbeKind::Readiness).await;
            }
        };
        futures::future::join(live, ready).await;
    }

    /// Probes again and again; ends when a startup probe has succeeded or a container is given up.
    async fn repeat(&self, probe: &Probe, kind: ProbeKind) {
        let seconds = |n: Option<i32>, default: u64| {
            Duration::from_secs(
                n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default),
            )
        };
        let delay = Duration::from_secs(
            probe.initial_delay_seconds.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        );
        let begun = Duration::try_from(Timestamp::now().duration_since(self.started_at));
        tokio::time::sleep(delay.saturating_sub(begun.unwrap_or_default())).await;
        let mut tick = tokio::time::interval(seconds(probe.period_seconds, 10));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let timeout = seconds(probe.timeout_seconds, 1);
        let mut counter = Counter::new(probe);
        if kind != ProbeKind::Liveness && counter.needs_one_success() {
            self.warm_up(probe, seconds(probe.period_seconds, 10), timeout).await;
        }
        loop {
            tick.tick().await;
            let result = match self.once(probe, timeout).await {
                Ok(()) => Ok(()),
                Err(Failure::Failed(message)) => Err(message),
                Err(Failure::Unknown(message)) => {
                    tracing::debug!(
                        container = self.spec.name,
                        message,
                        "a probe was not possible"
                    );
                    continue;
                }
            };
            if let Err(message) = &result {
                let text = format!("{kind:?} probe failed: {message}");
                let name = Some(self.spec.name.as_str());
                self.ctx.event(&self.pod, name, Severity::Warning, "Unhealthy", text);
            }
            let Some(verdict) = counter.count(result.is_ok()) else { continue };
            let over = self.apply(kind, verdict, result.err().unwrap_or_default());
            if over {
                return;
            }
        }
    }

    /// A container that has just been started is asked more often than its period, so that it is
    /// ready when it can serve and not a period later. Failures in that time don't count.
    async fn warm_up(&self, probe: &Probe, period: Duration, timeout: Duration) {
        let until = tokio::time::Instant::now() + period;
        let mut wait = WARM_UP_FIRST;
        while self.is_waited_for() && self.once(probe, timeout).await.is_err() {
            if tokio::time::Instant::now() + wait >= until {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WARM_UP_LONGEST);
        }
    }

    fn is_waited_for(&self) -> bool {
        self.board.lock().get(&self.spec.name).is_some_and(|h| !h.started || !h.ready)
    }

    async fn once(&self, probe: &Probe, timeout: Duration) -> Result<(), Failure> {
        let target =
            Target { runtime: &*self.ctx.runtime, id: &self.id, spec: &self.spec, ip: self.ip };
        match tokio::time::timeout(timeout, act::probe(&target, probe, timeout)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Failed(format!("no answer within {timeout:?}"))),
        }
    }

    /// Writes a verdict on the board; true when this probe has done its work.
    fn apply(&self, kind: ProbeKind, verdict: Verdict, message: String) -> bool {
        let over = {
            let mut board = self.board.lock();
            let Some(health) = board.get_mut(&self.spec.name).filter(|h| h.container_id == self.id)
            else {
                return true;
            };
            let before = health.clone();
            let over = match (kind, verdict) {
                (ProbeKind::Readiness, verdict) => {
                    health.ready = verdict == Verdict::Good;
                    false
                }
                (ProbeKind::Startup, Verdict::Good) => {
                    health.started = true;
                    true
                }
                (ProbeKind::Liveness, Verdict::Good) => false,
                (kind, Verdict::Bad) => {
                    health.given_up = Some((kind, message));
                    true
                }
            };
            if *health == before {
                return over;
            }
            over
        };
        (self.poke)();
        over
    }
}
