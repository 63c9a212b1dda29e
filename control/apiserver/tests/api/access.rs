//! Who may do what.

use serde_json::json;

use crate::kit::{Caller, Cluster, DEFAULT, config_map, pod};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn role(admin: &Caller, verbs: &[&str]) {
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]);
    let role = json!({"metadata": {"name": "r"}, "rules": rules});
    admin.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.ok();
    let binding = json!({"metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}]});
    admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.ok();
}

#[tokio::test]
async fn a_role_grants_what_it_says_where_it_is_and_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("sa").await;
    let token = admin.token("sa", &json!({})).await;
    let account = cluster.by_token(Some(&token)).await;
    let maps = format!("{DEFAULT}/configmaps");
    assert_eq!(account.get(&maps).await.code, 403, "nothing is granted yet");
    role(&admin, &["get", "list"]).await;
    assert_eq!(account.get(&maps).await.code, 200, "the very next request may");
    let refused = account.post(&maps, &config_map("a")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "configmaps is forbidden: User \"system:serviceaccount:default:sa\" cannot create resource \
         \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(account.get("/api/v1/namespaces/kube-system/configmaps").await.code, 403);
    assert_eq!(account.get("/api/v1/configmaps").await.code, 403, "not in all namespaces");
    admin.delete(&format!("{RBAC}/namespaces/default/rolebindings/r")).await.ok();
    assert_eq!(account.get(&maps).await.code, 403, "and not any more");
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("sa").await;
    let mut object = pod("p");
    object["spec"]["serviceAccountName"] = json!("sa");
    let made = admin.post(&format!("{DEFAULT}/pods"), &object).await.ok();
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p",
        "uid": made["metadata"]["uid"]}});
    let of_pod = admin.token("sa", &bound).await;
    let plain = admin.token("sa", &json!({})).await;
    let foreign = admin.token("sa", &json!({"audiences": ["vault"]})).await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = async |token: &str| cluster.by_token(Some(token)).await.post(who, &json!({})).await;
    let user = ask(&of_pod).await.ok();
    let info = &user["status"]["userInfo"];
    assert_eq!(info["username"], "system:serviceaccount:default:sa");
    assert_eq!(info["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(ask(&foreign).await.code, 401, "it is meant for somebody else");
    admin.delete(&format!("{DEFAULT}/pods/p")).await.ok();
    assert_eq!(ask(&of_pod).await.code, 401, "its pod is gone");
    assert_eq!(ask(&plain).await.code, 201);
    admin.delete(&format!("{DEFAULT}/serviceaccounts/sa")).await.ok();
    admin.service_account("sa").await;
    assert_eq!(ask(&plain).await.code, 401, "another account has the name now");
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("sa").await;
    let binding = json!({"metadata": {"name": "a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}]});
    admin.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.ok();
    let token = admin.token("sa", &json!({})).await;
    let account = cluster.by_token(Some(&token)).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let of = |name: &str, resource: &str| {
        json!({"metadata": {"name": name},
               "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
    };
    account.post(&roles, &of("ok", "pods")).await.ok();
    let refused = account.post(&roles, &of("more", "nodes")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    assert!(refused.message().contains("not currently held"), "{}", refused.message());
}

#[tokio::test]
async fn reviews_tell_what_the_authorizer_would_say() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let review = |user: &str, groups: &[&str], verb: &str, resource: &str| {
        json!({"spec": {"user": user, "groups": groups,
               "resourceAttributes": {"verb": verb, "resource": resource}}})
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let allowed = async |body| admin.post(path, &body).await.ok()["status"]["allowed"].clone();
    assert_eq!(allowed(review("bob", &[], "get", "pods")).await, false);
    assert_eq!(allowed(review("bob", &["system:masters"], "get", "pods")).await, true);
    assert_eq!(allowed(review("system:node:n1", &["system:nodes"], "list", "pods")).await, true);
    assert_eq!(allowed(review("system:kube-scheduler", &[], "watch", "pods")).await, true);
    let as_bob = http::Request::get("/api/v1/pods").header("impersonate-user", "bob");
    let request = as_bob.body(Vec::new()).expect("it is valid");
    let refused = admin.client.request_text(request).await;
    assert!(refused.is_err_and(|e| e.to_string().contains("User \"bob\"")), "acting as bob");
}

#[tokio::test]
async fn a_kubelet_touches_only_its_own_node_and_pods() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("default").await;
    let (n1, n2) = (cluster.by_certificate("n1").await, cluster.by_certificate("n2").await);
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(n2.post("/api/v1/nodes", &node).await.code, 403, "another's name");
    n1.post("/api/v1/nodes", &node).await.ok();
    let mut object = pod("p");
    object["spec"]["nodeName"] = json!("n1");
    admin.post(&format!("{DEFAULT}/pods"), &object).await.ok();
    let status = json!({"status": {"phase": "Running"}});
    let path = format!("{DEFAULT}/pods/p/status");
    assert_eq!(n2.merge(&path, &status).await.code, 403);
    n1.merge(&path, &status).await.ok();
    let token =
        |uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "p", "uid": uid}}});
    let path = format!("{DEFAULT}/serviceaccounts/default/token");
    assert_eq!(n2.post(&path, &token("")).await.code, 403, "a token for another's pod");
    n1.post(&path, &token("")).await.ok();
}

#[tokio::test]
async fn a_bootstrap_token_lets_a_node_ask_for_its_certificate_and_no_more() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token", "stringData": {"token-id": "abcdef",
            "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
    admin.post("/api/v1/namespaces/kube-system/secrets", &secret).await.ok();
    let node = cluster.by_token(Some("abcdef.0123456789abcdef")).await;
    let request = json!({"metadata": {"name": "n1"}, "spec": {
        "request": "eA==", "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["client auth"], "username": "system:masters"}});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = node.post(path, &request).await;
    if made.code == 201 {
        assert_eq!(made.body["spec"]["username"], "system:bootstrap:abcdef", "who really asks");
    } else {
        assert_eq!(made.code, 422, "only what is asked for may be wrong: {}", made.body);
    }
    assert_eq!(node.get("/api/v1/nodes").await.code, 403);
    let wrong = cluster.by_token(Some("abcdef.0123456789abcdee")).await;
    assert_eq!(wrong.get("/api/v1/nodes").await.code, 401);
}
