//! The ways of writing, and what the server adds.

use serde_json::{Value, json};

use crate::kit::{Cluster, DEFAULT, config_map, pod};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}}})
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_generation_counts_the_spec() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let mut object = deployment();
    object["status"] = json!({"replicas": 7});
    let made = admin.post(DEPLOYMENTS, &object).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made.pointer("/status/replicas"), None, "a status is not created");
    let path = format!("{DEPLOYMENTS}/web");
    let change = json!({"spec": {"replicas": 3}, "status": {"replicas": 9}});
    let by_status = admin.merge(&format!("{path}/status"), &change).await.ok();
    assert_eq!(
        (&by_status["spec"]["replicas"], &by_status["status"]["replicas"]),
        (&json!(2), &json!(9))
    );
    assert_eq!(by_status["metadata"]["generation"], 1);
    let by_spec = admin.merge(&path, &json!({"spec": {"replicas": 3}, "status": null})).await.ok();
    assert_eq!(
        (&by_spec["spec"]["replicas"], &by_spec["status"]["replicas"]),
        (&json!(3), &json!(9))
    );
    assert_eq!(by_spec["metadata"]["generation"], 2);
    let same = admin.merge(&path, &json!({"spec": {"replicas": 3}})).await.ok();
    let revision = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(revision(&same), revision(&by_spec), "what changes nothing writes nothing");
}

#[tokio::test]
async fn labels_and_annotations_may_be_written_with_the_status() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(DEPLOYMENTS, &deployment()).await.ok();
    let services = format!("{DEFAULT}/services");
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    admin.post(&services, &service).await.ok();
    let note = json!({"metadata": {"labels": {"l": "1"}, "annotations": {"a": "1"},
                                   "finalizers": ["example.com/f"]}});
    for (path, label) in
        [(format!("{services}/web"), "1".into()), (format!("{DEPLOYMENTS}/web"), Value::Null)]
    {
        let written = admin.merge(&format!("{path}/status"), &note).await.ok();
        let metadata = &written["metadata"];
        assert_eq!(metadata["annotations"]["a"], "1", "{path}");
        assert_eq!(metadata["labels"]["l"], label, "{path}");
        assert_eq!(metadata["finalizers"], Value::Null, "{path}");
    }
}

#[tokio::test]
async fn the_four_patches_do_what_their_types_say() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(DEPLOYMENTS, &deployment()).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let strategic = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "b", "$patch": "delete"}, {"name": "a", "image": "z"}]}}}});
    let kind = "application/strategic-merge-patch+json";
    let new = admin.raw("PATCH", &path, kind, strategic.to_string()).await.ok();
    let containers = new.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let images: Vec<_> = containers.into_iter().flatten().map(|c| &c["image"]).collect();
    assert_eq!(images, ["z"], "merged by name");
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 5}]);
    let kind = "application/json-patch+json";
    let failed = admin.raw("PATCH", &path, kind, test.to_string()).await;
    assert_eq!(failed.code, 422, "a test that fails: {}", failed.body);
    let replace = json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]);
    let new = admin.raw("PATCH", &path, kind, replace.to_string()).await.ok();
    assert_eq!(new["spec"]["replicas"], 5);
    let apply = "application/apply-patch+yaml";
    let wish = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1'}\n";
    let map = format!("{DEFAULT}/configmaps/m");
    let by_one = admin.raw("PATCH", &format!("{map}?fieldManager=one"), apply, wish).await;
    assert_eq!(by_one.code, 201, "apply creates: {}", by_one.body);
    let other = wish.replace("'1'", "'2'");
    let by_two = format!("{map}?fieldManager=two");
    let refused = admin.raw("PATCH", &by_two, apply, other.clone()).await;
    assert_eq!(refused.code, 409, "{}", refused.body);
    assert_eq!(refused.body["details"]["causes"][0]["field"], ".data.a");
    let forced = admin.raw("PATCH", &format!("{by_two}&force=true"), apply, other).await.ok();
    assert_eq!(forced["data"]["a"], "2");
    let nameless = admin.raw("PATCH", &map, apply, wish).await;
    assert_eq!(nameless.code, 400, "apply needs a manager");
}

#[tokio::test]
async fn scale_and_binding_change_only_their_part() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("default").await;
    admin.post(DEPLOYMENTS, &deployment()).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = admin.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=web");
    let scaled = admin.merge(&path, &json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    let deployment = admin.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]),
        (&json!(4), &json!(2))
    );
    assert_eq!(admin.merge(&path, &json!({"spec": {"replicas": -1}})).await.code, 422);
    admin.post(&format!("{DEFAULT}/pods"), &pod("p")).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = format!("{DEFAULT}/pods/p/binding");
    admin.post(&path, &binding).await.ok();
    let bound = admin.get(&format!("{DEFAULT}/pods/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(admin.post(&path, &binding).await.code, 409, "a pod is bound once");
}

#[tokio::test]
async fn pods_get_an_account_a_token_tolerations_and_a_priority() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let pods = format!("{DEFAULT}/pods");
    let early = admin.post(&pods, &pod("p")).await;
    assert_eq!(early.code, 403, "no account yet: {}", early.body);
    admin.service_account("default").await;
    let mut wanted = pod("p");
    wanted["spec"]["priorityClassName"] = json!("system-node-critical");
    let made = admin.post(&pods, &wanted).await.ok();
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["priority"]),
        (&json!("default"), &json!(2_000_001_000))
    );
    let mount = &spec["containers"][0]["volumeMounts"][0]["mountPath"];
    assert_eq!(mount, "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let mut unknown = pod("q");
    unknown["spec"]["priorityClassName"] = json!("absent");
    assert_eq!(admin.post(&pods, &unknown).await.code, 403);
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_stores_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let before = admin.revision().await;
    let path = format!("{DEFAULT}/configmaps?dryRun=All");
    let answer = admin.post(&path, &config_map("m")).await;
    assert_eq!(answer.code, 201);
    assert!(answer.body["metadata"]["uid"].is_string());
    assert_eq!(admin.revision().await, before);
    let wrong = admin.post(&format!("{DEFAULT}/configmaps?dryRun=Some"), &config_map("m")).await;
    assert_eq!(wrong.code, 400);
}

#[tokio::test]
async fn both_event_groups_and_both_autoscaler_versions_show_the_same_objects() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p",
        "namespace": "default"}, "reason": "R", "message": "M", "type": "Normal"});
    admin.post(&format!("{DEFAULT}/events"), &event).await.ok();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let modern = admin.get(&format!("{path}/e")).await.ok();
    assert_eq!((&modern["regarding"]["name"], &modern["note"]), (&json!("p"), &json!("M")));
    let selected = admin.get(&format!("{path}?fieldSelector=regarding.name%3Dp")).await.ok();
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1));
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "targetCPUUtilizationPercentage": 60,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    admin.post(v1, &scaler).await.ok();
    let v2 = admin.get(&v1.replace("v1/", "v2/")).await.ok();
    let share = v2.pointer("/items/0/spec/metrics/0/resource/target/averageUtilization");
    assert_eq!(share, Some(&json!(60)));
    let back = admin.get(&format!("{v1}/h")).await.ok();
    assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 60);
}

#[tokio::test]
async fn tables_and_metadata_are_served_when_asked_for() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post(&format!("{DEFAULT}/configmaps"), &config_map("m")).await.ok();
    let ask = async |accept: &str| -> Value {
        let request = http::Request::get(format!("{DEFAULT}/configmaps")).header("accept", accept);
        let request = request.body(Vec::new()).expect("it is valid");
        let text = admin.client.request_text(request).await.expect("it is served");
        serde_json::from_str(&text).expect("it is JSON")
    };
    let table = ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("m")));
    let partial = ask("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0]["metadata"]["name"], "m");
    assert_eq!(partial["items"][0].get("data"), None);
}

#[tokio::test]
async fn a_namespace_keeps_the_label_that_is_its_name() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "a"}})).await.ok();
    let bare = json!({"metadata": {"name": "a", "labels": {"x": "y"}}});
    let now = admin.put("/api/v1/namespaces/a", &bare).await.ok();
    assert_eq!(now["metadata"]["labels"], json!({"x": "y", "kubernetes.io/metadata.name": "a"}));
}
