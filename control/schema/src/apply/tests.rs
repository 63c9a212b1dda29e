use serde_json::json;

use super::*;
use crate::managed::track;

fn deployment() -> Gvk {
    Gvk::new("apps", "v1", "Deployment")
}

fn by(manager: &'static str) -> Writer<'static> {
    Writer { manager, subresource: "", now: "2024-05-01T12:00:00Z" }
}

fn run(live: Option<&Value>, config: &Value, manager: &'static str) -> Result<Value, ApplyError> {
    apply(&deployment(), live, config, &by(manager), false)
}

fn conflicts(error: ApplyError) -> Vec<String> {
    match error {
        ApplyError::Conflicts(list) => {
            list.iter().map(|c| format!("{}: {}", c.message, c.field)).collect()
        }
        other => panic!("no conflict: {other}"),
    }
}

fn config() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}],
                "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "b:1"}]}}}})
}

/// What the server adds after an apply.
fn stored(mut object: Value) -> Value {
    crate::default::apply(&deployment(), &mut object);
    object
}

#[test]
fn applying_twice_changes_nothing() {
    let live = stored(run(None, &config(), "m").unwrap());
    assert_eq!(run(Some(&live), &config(), "m").unwrap(), live);
}

#[test]
fn what_is_no_longer_declared_is_removed_and_defaults_of_others_stay() {
    let live = stored(run(None, &config(), "m").unwrap());
    let mut less = config();
    less["spec"]["template"]["spec"]["containers"] =
        json!([{"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]}]);
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let result = run(Some(&live), &less, "m").unwrap();
    let containers = result["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "the container is gone with its defaults: {containers:?}");
    assert!(containers[0].get("env").is_none());
    assert_eq!(containers[0]["terminationMessagePath"], "/dev/termination-log");
    assert!(result["spec"].get("replicas").is_none());
    assert_eq!(result["spec"]["revisionHistoryLimit"], 10, "a default stays");
}

#[test]
fn another_value_conflicts_the_same_value_is_shared_and_force_takes_over() {
    let live = stored(run(None, &config(), "one").unwrap());
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 5, "template": {"spec": {"containers": [{"name": "b", "image": "b:1"}]}}}});
    let error = run(Some(&live), &other, "two").unwrap_err();
    assert_eq!(conflicts(error), ["conflict with \"one\": .spec.replicas"]);
    let forced = apply(&deployment(), Some(&live), &other, &by("two"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    // Shared now: when one lets go, two keeps the container, and replicas is two's alone.
    let mut less = config();
    less["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().pop();
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let result = run(Some(&forced), &less, "one").unwrap();
    assert_eq!(result["spec"]["replicas"], 5);
    assert_eq!(result["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
}

#[test]
fn an_updaters_change_conflicts_with_its_time() {
    let live = stored(run(None, &config(), "m").unwrap());
    let mut edited = live.clone();
    edited["spec"]["replicas"] = 4.into();
    track(&deployment(), Some(&live), &mut edited, &by("kubectl-edit"));
    let error = run(Some(&edited), &config(), "m").unwrap_err();
    assert_eq!(
        conflicts(error),
        ["conflict with \"kubectl-edit\" using apps/v1 at 2024-05-01T12:00:00Z: .spec.replicas"]
    );
}

#[test]
fn ports_are_told_apart_by_number_and_protocol() {
    let live = stored(run(None, &config(), "m").unwrap());
    let mut more = config();
    more["spec"]["template"]["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]);
    let result = run(Some(&live), &more, "m").unwrap();
    let ports = &result["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(
        ports,
        &json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}])
    );
}

#[test]
fn items_without_or_with_the_same_key_are_refused() {
    for containers in [json!([{"image": "x"}]), json!([{"name": "a"}, {"name": "a"}])] {
        let mut bad = config();
        bad["spec"]["template"]["spec"]["containers"] = containers;
        assert!(matches!(run(None, &bad, "m"), Err(ApplyError::Typed { .. })));
    }
    let mut bad = config();
    bad["metadata"]["managedFields"] = json!([]);
    assert_eq!(run(None, &bad, "m"), Err(ApplyError::ManagedFieldsGiven));
}

#[test]
fn an_object_from_before_keeps_its_fields_and_conflicts_on_others() {
    let live = stored(config());
    let labelled = json!({"metadata": {"name": "d", "labels": {"x": "y"}}});
    let result = run(Some(&live), &labelled, "m").unwrap();
    assert_eq!(result["spec"], live["spec"]);
    let managers: Vec<String> = entries::read(&result).into_iter().map(|e| e.manager).collect();
    assert_eq!(managers, ["m", "before-first-apply"]);
}

#[test]
fn a_status_is_applied_through_its_subresource_only() {
    let live = stored(run(None, &config(), "m").unwrap());
    let mut with_status = config();
    with_status["status"] = json!({"replicas": 7});
    assert_eq!(run(Some(&live), &with_status, "m").unwrap(), live);
    let status = Writer { subresource: "status", ..by("s") };
    let result = apply(&deployment(), Some(&live), &with_status, &status, false).unwrap();
    assert_eq!(result["status"]["replicas"], 7);
}
