//! Who may do what.

use serde_json::{Value, json};

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
    let mut maker = of("maker", "pods");
    maker["rules"][0] = json!({"apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["clusterroles"], "verbs": ["create"]});
    admin.post(&format!("{RBAC}/clusterroles"), &maker).await.ok();
    let binding = json!({"metadata": {"name": "m"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "maker"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}]});
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.ok();
    let sum = json!({"metadata": {"name": "sum"}, "rules": [],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let refused = account.post(&format!("{RBAC}/clusterroles"), &sum).await;
    assert_eq!(refused.code, 403, "nobody knows what the sum will hold");
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
    assert_eq!(
        allowed(review("system:node:n1", &["system:nodes"], "list", "services")).await,
        true
    );
    assert_eq!(allowed(review("system:kube-scheduler", &[], "watch", "pods")).await, true);
    let as_bob = http::Request::get("/api/v1/pods").header("impersonate-user", "bob");
    let request = as_bob.body(Vec::new()).expect("it is valid");
    let refused = admin.client.request_text(request).await;
    assert!(refused.is_err_and(|e| e.to_string().contains("User \"bob\"")), "acting as bob");
}

/// Two nodes with a client each.
async fn nodes(cluster: &Cluster) -> (Caller, Caller) {
    let (n1, n2) = (cluster.by_certificate("n1").await, cluster.by_certificate("n2").await);
    n1.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.ok();
    n2.post("/api/v1/nodes", &json!({"metadata": {"name": "n2"}})).await.ok();
    (n1, n2)
}

/// A pod on n1.
fn pod_of_n1(name: &str) -> Value {
    let mut object = pod(name);
    object["spec"]["nodeName"] = json!("n1");
    object
}

#[tokio::test]
async fn a_kubelet_touches_only_its_own_node_and_pods() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("default").await;
    let (n1, n2) = nodes(&cluster).await;
    let node = json!({"metadata": {"name": "n3"}});
    assert_eq!(n2.post("/api/v1/nodes", &node).await.code, 403, "another's name");
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}]}});
    assert_eq!(n1.merge("/api/v1/nodes/n1", &owned).await.code, 403, "its end is not its own");
    assert_eq!(n2.merge("/api/v1/nodes/n1/status", &json!({"status": {}})).await.code, 403);
    n1.merge("/api/v1/nodes/n1/status", &json!({"status": {}})).await.ok();
    let made = admin.post(&format!("{DEFAULT}/pods"), &pod_of_n1("p")).await.ok();
    let status = json!({"status": {"phase": "Running"}});
    let path = format!("{DEFAULT}/pods/p/status");
    assert_eq!(n2.merge(&path, &status).await.code, 403);
    n1.merge(&path, &status).await.ok();
    let labels = json!({"metadata": {"labels": {"app": "bank"}}});
    assert_eq!(n1.merge(&path, &labels).await.code, 403, "it would become a backend");
    let token =
        |uid: &Value| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "p", "uid": uid}}});
    let path = format!("{DEFAULT}/serviceaccounts/default/token");
    let uid = &made["metadata"]["uid"];
    assert_eq!(n2.post(&path, &token(uid)).await.code, 403, "a token for another's pod");
    assert_eq!(n1.post(&path, &token(&json!(""))).await.code, 403, "which pod of this name?");
    n1.post(&path, &token(uid)).await.ok();
    let eviction = json!({"metadata": {"name": "p"}});
    let evict = format!("{DEFAULT}/pods/p/eviction");
    assert_eq!(n2.post(&evict, &eviction).await.code, 403, "another's pod");
    assert_eq!(n2.delete(&format!("{DEFAULT}/pods/p")).await.code, 403, "another's pod");
    n1.delete(&format!("{DEFAULT}/pods/p?gracePeriodSeconds=0")).await.ok();
}

#[tokio::test]
async fn a_kubelet_reads_only_what_its_pods_need() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("default").await;
    let (n1, n2) = nodes(&cluster).await;
    for name in ["mine", "other"] {
        let secret = json!({"metadata": {"name": name}, "stringData": {"a": "b"}});
        admin.post(&format!("{DEFAULT}/secrets"), &secret).await.ok();
    }
    let path = |name: &str| format!("{DEFAULT}/secrets/{name}");
    let mut object = pod_of_n1("p");
    object["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "mine"}}]);
    assert_eq!(n1.get(&path("mine")).await.code, 403, "no pod of it needs the secret yet");
    admin.post(&format!("{DEFAULT}/pods"), &object).await.ok();
    n1.get(&path("mine")).await.ok();
    n1.get(&format!("{DEFAULT}/secrets?fieldSelector=metadata.name=mine")).await.ok();
    assert_eq!(n1.get(&path("other")).await.code, 403);
    assert_eq!(n2.get(&path("mine")).await.code, 403, "the pod is on another node");
    for all in ["secrets", "configmaps", "secrets?fieldSelector=metadata.name!=x"] {
        assert_eq!(n1.get(&format!("{DEFAULT}/{all}")).await.code, 403, "{all}");
    }
    let map = format!("{DEFAULT}/configmaps/kube-root-ca.crt");
    assert_eq!(n1.get(&map).await.code, 404, "every pod mounts it, though it is not made yet");
    assert_eq!(n1.get("/api/v1/pods").await.code, 403, "only its own pods");
    n1.get("/api/v1/pods?fieldSelector=spec.nodeName=n1").await.ok();
    assert_eq!(n2.get("/api/v1/pods?fieldSelector=spec.nodeName=n1").await.code, 403);
    let leases = "/apis/coordination.k8s.io/v1/namespaces";
    let lease = json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}});
    n1.post(&format!("{leases}/kube-node-lease/leases"), &lease).await.ok();
    n1.get(&format!("{leases}/kube-node-lease/leases/n1")).await.ok();
    assert_eq!(n2.get(&format!("{leases}/kube-node-lease/leases/n1")).await.code, 403);
    let elsewhere = n1.post(&format!("{leases}/kube-system/leases"), &lease).await;
    assert_eq!(elsewhere.code, 403, "leaders are elected there");
    let mut mirror = pod_of_n1("mirror");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    n1.post(&format!("{DEFAULT}/pods"), &mirror).await.ok();
    mirror["metadata"]["name"] = json!("thief");
    mirror["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "other"}}]);
    assert_eq!(n1.post(&format!("{DEFAULT}/pods"), &mirror).await.code, 403, "to read the secret");
}

#[tokio::test]
async fn a_session_in_a_pod_needs_create_however_it_begins() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("sa").await;
    admin.service_account("default").await;
    admin.post(&format!("{DEFAULT}/pods"), &pod("p")).await.ok();
    let rules =
        |verbs: &[&str]| json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs}]);
    role(&admin, &["get"]).await;
    let path = format!("{RBAC}/namespaces/default/roles/r");
    admin.merge(&path, &json!({"rules": rules(&["get"])})).await.ok();
    let token = admin.token("sa", &json!({})).await;
    let account = cluster.by_token(Some(&token)).await;
    let exec = format!("{DEFAULT}/pods/p/exec?command=id");
    let refused = account.get(&exec).await;
    assert_eq!(refused.code, 403, "a WebSocket begins with a GET");
    assert!(refused.message().contains("cannot create resource \"pods/exec\""), "{refused:?}");
    admin.merge(&path, &json!({"rules": rules(&["get", "create"])})).await.ok();
    assert_eq!(account.get(&exec).await.code, 400, "the pod has no node, but it may");
}

#[tokio::test]
async fn acting_as_another_needs_the_right_for_each_part() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("sa").await;
    let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": ["impersonate"]});
    let role = json!({"metadata": {"name": "actor"},
        "rules": [rule("", "serviceaccounts"), rule("", "users")]});
    admin.post(&format!("{RBAC}/clusterroles"), &role).await.ok();
    let binding = json!({"metadata": {"name": "actor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "actor"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}]});
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.ok();
    let token = admin.token("sa", &json!({})).await;
    let account = cluster.by_token(Some(&token)).await;
    let ask = async |headers: &[(&str, &str)]| {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let mut request = http::Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(b"{}".to_vec()).expect("it is valid");
        account.client.request_text(request).await.map_err(|error| error.to_string())
    };
    let other = ("impersonate-user", "system:serviceaccount:kube-system:x");
    let answer = ask(&[other]).await.expect("it may act as service accounts");
    assert!(answer.contains("system:serviceaccounts:kube-system"), "{answer}");
    ask(&[("impersonate-user", "bob")]).await.expect("and as users");
    for more in
        [("impersonate-group", "g"), ("impersonate-uid", "u"), ("impersonate-extra-scopes", "all")]
    {
        ask(&[("impersonate-user", "bob"), more]).await.expect_err("a part it may not take");
    }
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

#[tokio::test]
async fn who_approves_a_certificate_must_be_allowed_to_for_its_signer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin.service_account("sa").await;
    let approvals = json!({"apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests/approval"], "verbs": ["patch"]});
    let role = json!({"metadata": {"name": "approver"}, "rules": [approvals]});
    admin.post(&format!("{RBAC}/clusterroles"), &role).await.ok();
    let binding = json!({"metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "approver"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}]});
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.ok();
    let request = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = request.serialize_request(&key).and_then(|one| one.pem()).expect("a request");
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let body = json!({"metadata": {"name": "r"}, "spec": {"request": encoded,
        "signerName": "example.com/fine", "usages": ["client auth"]}});
    admin.post(requests, &body).await.ok();
    let token = admin.token("sa", &json!({})).await;
    let account = cluster.by_token(Some(&token)).await;
    let path = format!("{requests}/r/approval");
    let approved = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "x", "message": "x"}]}});
    let refused = account.merge(&path, &approved).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    let signers = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
        "resourceNames": ["example.com/*"], "verbs": ["approve"]});
    let both = json!({"rules": [approvals, signers]});
    admin.merge(&format!("{RBAC}/clusterroles/approver"), &both).await.ok();
    account.merge(&path, &approved).await.ok();
}

#[tokio::test]
async fn a_restart_adds_what_default_roles_lack_and_leaves_the_rest_alone() {
    let mut cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let role = format!("{RBAC}/clusterroles/system:basic-user");
    let binding = format!("{RBAC}/clusterrolebindings/system:basic-user");
    let whole = admin.get(&role).await.ok();
    let own = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]});
    let mut changed = whole.clone();
    changed["rules"] = json!([own]);
    admin.put(&role, &changed).await.ok();
    let mut changed = admin.get(&binding).await.ok();
    let subjects = changed["subjects"].take();
    changed["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] =
        json!("false");
    changed["subjects"] = json!([]);
    admin.put(&binding, &changed).await.ok();
    assert_ne!(subjects, json!([]));
    let revisions = async |admin: &Caller| -> Vec<(Value, Value)> {
        let list = admin.get(&format!("{RBAC}/clusterroles")).await.ok();
        let items = list["items"].as_array().expect("a list").clone();
        let each = items.into_iter().filter(|item| item["metadata"]["name"] != "system:basic-user");
        each.map(|item| {
            (item["metadata"]["name"].clone(), item["metadata"]["resourceVersion"].clone())
        })
        .collect()
    };
    let before = revisions(&admin).await;
    assert!(before.len() > 10, "{before:?}");
    cluster.restart().await;
    let admin = cluster.admin().await;
    let mut rules = vec![own];
    rules.extend(whole["rules"].as_array().expect("rules").clone());
    assert_eq!(admin.get(&role).await.ok()["rules"], json!(rules));
    let kept = admin.get(&binding).await.ok();
    assert!(kept["subjects"].as_array().is_none_or(Vec::is_empty), "its owner looks after it");
    assert_eq!(revisions(&admin).await, before, "the others were not written");
}
