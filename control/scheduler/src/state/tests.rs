//! Facts about the scheduler's state machine.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::plugins::testing::node;

fn pod(name: &str, cpu: &str, node: Option<&str>) -> Arc<Pod> {
    prioritised(name, cpu, node, 0)
}

fn prioritised(name: &str, cpu: &str, node: Option<&str>, priority: i32) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"nodeName": node, "priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    Arc::new(serde_json::from_value(value).expect("a valid pod"))
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

fn state(now: Instant) -> State {
    let mut state = State::new("default-scheduler");
    let info = node("n", json!({"cpu": "1", "pods": "9"}));
    state.node_changed("n", Some(info.node), now);
    state
}

fn bound_to(action: Option<Action>) -> Option<String> {
    match action? {
        Action::Bind { node, .. } => Some(node),
        Action::Report { .. } => None,
    }
}

#[test]
fn an_assumed_pod_takes_its_room_at_once() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("a"), Some(pod("a", "600m", None)), now);
    state.pod_changed(&key("b"), Some(pod("b", "600m", None)), now);
    assert_eq!(bound_to(state.next(now)).as_deref(), Some("n"));
    let Some(Action::Report { message, .. }) = state.next(now) else { panic!("b has no room") };
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
}

#[test]
fn a_pod_being_bound_is_not_tried_against_itself() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("a"), Some(pod("a", "600m", None)), now);
    assert_eq!(bound_to(state.next(now)).as_deref(), Some("n"));
    // The node grows while the binding is on its way: that calls back who waits for room.
    let grown = node("n", json!({"cpu": "1100m", "pods": "9"}));
    state.node_changed("n", Some(grown.node), now);
    assert!(state.next(now).is_none(), "its node is chosen already");
}

#[test]
fn a_nominated_pod_that_leaves_keeps_no_room() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("low"), Some(pod("low", "1", Some("n"))), now);
    let high = prioritised("high", "1", None, 9);
    state.pod_changed(&key("high"), Some(Arc::clone(&high)), now);
    assert!(matches!(state.next(now), Some(Action::Report { preemption: Some(_), .. })));
    state.pod_changed(&key("low"), None, now);
    let mut leaving = Pod::clone(&high);
    leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    state.pod_changed(&key("high"), Some(Arc::new(leaving)), now);
    state.pod_changed(&key("low-2"), Some(pod("low-2", "1", None)), now);
    assert_eq!(bound_to(state.next(now)).as_deref(), Some("n"), "nobody else wants the room");
}

#[test]
fn a_refused_binding_gives_the_room_back_and_is_tried_again() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("a"), Some(pod("a", "1", None)), now);
    let Some(Action::Bind { pod: info, .. }) = state.next(now) else { panic!("it fits") };
    state.bind_failed(&info, now);
    let later = now + Duration::from_secs(1);
    assert_eq!(bound_to(state.next(later)).as_deref(), Some("n"));
}

#[test]
fn an_unschedulable_pod_gets_the_room_of_one_that_leaves() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("a"), Some(pod("a", "1", Some("n"))), now);
    state.pod_changed(&key("b"), Some(pod("b", "1", None)), now);
    assert!(matches!(state.next(now), Some(Action::Report { .. })));
    assert!(state.next(now + Duration::from_secs(9)).is_none(), "nothing has changed");
    let later = now + Duration::from_secs(9);
    state.pod_changed(&key("a"), None, later);
    assert_eq!(bound_to(state.next(later)).as_deref(), Some("n"));
}

#[test]
fn own_status_news_is_no_reason_to_try_again() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("b"), Some(pod("b", "2", None)), now);
    assert!(matches!(state.next(now), Some(Action::Report { .. })));
    let later = now + Duration::from_secs(9);
    state.pod_changed(&key("b"), Some(pod("b", "2", None)), later);
    assert!(state.next(later).is_none());
    state.pod_changed(&key("b"), Some(pod("b", "1", None)), later);
    assert!(state.next(later).is_some(), "a changed spec is");
}

#[test]
fn preempted_room_is_kept_for_who_made_it() {
    let now = Instant::now();
    let mut state = state(now);
    state.pod_changed(&key("low"), Some(pod("low", "1", Some("n"))), now);
    state.pod_changed(&key("high"), Some(prioritised("high", "1", None, 9)), now);
    let Some(Action::Report { preemption: Some(preemption), .. }) = state.next(now) else {
        panic!("the low pod must go")
    };
    assert_eq!(preemption.victims.len(), 1);
    state.pod_changed(&key("low"), None, now);
    state.pod_changed(&key("low-2"), Some(pod("low-2", "1", None)), now);
    assert!(matches!(state.next(now), Some(Action::Report { .. })), "the room is not low-2's");
    let later = now + Duration::from_secs(1);
    let Some(Action::Bind { pod, .. }) = state.next(later) else { panic!("high has its room") };
    assert_eq!(pod.key.name, "high");
}

#[test]
fn pods_of_other_schedulers_and_gated_ones_are_left_alone() {
    let now = Instant::now();
    let mut state = state(now);
    for spec in [json!({"schedulerName": "x"}), json!({"schedulingGates": [{"name": "g"}]})] {
        let value = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"},
            "spec": {"containers": []}});
        let mut pod: Pod = serde_json::from_value(value).expect("a valid pod");
        let own = pod.spec.get_or_insert_default();
        own.scheduler_name = spec["schedulerName"].as_str().map(str::to_owned);
        own.scheduling_gates =
            serde_json::from_value(spec["schedulingGates"].clone()).unwrap_or_default();
        state.pod_changed(&key("p"), Some(Arc::new(pod)), now);
        assert!(state.next(now).is_none());
        state.pod_changed(&key("p"), None, now);
    }
}
