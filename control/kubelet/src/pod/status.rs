//! A pod's status, from what the runtime knows and the worker remembers. Pure.
//!
//! Phases and conditions follow the Pod lifecycle page of the Kubernetes documentation; fields that
//! others own (readiness gates' conditions, nominatedNodeName) are left to them by the writer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::actions::{Outcome, Plan, outcome};
use super::memory::{Cause, Memory};
use super::qos;
use super::view::{self, Role};
use crate::runtime::{Container, PodRuntime, State};

/// Everything that a status is made from.
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub runtime: &'a PodRuntime,
    pub memory: &'a Memory,
    pub plan: &'a Plan,
    pub host_ips: &'a [IpAddr],
    /// Scheme of container ids, `containerd`.
    pub runtime_name: &'a str,
    /// The status that was made before this one, or the API's at first.
    pub before: &'a PodStatus,
    pub now: Timestamp,
}

/// Makes the status. The same facts at a later time give the same status.
pub fn generate(f: &Facts<'_>) -> PodStatus {
    let ephemeral = view::ephemeral_containers(f.pod);
    let init: Vec<_> = view::init_containers(f.pod).map(|(r, c)| f.container(r, c)).collect();
    let main: Vec<_> = view::main_containers(f.pod).map(|c| f.container(Role::Main, c)).collect();
    let ephemeral: Vec<_> = ephemeral.iter().map(|c| f.container(Role::Ephemeral, c)).collect();
    let phase = f.phase(&init, &main);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        start_time: f.before.start_time.clone().or(Some(Time(f.now))),
        qos_class: Some(qos::class(f.pod).as_str().to_owned()),
        observed_generation: f.pod.metadata.generation,
        ..PodStatus::default()
    };
    if let Some(end) = &f.memory.end
        && let Cause::Failed { reason, message } = &end.cause
    {
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    }
    f.addresses(&mut status);
    status.conditions = Some(f.conditions(phase, &init, &main));
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!main.is_empty()).then_some(main);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

impl Facts<'_> {
    fn container(&self, role: Role, c: &Spec) -> ContainerStatus {
        let mut runs = self.runtime.containers.iter().filter(|r| r.name == c.name);
        let latest = runs.next();
        let older = runs.find(|r| r.state == State::Exited);
        let mut status = ContainerStatus {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            last_state: Some(ContainerState::default()),
            started: Some(false),
            ..ContainerStatus::default()
        };
        let waiting = self.plan.waiting.get(&c.name);
        match latest {
            None => status.state = Some(self.not_made(role, c)),
            Some(run) => {
                status.restart_count = i32::try_from(run.attempt).unwrap_or(i32::MAX);
                status.container_id = Some(self.id(run));
                status.image_id = run.image_ref.clone();
                status.resources = c.resources.clone();
                status.last_state =
                    Some(older.map_or_else(ContainerState::default, |o| self.ended(o)));
                status.state = Some(match run.state {
                    State::Running => running(run),
                    State::Exited => match waiting {
                        Some(w) => {
                            status.last_state = Some(self.ended(run));
                            waits(&w.reason, w.message.clone())
                        }
                        None => self.ended(run),
                    },
                    State::Created | State::Unknown => waits("ContainerCreating", None),
                });
                self.health(role, run, &mut status);
            }
        }
        status
    }

    fn not_made(&self, role: Role, c: &Spec) -> ContainerState {
        if let Some(w) = self.plan.waiting.get(&c.name) {
            return waits(&w.reason, w.message.clone());
        }
        let has_init = view::init_containers(self.pod).next().is_some();
        match role {
            Role::Main | Role::Init | Role::Sidecar if has_init => waits("PodInitializing", None),
            _ => waits("ContainerCreating", None),
        }
    }

    fn health(&self, role: Role, run: &Container, status: &mut ContainerStatus) {
        let starting = self.memory.starting.as_deref() == Some(run.name.as_str());
        let health = self.memory.containers.get(&run.name).map(|m| &m.health);
        let health = health.filter(|h| h.container_id == run.id);
        match (role, run.state) {
            (_, State::Running) => {
                status.started = Some(!starting && health.is_some_and(|h| h.started));
                status.ready = !matches!(role, Role::Init | Role::Ephemeral)
                    && !starting
                    && health.is_some_and(|h| h.started && h.ready && h.given_up.is_none());
            }
            (Role::Init, State::Exited) => status.ready = run.exit_code == 0,
            _ => {}
        }
    }

    fn id(&self, run: &Container) -> String {
        format!("{}://{}", self.runtime_name, run.id)
    }

    fn ended(&self, run: &Container) -> ContainerState {
        let reason = match (run.reason.as_str(), run.exit_code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (given, _) => given,
        };
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(self.id(run)),
                exit_code: run.exit_code,
                finished_at: run.finished_at.map(Time),
                started_at: run.started_at.map(Time),
                reason: Some(reason.to_owned()),
                message: (!run.message.is_empty()).then(|| run.message.clone()),
                signal: None,
            }),
            ..ContainerState::default()
        }
    }

    fn phase(&self, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
        let over = self.before.phase.as_deref().filter(|_| self.over());
        match over {
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ => {}
        }
        let failed =
            matches!(self.memory.end.as_ref().map(|e| &e.cause), Some(Cause::Failed { .. }));
        if failed {
            return "Failed";
        }
        if let Some(outcome) = outcome(self.pod, self.runtime)
            && (self.plan.stopped || init.is_empty() || self.sidecars_ended())
        {
            return match outcome {
                Outcome::Succeeded => "Succeeded",
                Outcome::Failed => "Failed",
            };
        }
        // Deleted before its end: it counts as failed when nothing runs any more.
        if self.plan.stopped && self.memory.end.is_some() {
            return if main.iter().all(|c| code(c) == Some(0)) { "Succeeded" } else { "Failed" };
        }
        let begun = |c: &ContainerStatus| !never_ran(c);
        if !self.initialized(init) && !main.iter().any(begun) {
            return "Pending";
        }
        let running = main.iter().any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
        if main.iter().any(never_ran) && !running { "Pending" } else { "Running" }
    }

    fn over(&self) -> bool {
        matches!(self.memory.end.as_ref().map(|e| &e.cause), Some(Cause::Over))
    }

    fn sidecars_ended(&self) -> bool {
        view::init_containers(self.pod)
            .filter(|(role, _)| *role == Role::Sidecar)
            .all(|(_, c)| self.runtime.latest(&c.name).is_none_or(|l| l.state != State::Running))
    }

    fn initialized(&self, init: &[ContainerStatus]) -> bool {
        view::init_containers(self.pod).zip(init).all(|((role, _), status)| match role {
            Role::Sidecar => status.started == Some(true),
            _ => code(status) == Some(0),
        })
    }

    fn addresses(&self, status: &mut PodStatus) {
        status.host_ip = self.host_ips.first().map(ToString::to_string);
        let host: Vec<_> = self.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
        status.host_ips = (!host.is_empty()).then_some(host);
        let own: Vec<IpAddr> = if view::host_network(self.pod) {
            self.runtime.ready_sandbox().map_or_else(Vec::new, |_| self.host_ips.to_vec())
        } else {
            self.runtime.sandboxes.first().map_or_else(Vec::new, |s| s.ips.clone())
        };
        // A stopped sandbox no longer tells its addresses; the last known stay.
        if own.is_empty() && !self.runtime.containers.is_empty() {
            status.pod_ip = self.before.pod_ip.clone();
            status.pod_ips = self.before.pod_ips.clone();
            return;
        }
        status.pod_ip = own.first().map(ToString::to_string);
        let own: Vec<_> = own.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
        status.pod_ips = (!own.is_empty()).then_some(own);
    }

    fn conditions(
        &self,
        phase: &str,
        init: &[ContainerStatus],
        main: &[ContainerStatus],
    ) -> Vec<PodCondition> {
        let completed = (phase == "Succeeded").then(|| ("PodCompleted".to_owned(), None));
        let failed = (phase == "Failed").then(|| ("PodFailed".to_owned(), None));
        let ended = completed.or(failed);
        let begun = main.iter().any(|c| !never_ran(c));
        let unfinished = names(view::init_containers(self.pod).zip(init).filter_map(
            |((role, c), s)| match role {
                Role::Sidecar => (s.started != Some(true)).then_some(c.name.as_str()),
                _ => (code(s) != Some(0)).then_some(c.name.as_str()),
            },
        ));
        let initialized = if begun || unfinished.is_empty() {
            None
        } else {
            let text = format!("containers with incomplete status: [{unfinished}]");
            Some(("ContainersNotInitialized".to_owned(), Some(text)))
        };
        let sidecars = view::init_containers(self.pod).zip(init);
        let unready = names(
            sidecars
                .filter(|((role, _), _)| *role == Role::Sidecar)
                .map(|(_, s)| s)
                .chain(main)
                .filter(|s| !s.ready)
                .map(|s| s.name.as_str()),
        );
        let containers = ended.clone().or_else(|| {
            (!unready.is_empty()).then(|| {
                let text = format!("containers with unready status: [{unready}]");
                ("ContainersNotReady".to_owned(), Some(text))
            })
        });
        let ready = containers.clone().or_else(|| self.gates());
        let initialized = if phase == "Succeeded" {
            Some(("PodCompleted".to_owned(), None))
        } else {
            initialized
        };
        let sandboxed = self.runtime.ready_sandbox().is_some();
        vec![
            self.condition("PodReadyToStartContainers", sandboxed, None),
            self.condition(
                "Initialized",
                phase == "Succeeded" || initialized.is_none(),
                initialized,
            ),
            self.condition("Ready", ready.is_none(), ready),
            self.condition("ContainersReady", containers.is_none(), containers),
            self.condition("PodScheduled", true, None),
        ]
    }

    /// Why the pod's readiness gates hold it back, if they do.
    fn gates(&self) -> Option<(String, Option<String>)> {
        let observed = self.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        for gate in view::spec(self.pod).readiness_gates.iter().flatten() {
            let kind = &gate.condition_type;
            let found = observed.and_then(|all| all.iter().find(|c| c.type_ == *kind));
            if found.is_none_or(|c| c.status != "True") {
                let state = if found.is_some() { "is not \"True\"" } else { "does not exist" };
                let text =
                    format!("corresponding condition of pod readiness gate \"{kind}\" {state}.");
                return Some(("ReadinessGatesNotReady".to_owned(), Some(text)));
            }
        }
        None
    }

    fn condition(
        &self,
        kind: &str,
        holds: bool,
        why: Option<(String, Option<String>)>,
    ) -> PodCondition {
        let status = if holds { "True" } else { "False" };
        let old = self.before.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = old
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or(Time(self.now));
        let (reason, message) = why.map_or((None, None), |(r, m)| (Some(r), m));
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(since),
            observed_generation: self.pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.collect::<Vec<_>>().join(" ")
}

fn code(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn never_ran(status: &ContainerStatus) -> bool {
    let waiting = status.state.as_ref().is_none_or(|s| s.waiting.is_some());
    waiting && status.last_state.as_ref().is_none_or(|s| s.terminated.is_none())
}

fn running(run: &Container) -> ContainerState {
    let started_at = run.started_at.map(Time);
    let running = Some(ContainerStateRunning { started_at });
    ContainerState { running, ..ContainerState::default() }
}

fn waits(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message });
    ContainerState { waiting, ..ContainerState::default() }
}

/// Readiness and start of each container in a status that was written before: what a new kubelet
/// believes until its own probes say otherwise, so that its restart takes no pod out of service.
pub fn remembered(status: &PodStatus) -> BTreeMap<String, (String, bool, bool)> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter_map(|c| {
        let id = c.container_id.as_deref()?.split_once("://")?.1.to_owned();
        Some((c.name.clone(), (id, c.started == Some(true), c.ready)))
    })
    .collect()
}
