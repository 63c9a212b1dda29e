//! Facts about judging and ranking pods.

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a valid time")
}

fn pod(name: &str, node: &str, phase: &str, ready_at: Option<i64>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.creation_timestamp = Some(Time(at(100)));
    let node_name = Some(node.to_owned()).filter(|node| !node.is_empty());
    pod.spec = Some(PodSpec { node_name, ..Default::default() });
    let ready = PodCondition {
        type_: "Ready".into(),
        status: if ready_at.is_some() { "True".into() } else { "False".into() },
        last_transition_time: ready_at.map(|second| Time(at(second))),
        ..Default::default()
    };
    pod.status = Some(PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(vec![ready]),
        ..Default::default()
    });
    pod
}

fn ranked(pods: Vec<Pod>) -> Vec<String> {
    let mut pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    rank_for_deletion(&mut pods);
    pods.iter().map(|pod| pod.name_any()).collect()
}

#[test]
fn the_least_useful_pods_are_deleted_first() {
    let mut cheap = pod("cheap", "c", "Running", Some(10));
    cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
    let mut restarted = pod("restarted", "b", "Running", Some(10));
    restarted.status.as_mut().expect("status").container_statuses =
        Some(vec![ContainerStatus { restart_count: 3, ..Default::default() }]);
    let order = ranked(vec![
        pod("old", "b", "Running", Some(10)),
        restarted,
        cheap,
        pod("crowded", "a", "Running", Some(5)),
        pod("crowded-too", "a", "Running", Some(6)),
        pod("crowded-three", "a", "Pending", None),
        pod("unready", "d", "Running", None),
        pod("unbound", "", "Pending", None),
    ]);
    assert_eq!(
        order,
        [
            "unbound",
            "crowded-three",
            "unready",
            "cheap",
            "crowded-too",
            "crowded",
            "restarted",
            "old"
        ]
    );
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let ready = pod("a", "n", "Running", Some(100));
    assert!(is_available(&ready, 0, at(100)));
    assert!(!is_available(&ready, 10, at(109)));
    assert!(is_available(&ready, 10, at(110)));
    assert_eq!(until_available(&ready, 10, at(104)), Some(Duration::from_secs(6)));
    assert_eq!(until_available(&pod("b", "n", "Running", None), 0, at(100)), None);
}
