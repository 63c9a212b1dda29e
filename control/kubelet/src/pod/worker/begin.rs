//! Planned actions become jobs.

use std::sync::Arc;
use std::time::Duration;

use super::{REREAD, Worker};
use crate::pod::actions::{Action, Why};
use crate::pod::backoff::Backoff;
use crate::pod::jobs::{Done, Start};
use crate::pod::view;
use crate::runtime::State;

/// A sandbox waits so long for the API server to hear that its containers have ended.
const TELL_FIRST: Duration = Duration::from_millis(500);

impl Worker {
    pub(super) fn begin(&mut self, action: Action) {
        let job = self.job();
        let runtime = Arc::clone(&self.ctx.runtime);
        match action {
            Action::Setup => self.set_up(),
            Action::RunSandbox { attempt } => {
                self.memory.sandbox.begin();
                self.jobs.spawn(async move { Done::Sandbox(job.run_sandbox(attempt).await) });
            }
            Action::StopSandbox { id } => {
                self.memory.removing.insert(id.clone());
                let told = self.told();
                self.jobs.spawn(async move {
                    // Late news may cost a client a lost packet; a pod that never ends costs more.
                    let _late = tokio::time::timeout(TELL_FIRST, told).await;
                    retry("stop a sandbox", runtime.stop_sandbox(&id).await).await;
                    Done::Remove { id }
                });
            }
            Action::RemoveSandbox { id } => {
                self.memory.removing.insert(id.clone());
                self.jobs.spawn(async move {
                    retry("remove a sandbox", runtime.remove_sandbox(&id).await).await;
                    Done::Remove { id }
                });
            }
            Action::RemoveContainer { id } => {
                self.memory.removing.insert(id.clone());
                self.jobs.spawn(async move {
                    retry("remove a container", runtime.remove_container(&id).await).await;
                    Done::Remove { id }
                });
            }
            Action::Start { name, attempt, sandbox_id } => self.start(name, attempt, sandbox_id),
            Action::Kill { id, name, grace, why } => {
                if why != Why::PodEnds {
                    self.probes.end(&name);
                }
                self.memory.killing.insert(id.clone(), grace);
                let ip = self.ip();
                let target = id.clone();
                let task = self.jobs.spawn(async move {
                    job.kill(&target, &name, grace, &why, ip).await;
                    Done::Kill { id: target }
                });
                if let Some(slower) = self.kills.insert(id, task) {
                    slower.abort();
                }
            }
        }
    }

    /// Ends when the API server knows the latest status.
    ///
    /// A pod's network outlives its containers until then: its kernel refuses connections, while
    /// services still lead to it. Without the network they would go nowhere.
    fn told(&self) -> impl Future<Output = ()> + use<> {
        let (wanted, mut told) = (self.wanted.clone(), self.told.subscribe());
        let standalone = self.ctx.config.standalone;
        async move {
            if !standalone {
                let known = |told: &Option<_>| {
                    let wanted = wanted.borrow();
                    wanted.gone || *told == wanted.status
                };
                let _ended = told.wait_for(known).await;
            }
        }
    }

    fn set_up(&mut self) {
        let job = self.job();
        self.memory.setup.begin();
        self.jobs.spawn(async move { Done::Setup(job.setup().await) });
    }

    fn start(&mut self, name: String, attempt: u32, sandbox_id: String) {
        let sandbox = self.runtime.ready_sandbox();
        let start = Start {
            name: name.clone(),
            attempt,
            sandbox_id,
            sandbox_attempt: sandbox.map_or(0, |s| s.attempt),
            ips: sandbox.map_or_else(Vec::new, |s| s.ips.clone()),
            volumes: self.volumes.paths.clone(),
            target: view::debug_target(&self.pod, &name)
                .and_then(|target| self.runtime.latest(target))
                .map(|c| c.id.clone()),
        };
        if let Some(last) = self.runtime.latest(&name).cloned()
            && let (State::Exited, Some(finished)) = (last.state, last.finished_at)
            && attempt > last.attempt
        {
            let memory = self.memory.container(&name);
            let mut backoff =
                memory.backoff.unwrap_or_else(|| Backoff::after_restarts(last.attempt));
            backoff.restarted(last.started_at, finished);
            memory.backoff = Some(backoff);
        }
        self.memory.starting = Some(name.clone());
        let (job, cancel) = (self.job(), self.stop_starts.clone());
        self.jobs
            .spawn(async move { Done::Start { name, result: job.start(start, cancel).await } });
    }
}

/// A failed act is planned again after a look at the runtime; not at full speed.
async fn retry(act: &'static str, result: crate::runtime::Result<()>) {
    if let Err(error) = result
        && !error.is_not_found()
    {
        tracing::warn!(%error, act, "the runtime refused, trying again");
        tokio::time::sleep(REREAD).await;
    }
}
