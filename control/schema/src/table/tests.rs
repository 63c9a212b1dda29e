use serde_json::json;

use super::*;

/// 2024-05-01T12:00:00Z
const NOW: i64 = 1_714_564_800;

fn cells_of(group: &str, kind: &str, mut object: Value) -> Vec<String> {
    let gvk = Gvk::new(group, "v1", kind);
    object["metadata"]["name"] = "x".into();
    object["metadata"]["creationTimestamp"] = "2024-05-01T11:59:30Z".into();
    let cells = row(&gvk, &object, IncludeObject::None, NOW)["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), columns(&gvk).as_array().unwrap().len(), "a cell for each column");
    cells.iter().map(cell::scalar).collect()
}

fn pod_cells(object: Value) -> [String; 3] {
    let cells = cells_of("", "Pod", object);
    [cells[1].clone(), cells[2].clone(), cells[3].clone()]
}

#[test]
fn a_pods_status_tells_where_it_is_in_its_life() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]});
    let init =
        |first: Value| json!([{"name": "i", "restartCount": 1, "state": first}, {"name": "s"}]);
    for (status, expected) in [
        (json!({"phase": "Pending"}), ["0/3", "Pending", "0"]),
        (
            json!({"phase": "Pending", "initContainerStatuses": init(json!({"running": {}}))}),
            ["0/3", "Init:0/2", "1"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses":
                init(json!({"waiting": {"reason": "ImagePullBackOff"}}))}),
            ["0/3", "Init:ImagePullBackOff", "1"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses":
                init(json!({"terminated": {"exitCode": 3}}))}),
            ["0/3", "Init:ExitCode:3", "1"],
        ),
        (
            json!({"phase": "Running", "initContainerStatuses": [
                {"name": "i", "restartCount": 4, "state": {"terminated": {"exitCode": 0}}},
                {"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
                "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
                    "lastState": {"terminated": {"finishedAt": "2024-05-01T11:58:00Z"}}},
                {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            ["2/3", "CrashLoopBackOff", "2 (2m ago)"],
        ),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [
                {"name": "a", "ready": true, "state": {"running": {}}},
                {"name": "b", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            ["1/3", "NotReady", "0"],
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), ["0/3", "Evicted", "0"]),
    ] {
        assert_eq!(pod_cells(json!({"spec": spec, "status": status})), expected, "{status}");
    }
    let going = json!({"metadata": {"deletionTimestamp": "2024-05-01T12:00:00Z"},
        "spec": {"containers": [{}]}, "status": {"phase": "Running"}});
    assert_eq!(pod_cells(going)[1], "Terminating");
}

#[test]
fn services_show_addresses_and_ports() {
    let cells = cells_of(
        "",
        "Service",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "selector": {"b": "2", "a": "1"}}}),
    );
    assert_eq!(
        cells,
        ["x", "NodePort", "10.96.0.5", "<none>", "80:30080/TCP,53/UDP", "30s", "a=1,b=2"]
    );
}

#[test]
fn nodes_show_readiness_cordon_and_roles() {
    let cells = cells_of(
        "",
        "Node",
        json!({
        "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "a": "b"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.35.0"}}}),
    );
    assert_eq!(
        cells[..6],
        ["x", "NotReady,SchedulingDisabled", "control-plane", "30s", "v1.35.0", "10.0.0.1"]
    );
}

#[test]
fn workloads_show_counts() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let selector = json!({"matchLabels": {"app": "x"}});
    let cells = cells_of(
        "apps",
        "Deployment",
        json!({
        "spec": {"replicas": 3, "template": template, "selector": selector},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
    );
    assert_eq!(cells, ["x", "2/3", "3", "2", "30s", "c", "i:1", "app=x"]);
    let cells = cells_of(
        "batch",
        "Job",
        json!({"spec": {"completions": 2},
        "status": {"succeeded": 1, "startTime": "2024-05-01T11:59:00Z"}}),
    );
    assert_eq!(cells[..5], ["x", "Running", "1/2", "60s", "30s"]);
    let cells = cells_of(
        "autoscaling",
        "HorizontalPodAutoscaler",
        json!({"spec": {
        "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"averageUtilization": 80}}}]}}),
    );
    assert_eq!(cells[1..5], ["Deployment/d", "cpu: <unknown>/80%", "1", "5"]);
}

#[test]
fn every_built_in_kind_makes_a_row_of_an_empty_object() {
    for kind in crate::types::kinds::all() {
        let gvk = kind.gvk;
        let columns = columns(&gvk);
        let row = row(&gvk, &json!({}), IncludeObject::Metadata, NOW);
        assert_eq!(
            row["cells"].as_array().unwrap().len(),
            columns.as_array().unwrap().len(),
            "{gvk}: a cell for each column"
        );
    }
}

#[test]
fn a_table_carries_what_was_asked_for() {
    let gvk = Gvk::new("example.com", "v1", "Widget");
    let object = json!({"metadata": {"name": "w"}, "spec": {"a": 1}});
    let meta = json!({"resourceVersion": "5"});
    let whole = table(&gvk, [&object], &meta, IncludeObject::Metadata, true, NOW);
    assert_eq!(whole["metadata"]["resourceVersion"], "5");
    assert_eq!(whole["columnDefinitions"][0]["format"], "name");
    assert_eq!(whole["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(whole["rows"][0]["object"].get("spec").is_none());
    let bare = table(&gvk, [&object], &meta, IncludeObject::None, false, NOW);
    assert_eq!(bare["columnDefinitions"], json!([]));
    assert!(bare["rows"][0].get("object").is_none());
}
