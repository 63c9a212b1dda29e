//! What must be done next for a pod: a pure function of what is wanted, what is, what is remembered
//! and the time. The worker does it, and asks again whenever something has changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::backoff::Backoff;
use super::memory::{Memory, ProbeKind, Progress};
use super::view::{self, Role};
use crate::runtime::{Container, PodRuntime, State};

/// Ended containers that are kept for each name, for `logs --previous`.
const KEPT_DEAD: usize = 1;

/// Why a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its pod ends.
    PodEnds,
    /// Its sandbox is gone.
    SandboxLost,
    /// Its image was changed.
    Changed,
    Probe(ProbeKind, String),
    /// The runtime has lost track of it.
    Unknown,
}

/// One thing to do. Each is safe to do twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's folders, cgroup and volumes.
    Setup,
    RunSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    Start {
        name: String,
        attempt: u32,
        sandbox_id: String,
    },
    Kill {
        id: String,
        name: String,
        grace: i64,
        why: Why,
    },
    RemoveContainer {
        id: String,
    },
}

/// Why a container that should run does not, in the words of the pod's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Ask again at this time, even if nothing happens.
    pub wake_at: Option<Timestamp>,
    /// Containers that wait, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// The pod ends, or has ended by itself, and nothing of it runs.
    pub stopped: bool,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }

    fn wait(&mut self, name: &str, reason: &str, message: Option<String>) {
        let waiting = Waiting { reason: reason.to_owned(), message };
        self.waiting.insert(name.to_owned(), waiting);
    }
}

/// How a pod ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
}

/// How the pod has ended, if all its containers have and none is to be started again.
pub fn outcome(pod: &Pod, runtime: &PodRuntime) -> Option<Outcome> {
    for (role, c) in view::init_containers(pod).filter(|(role, _)| *role == Role::Init) {
        if let Some(last) = runtime.latest(&c.name).filter(|last| last.state == State::Exited)
            && last.exit_code != 0
            && !view::restart(pod, role, c).applies(last.exit_code)
        {
            return Some(Outcome::Failed);
        }
    }
    let mut all = Outcome::Succeeded;
    for c in view::main_containers(pod) {
        let last = runtime.latest(&c.name).filter(|last| last.state == State::Exited)?;
        if view::restart(pod, Role::Main, c).applies(last.exit_code) {
            return None;
        }
        if last.exit_code != 0 {
            all = Outcome::Failed;
        }
    }
    Some(all)
}

/// Plans the next steps of `pod`.
pub fn compute(pod: &Pod, runtime: &PodRuntime, memory: &Memory, now: Timestamp) -> Plan {
    let mut planner = Planner { pod, runtime, memory, now, plan: Plan::default() };
    if memory.end.is_some() || outcome(pod, runtime).is_some() {
        planner.stop();
    } else {
        planner.run();
    }
    planner.plan
}

struct Planner<'a> {
    pod: &'a Pod,
    runtime: &'a PodRuntime,
    memory: &'a Memory,
    now: Timestamp,
    plan: Plan,
}

impl Planner<'_> {
    fn run(&mut self) {
        self.clean();
        let set_up = self.set_up();
        let Some(sandbox) = self.runtime.ready_sandbox() else {
            self.sandbox();
            return;
        };
        let sandbox_id = sandbox.id.clone();
        self.strays(&sandbox_id);
        if !set_up {
            return;
        }
        if self.init(&sandbox_id) {
            for c in view::main_containers(self.pod) {
                self.keep_running(Role::Main, c, &sandbox_id);
            }
        }
        if self.runtime.containers.iter().any(|c| c.sandbox_id == sandbox_id) {
            for c in view::ephemeral_containers(self.pod) {
                if self.runtime.latest(&c.name).is_none() {
                    self.start(&c, 0, &sandbox_id);
                }
            }
        }
    }

    /// Folders, cgroup and volumes: true when they are there.
    fn set_up(&mut self) -> bool {
        match &self.memory.setup {
            Progress::Done => return true,
            Progress::Running(_) => {}
            Progress::Needed => self.plan.actions.push(Action::Setup),
            Progress::Failed(f) if f.retry_at <= self.now => self.plan.actions.push(Action::Setup),
            Progress::Failed(f) => self.plan.wake(f.retry_at),
        }
        false
    }

    /// There is no usable sandbox: end what ran in the old one, then make a new one.
    fn sandbox(&mut self) {
        let mut running = false;
        for c in self.runtime.containers.iter().filter(|c| c.state == State::Running) {
            running = true;
            self.kill(c, view::grace_period(self.pod), Why::SandboxLost);
        }
        if running || self.memory.network_missing.is_some() || self.memory.starting.is_some() {
            return;
        }
        let attempt = self.runtime.sandboxes.first().map_or(0, |s| s.attempt + 1);
        match &self.memory.sandbox {
            Progress::Running(_) => {}
            Progress::Failed(f) if f.retry_at > self.now => self.plan.wake(f.retry_at),
            _ => self.plan.actions.push(Action::RunSandbox { attempt }),
        }
    }

    /// Stops ready sandboxes beside the newest, and what still runs in any other.
    fn strays(&mut self, current: &str) {
        for s in self.runtime.sandboxes.iter().filter(|s| s.ready && s.id != current) {
            self.stop_sandbox(&s.id);
        }
        for c in &self.runtime.containers {
            if c.state == State::Running && c.sandbox_id != current {
                self.kill(c, view::grace_period(self.pod), Why::SandboxLost);
            }
        }
    }

    /// Goes through the init containers in order: true when all have done their part.
    fn init(&mut self, sandbox_id: &str) -> bool {
        let begun = view::main_containers(self.pod)
            .any(|c| self.runtime.latest(&c.name).is_some_and(|l| l.sandbox_id == sandbox_id));
        for (role, c) in view::init_containers(self.pod) {
            if role == Role::Init && begun {
                continue;
            }
            let here = self.runtime.latest(&c.name).filter(|l| l.sandbox_id == sandbox_id);
            let done = match role {
                Role::Sidecar => {
                    self.keep_running(role, c, sandbox_id);
                    here.is_some_and(|l| l.state == State::Running && self.started(l))
                }
                _ if here.is_some_and(|l| l.state == State::Exited && l.exit_code == 0) => true,
                _ => {
                    self.keep_running(role, c, sandbox_id);
                    false
                }
            };
            if !done && !begun {
                return false;
            }
        }
        true
    }

    fn started(&self, run: &Container) -> bool {
        self.memory.starting.as_deref() != Some(run.name.as_str())
            && self
                .memory
                .containers
                .get(&run.name)
                .is_some_and(|m| m.health.container_id == run.id && m.health.started)
    }

    /// Starts, restarts or stops one container as its state asks for.
    fn keep_running(&mut self, role: Role, c: &Spec, sandbox_id: &str) {
        let Some(last) = self.runtime.latest(&c.name) else {
            self.start(c, 0, sandbox_id);
            return;
        };
        match last.state {
            State::Running => self.check(role, c, last),
            State::Unknown => self.kill(last, view::grace_period(self.pod), Why::Unknown),
            State::Created if self.memory.starting.is_some() => {}
            // The kubelet died between creating and starting it.
            State::Created => {
                self.remove(&last.id);
                self.start(c, last.attempt, sandbox_id);
            }
            State::Exited => self.restart(role, c, last, sandbox_id),
        }
    }

    fn check(&mut self, role: Role, c: &Spec, run: &Container) {
        let grace = view::grace_period(self.pod);
        if role != Role::Init && !run.hash.is_empty() && run.hash != view::hash(c) {
            self.kill(run, grace, Why::Changed);
            return;
        }
        let Some(health) = self.memory.containers.get(&c.name).map(|m| &m.health) else { return };
        if health.container_id != run.id {
            return;
        }
        if let Some((kind, message)) = &health.given_up {
            let probe = match kind {
                ProbeKind::Startup => c.startup_probe.as_ref(),
                _ => c.liveness_probe.as_ref(),
            };
            let own = probe.and_then(|p| p.termination_grace_period_seconds);
            self.kill(run, own.unwrap_or(grace), Why::Probe(*kind, message.clone()));
        }
    }

    fn restart(&mut self, role: Role, c: &Spec, last: &Container, sandbox_id: &str) {
        let same_sandbox = last.sandbox_id == sandbox_id;
        // In a new sandbox init containers run again, whatever became of them in the old one.
        let again = role == Role::Init && !same_sandbox;
        if !again && !view::restart(self.pod, role, c).applies(last.exit_code) {
            return;
        }
        if let (true, Some(finished)) = (same_sandbox, last.finished_at) {
            let memory = self.memory.containers.get(&c.name);
            let backoff = memory
                .and_then(|m| m.backoff)
                .unwrap_or_else(|| Backoff::after_restarts(last.attempt));
            let next = backoff.next_start(last.started_at, finished);
            if next > self.now {
                let message = format!(
                    "back-off {}s restarting failed container={} pod={}_{}({})",
                    backoff.delay().as_secs(),
                    c.name,
                    view::name(self.pod),
                    view::namespace(self.pod),
                    view::uid(self.pod),
                );
                self.plan.wait(&c.name, "CrashLoopBackOff", Some(message));
                self.plan.wake(next);
                return;
            }
        }
        self.start(c, last.attempt + 1, sandbox_id);
    }

    fn start(&mut self, c: &Spec, attempt: u32, sandbox_id: &str) {
        if let Some(failure) = self.memory.containers.get(&c.name).and_then(|m| m.failure.as_ref())
        {
            self.plan.wait(&c.name, &failure.reason, Some(failure.message.clone()));
            if failure.retry_at > self.now {
                self.plan.wake(failure.retry_at);
                return;
            }
        }
        let planned = self.plan.actions.iter().any(|a| matches!(a, Action::Start { .. }));
        if planned || self.memory.starting.is_some() {
            return;
        }
        let (name, sandbox_id) = (c.name.clone(), sandbox_id.to_owned());
        self.plan.actions.push(Action::Start { name, attempt, sandbox_id });
    }

    /// Removes what is dead and of no more use.
    fn clean(&mut self) {
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        let mut old = Vec::new();
        for c in self.runtime.containers.iter().filter(|c| c.state == State::Exited) {
            let newest = self.runtime.latest(&c.name).is_some_and(|l| l.id == c.id);
            let n = kept.entry(&c.name).or_default();
            if !newest {
                *n += 1;
            }
            if *n > KEPT_DEAD {
                old.push(c.id.clone());
            }
        }
        for id in old {
            self.remove(&id);
        }
        for s in self.runtime.sandboxes.iter().skip(1).filter(|s| !s.ready) {
            if !self.runtime.containers.iter().any(|c| c.sandbox_id == s.id)
                && !self.memory.removing.contains(&s.id)
            {
                self.plan.actions.push(Action::RemoveSandbox { id: s.id.clone() });
            }
        }
    }

    /// The pod ends: main containers first, then sidecars from the last to the first, then the sandbox.
    fn stop(&mut self) {
        let grace = self.memory.end.as_ref().map_or(view::grace_period(self.pod), |end| end.grace);
        let live = |c: &&Container| matches!(c.state, State::Running | State::Unknown);
        let sidecars: Vec<&str> = view::init_containers(self.pod)
            .filter(|(role, _)| *role == Role::Sidecar)
            .map(|(_, c)| c.name.as_str())
            .collect();
        let others: Vec<_> = self
            .runtime
            .containers
            .iter()
            .filter(live)
            .filter(|c| !sidecars.contains(&c.name.as_str()))
            .collect();
        if !others.is_empty() {
            for c in others {
                self.kill(c, grace, Why::PodEnds);
            }
            return;
        }
        for name in sidecars.iter().rev() {
            let found = self.runtime.containers.iter().filter(live).find(|c| c.name == *name);
            if let Some(c) = found {
                self.kill(c, grace, Why::PodEnds);
                return;
            }
        }
        if self.memory.starting.is_some() || self.memory.sandbox.is_running() {
            return;
        }
        let ready: Vec<_> = self.runtime.sandboxes.iter().filter(|s| s.ready).collect();
        for s in &ready {
            self.stop_sandbox(&s.id);
        }
        self.plan.stopped = ready.is_empty() && !self.memory.setup.is_running();
    }

    /// Stops a container, unless it is being stopped with at most this grace already.
    fn kill(&mut self, c: &Container, grace: i64, why: Why) {
        if self.memory.killing.get(&c.id).is_some_and(|given| *given <= grace) {
            return;
        }
        let (id, name) = (c.id.clone(), c.name.clone());
        self.plan.actions.push(Action::Kill { id, name, grace, why });
    }

    fn remove(&mut self, id: &str) {
        if !self.memory.removing.contains(id) {
            self.plan.actions.push(Action::RemoveContainer { id: id.to_owned() });
        }
    }

    fn stop_sandbox(&mut self, id: &str) {
        if !self.memory.removing.contains(id) {
            self.plan.actions.push(Action::StopSandbox { id: id.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests;
