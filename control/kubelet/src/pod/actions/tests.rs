//! Tables: a pod, what the runtime has, what must be done.

use serde_json::{Value, json};

use super::super::memory::{Cause, End, Failure, Health};
use super::*;
use crate::runtime::Sandbox;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small time")
}

const NOW: i64 = 1000;

struct Case {
    pod: Pod,
    runtime: PodRuntime,
    memory: Memory,
    now: i64,
}

/// A pod with this spec, set up and in a ready sandbox called "s".
fn case(spec: Value) -> Case {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec,
    }))
    .expect("a pod");
    let sandbox =
        Sandbox { id: "s".into(), attempt: 0, ready: true, created_at: at(1), ips: Vec::new() };
    let runtime = PodRuntime { sandboxes: vec![sandbox], containers: Vec::new() };
    let memory = Memory { setup: Progress::Done, ..Memory::default() };
    Case { pod, runtime, memory, now: NOW }
}

impl Case {
    /// Adds a container: `state` is `running`, `created` or an exit code.
    fn with(mut self, name: &str, state: &str) -> Self {
        self.put(name, state, "s", 0);
        self
    }

    fn put(&mut self, name: &str, state: &str, sandbox: &str, attempt: u32) {
        let hash = view::container(&self.pod, name).map(|(_, c)| view::hash(&c));
        let (state, exit_code) = match state {
            "running" => (State::Running, 0),
            "created" => (State::Created, 0),
            code => (State::Exited, code.parse().expect("an exit code")),
        };
        let id = format!("{name}-{attempt}");
        let ended = (state == State::Exited).then(|| at(NOW - 1));
        let container = Container {
            id: id.clone(),
            sandbox_id: sandbox.into(),
            name: name.into(),
            attempt,
            state,
            created_at: at(NOW - 20),
            started_at: Some(at(NOW - 20)),
            finished_at: ended,
            exit_code,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: hash.unwrap_or_default(),
            log_path: String::new(),
            annotations: BTreeMap::new(),
        };
        self.runtime.containers.insert(0, container);
        if state == State::Running {
            let health = Health { container_id: id, started: true, ready: true, given_up: None };
            self.memory.container(name).health = health;
        }
    }

    fn plan(&self) -> Plan {
        compute(&self.pod, &self.runtime, &self.memory, at(self.now))
    }

    /// The plan in short words.
    fn check(&self, expected: &str) {
        let short = |a: &Action| match a {
            Action::Setup => "setup".to_owned(),
            Action::RunSandbox { attempt } => format!("sandbox {attempt}"),
            Action::StopSandbox { id } => format!("stop {id}"),
            Action::RemoveSandbox { id } => format!("remove {id}"),
            Action::Start { name, attempt, .. } => format!("start {name} {attempt}"),
            Action::Kill { name, grace, .. } => format!("kill {name} {grace}"),
            Action::RemoveContainer { id } => format!("remove {id}"),
        };
        let plan = self.plan();
        let mut words: Vec<_> = plan.actions.iter().map(short).collect();
        if plan.stopped {
            words.push("stopped".to_owned());
        }
        assert_eq!(words.join(", "), expected, "{plan:?}");
    }

    fn ending(mut self, grace: i64) -> Self {
        self.memory.end = Some(End { cause: Cause::Deleted, grace });
        self
    }
}

fn two() -> Value {
    json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]})
}

fn with_init(policy: &str) -> Value {
    json!({
        "restartPolicy": policy,
        "initContainers": [
            {"name": "i1", "image": "i"},
            {"name": "side", "image": "i", "restartPolicy": "Always"},
            {"name": "i2", "image": "i"},
        ],
        "containers": [{"name": "a", "image": "i"}],
    })
}

fn policy(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]})
}

#[test]
fn a_new_pod_is_set_up_and_sandboxed_at_once() {
    let mut new = case(two());
    new.memory.setup = Progress::Needed;
    new.runtime.sandboxes.clear();
    new.check("setup, sandbox 0");
    new.memory.setup = Progress::Running(None);
    new.memory.sandbox = Progress::Running(None);
    new.check("");
    new.memory.sandbox = Progress::Needed;
    new.memory.network_missing = Some("no CNI".into());
    new.check("");
}

#[test]
fn containers_start_one_after_the_other_in_order() {
    case(two()).check("start a 0");
    case(two()).with("a", "running").check("start b 0");
    case(two()).with("a", "running").with("b", "running").check("");
    let mut starting = case(two());
    starting.memory.starting = Some("a".into());
    starting.check("");
}

#[test]
fn a_failing_container_does_not_hold_up_the_next() {
    let mut one = case(two());
    one.memory.container("a").failure = Some(Failure {
        reason: "ErrImagePull".into(),
        message: "no".into(),
        retry_at: at(NOW + 7),
        count: 1,
    });
    one.check("start b 0");
    let plan = one.plan();
    assert_eq!(plan.waiting["a"].reason, "ErrImagePull");
    assert_eq!(plan.wake_at, Some(at(NOW + 7)));
}

#[test]
fn init_containers_run_in_order_before_all_others() {
    case(with_init("Always")).check("start i1 0");
    case(with_init("Always")).with("i1", "running").check("");
    case(with_init("Always")).with("i1", "0").check("start side 0");
    case(with_init("Always")).with("i1", "0").with("side", "running").check("start i2 0");
    let done = case(with_init("Always")).with("i1", "0").with("side", "running").with("i2", "0");
    done.check("start a 0");
}

#[test]
fn a_sidecar_that_has_not_started_holds_up_what_follows() {
    let mut waits = case(with_init("Always")).with("i1", "0").with("side", "running");
    waits.memory.container("side").health.started = false;
    waits.check("");
}

#[test]
fn a_failed_init_container_is_retried_unless_the_pod_never_restarts() {
    case(with_init("Always")).with("i1", "1").check("start i1 1");
    case(with_init("Never")).with("i1", "1").check("stop s");
    let mut ended = case(with_init("Never")).with("i1", "1");
    ended.runtime.sandboxes[0].ready = false;
    ended.check("stopped");
}

#[test]
fn a_dead_sidecar_is_restarted_whatever_the_policy() {
    let run = case(with_init("Never"))
        .with("i1", "0")
        .with("side", "1")
        .with("i2", "0")
        .with("a", "running");
    run.check("start side 1");
}

#[test]
fn restart_policies_decide_about_exits() {
    case(policy("Always")).with("a", "0").check("start a 1");
    case(policy("OnFailure")).with("a", "1").check("start a 1");
    case(policy("OnFailure")).with("a", "0").check("stop s");
    case(policy("Never")).with("a", "1").check("stop s");
}

#[test]
fn a_crash_loop_waits_and_says_so() {
    let mut looping = case(policy("Always"));
    looping.put("a", "1", "s", 1);
    let plan = looping.plan();
    assert!(plan.actions.is_empty(), "{plan:?}");
    assert_eq!(plan.waiting["a"].reason, "CrashLoopBackOff");
    assert_eq!(plan.wake_at, Some(at(NOW - 1 + 10)));
    looping.now = NOW + 10;
    looping.check("start a 2");
}

#[test]
fn a_container_that_was_created_but_never_started_is_made_anew() {
    case(policy("Always")).with("a", "created").check("remove a-0, start a 0");
}

#[test]
fn a_probe_that_gives_up_ends_the_container_with_its_own_grace() {
    let spec = json!({"containers": [{"name": "a", "image": "i",
        "livenessProbe": {"terminationGracePeriodSeconds": 3}}]});
    let mut sick = case(spec).with("a", "running");
    sick.memory.container("a").health.given_up = Some((ProbeKind::Liveness, "down".into()));
    sick.check("kill a 3");
    sick.memory.killing.insert("a-0".into(), 3);
    sick.check("");
    sick.memory.container("a").health.container_id = "another".into();
    sick.memory.killing.clear();
    sick.check("");
}

#[test]
fn a_new_image_replaces_the_container() {
    let mut changed = case(policy("Always")).with("a", "running");
    changed.runtime.containers[0].hash = "other".into();
    changed.check("kill a 30");
}

#[test]
fn a_lost_sandbox_ends_what_ran_in_it_and_is_replaced() {
    let mut lost = case(two()).with("a", "running");
    lost.runtime.sandboxes[0].ready = false;
    lost.check("kill a 30");
    lost.runtime.containers[0].state = State::Exited;
    lost.runtime.containers[0].exit_code = 137;
    lost.check("sandbox 1");
}

#[test]
fn init_containers_run_again_in_a_new_sandbox() {
    let mut again = case(with_init("Always"));
    again.put("i1", "0", "old", 0);
    again.put("side", "137", "old", 0);
    again.put("i2", "0", "old", 0);
    again.put("a", "137", "old", 0);
    again.check("start i1 1");
}

#[test]
fn a_pod_that_ends_stops_main_containers_then_sidecars_then_its_sandbox() {
    let all = || case(with_init("Always")).with("i1", "0").with("side", "running").with("i2", "0");
    all().with("a", "running").ending(5).check("kill a 5");
    all().with("a", "0").ending(5).check("kill side 5");
    case(with_init("Always")).with("side", "0").with("a", "0").ending(5).check("stop s");
    let mut gone = case(two()).with("a", "0").ending(5);
    gone.runtime.sandboxes[0].ready = false;
    gone.check("stopped");
}

#[test]
fn a_shorter_grace_stops_again_and_a_longer_one_does_not() {
    let mut ending = case(policy("Always")).with("a", "running").ending(30);
    ending.memory.killing.insert("a-0".into(), 30);
    ending.check("");
    ending.memory.end = Some(End { cause: Cause::Deleted, grace: 1 });
    ending.check("kill a 1");
}

#[test]
fn nothing_is_stopped_before_what_is_being_made_is_there() {
    let mut early = case(two()).ending(5);
    early.runtime.sandboxes.clear();
    early.memory.sandbox = Progress::Running(None);
    early.check("");
    early.memory.sandbox = Progress::Needed;
    early.memory.starting = Some("a".into());
    early.check("");
    early.memory.starting = None;
    early.check("stopped");
}

#[test]
fn only_the_last_dead_run_is_kept() {
    let mut old = case(policy("Always"));
    for attempt in 0..4 {
        old.put("a", "1", "s", attempt);
    }
    old.put("a", "running", "s", 4);
    old.check("remove a-2, remove a-1, remove a-0");
}

#[test]
fn ephemeral_containers_run_once() {
    let spec = json!({"containers": [{"name": "a", "image": "i"}],
        "ephemeralContainers": [{"name": "e", "image": "i"}]});
    case(spec.clone()).with("a", "running").check("start e 0");
    case(spec).with("a", "running").with("e", "1").check("");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("running"), Just("created"), Just("0"), Just("1")]
    }

    proptest! {
        /// Doing what is planned, again and again, comes to rest: with all containers running, or
        /// with nothing that runs.
        #[test]
        fn plans_come_to_rest(
            states in proptest::collection::vec(proptest::option::of(any_state()), 4),
            restart in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
            ready in any::<bool>(),
            ends in any::<bool>(),
        ) {
            let mut world = case(with_init(restart));
            for (name, state) in ["i1", "side", "i2", "a"].iter().zip(states) {
                if let Some(state) = state {
                    world.put(name, state, "s", 0);
                }
            }
            world.runtime.sandboxes[0].ready = ready;
            if ends {
                world = world.ending(1);
            }
            for round in 0..60 {
                world.end_init();
                let plan = world.plan();
                if plan.actions.is_empty() && plan.wake_at.is_none() {
                    let running = |n: &str| {
                        world.runtime.latest(n).is_some_and(|c| c.state == State::Running)
                    };
                    prop_assert_eq!(plan.stopped, !running("a"), "round {}: {:?}", round, plan);
                    return Ok(());
                }
                let starts = plan.actions.iter().filter(|a| matches!(a, Action::Start { .. }));
                prop_assert!(starts.count() <= 1, "one start at a time");
                world.now += 400;
                plan.actions.into_iter().for_each(|a| world.perform(a));
            }
            prop_assert!(false, "no rest: {:?}", world.plan());
        }
    }

    impl Case {
        /// Init containers that run succeed.
        fn end_init(&mut self) {
            for c in self.runtime.containers.iter_mut().filter(|c| c.name.starts_with('i')) {
                if c.state == State::Running {
                    (c.state, c.finished_at) = (State::Exited, Some(at(self.now)));
                }
            }
        }

        /// A runtime in which everything works; init containers succeed at once.
        fn perform(&mut self, action: Action) {
            match action {
                Action::Setup => self.memory.setup = Progress::Done,
                Action::RunSandbox { attempt } => {
                    let id = format!("s{attempt}");
                    let new = Sandbox { id, attempt, ready: true, created_at: at(2), ips: vec![] };
                    self.runtime.sandboxes.insert(0, new);
                }
                Action::StopSandbox { id } => {
                    let found = self.runtime.sandboxes.iter_mut().find(|s| s.id == id);
                    found.expect("only known sandboxes are stopped").ready = false;
                }
                Action::RemoveSandbox { id } => self.runtime.sandboxes.retain(|s| s.id != id),
                Action::Start { name, attempt, sandbox_id } => {
                    let state = if name.starts_with('i') { "0" } else { "running" };
                    self.put(&name, state, &sandbox_id, attempt);
                }
                Action::Kill { id, .. } => {
                    let now = at(self.now);
                    let found = self.runtime.containers.iter_mut().find(|c| c.id == id);
                    let c = found.expect("only known containers are stopped");
                    (c.state, c.exit_code, c.finished_at) = (State::Exited, 137, Some(now));
                }
                Action::RemoveContainer { id } => self.runtime.containers.retain(|c| c.id != id),
            }
        }
    }
}
