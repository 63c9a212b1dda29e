//! Deletion: grace, finalizers, preconditions, namespaces, evictions.

use serde_json::{Value, json};

use crate::kit::{Caller, Cluster, DEFAULT, config_map, pod};

async fn bound_pod(admin: &Caller, name: &str) {
    let mut object = pod(name);
    object["spec"]["nodeName"] = json!("n1");
    admin.post(&format!("{DEFAULT}/pods"), &object).await.ok();
}

#[tokio::test]
async fn a_pod_on_a_node_goes_when_its_kubelet_says_so() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("default").await;
    bound_pod(&admin, "p").await;
    let path = format!("{DEFAULT}/pods/p");
    let marked = admin.delete(&path).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30, "the pod's own grace");
    assert_eq!(admin.get(&path).await.code, 200, "it is still there");
    let shorter = json!({"gracePeriodSeconds": 1});
    let body = shorter.to_string();
    let marked = admin.raw("DELETE", &path, "application/json", body).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 1, "grace can be shortened");
    let kubelet = cluster.by_certificate("n1").await;
    kubelet.raw("DELETE", &path, "application/json", "{\"gracePeriodSeconds\":0}").await.ok();
    assert_eq!(admin.get(&path).await.code, 404);
    admin.post(&format!("{DEFAULT}/pods"), &pod("unbound")).await.ok();
    admin.delete(&format!("{DEFAULT}/pods/unbound")).await.ok();
    let gone = admin.get(&format!("{DEFAULT}/pods/unbound")).await;
    assert_eq!(gone.code, 404, "without a node there is nothing to wait for");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_removed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let mut object = config_map("m");
    object["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    let path = format!("{DEFAULT}/configmaps/m");
    admin.post(&format!("{DEFAULT}/configmaps"), &object).await.ok();
    let marked = admin.delete(&path).await.ok();
    let time = marked["metadata"]["deletionTimestamp"].clone();
    assert!(time.is_string());
    admin.merge(&path, &json!({"metadata": {"finalizers": ["example.com/b"]}})).await.ok();
    let now = admin.get(&path).await.ok();
    assert_eq!(now["metadata"]["deletionTimestamp"], time, "it is not taken back or renewed");
    admin.merge(&path, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(admin.get(&path).await.code, 404);
}

#[tokio::test]
async fn preconditions_and_policies_are_kept_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let path = format!("{DEFAULT}/configmaps/m");
    admin.post(&format!("{DEFAULT}/configmaps"), &config_map("m")).await.ok();
    let options = json!({"preconditions": {"uid": "another"}});
    let answer = admin.raw("DELETE", &path, "application/json", options.to_string()).await;
    assert_eq!(answer.code, 409, "{}", answer.body);
    let dry = admin.raw("DELETE", &format!("{path}?dryRun=All"), "application/json", "").await;
    assert_eq!(dry.code, 200);
    assert_eq!(admin.get(&path).await.code, 200, "a dry run changes nothing");
    let held = admin.delete(&format!("{path}?propagationPolicy=Foreground")).await.ok();
    assert_eq!(held["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let wrong = admin.delete(&format!("{path}?propagationPolicy=Sideways")).await;
    assert_eq!(wrong.code, 400);
}

#[tokio::test]
async fn a_namespace_takes_nothing_new_while_it_goes_and_goes_when_finalized() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.ok();
    let marked = admin.delete("/api/v1/namespaces/x").await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = admin.post("/api/v1/namespaces/x/configmaps", &config_map("m")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut done = marked;
    done["spec"]["finalizers"] = json!([]);
    admin.put("/api/v1/namespaces/x/finalize", &done).await.ok();
    assert_eq!(admin.get("/api/v1/namespaces/x").await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for (name, value) in [("a", "1"), ("b", "1"), ("c", "2")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"x": value});
        admin.post(&format!("{DEFAULT}/configmaps"), &object).await.ok();
    }
    admin.delete(&format!("{DEFAULT}/configmaps?labelSelector=x%3D1")).await.ok();
    let left = admin.get(&format!("{DEFAULT}/configmaps")).await.ok();
    let names: Vec<&Value> = left["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn an_eviction_is_refused_when_its_budget_is_used_up() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("default").await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    for name in ["p1", "p2"] {
        let mut object = pod(name);
        object["spec"]["nodeName"] = json!("n1");
        object["metadata"]["labels"] = json!({"app": "web"});
        admin.post(&format!("{DEFAULT}/pods"), &object).await.ok();
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        admin.merge(&format!("{DEFAULT}/pods/{name}/status"), &status).await.ok();
    }
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"app": "web"}}}});
    let made = admin.post(budgets, &budget).await.ok();
    let generation = made["metadata"]["generation"].clone();
    let status = json!({"status": {"observedGeneration": generation, "disruptionsAllowed": 1,
        "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    admin.merge(&format!("{budgets}/b/status"), &status).await.ok();
    let evict = async |name: &str| {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        admin.post(&format!("{DEFAULT}/pods/{name}/eviction"), &body).await
    };
    evict("p1").await.ok();
    let marked = admin.get(&format!("{DEFAULT}/pods/p1")).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "it is being deleted");
    let refused = evict("p2").await;
    assert_eq!(refused.code, 429, "{}", refused.body);
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "DisruptionBudget");
}

#[tokio::test]
async fn what_a_leaving_namespace_refuses_is_named() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "a"}})).await.ok();
    admin.delete("/api/v1/namespaces/a").await.ok();
    let why = "is forbidden: unable to create new content in namespace a because it is being \
               terminated";
    for (metadata, name) in [(json!({"name": "web"}), "web"), (json!({"generateName": "w-"}), "w-")]
    {
        let object = json!({"metadata": metadata});
        let refused = admin.post("/api/v1/namespaces/a/endpoints", &object).await;
        assert_eq!(refused.code, 403);
        assert_eq!(refused.message(), format!("endpoints \"{name}\" {why}"));
        assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    }
}
