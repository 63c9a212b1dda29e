//! Bad input gets a clear answer and changes nothing.

use serde_json::json;

use crate::kit::{Cluster, DEFAULT, config_map};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn bad_input_is_refused_with_the_right_code_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let maps = format!("{DEFAULT}/configmaps");
    let stored = admin.post(&maps, &config_map("kept")).await.ok();
    let before = admin.revision().await;
    let json = "application/json";
    let yaml = "application/yaml";
    let big = format!(
        "{{\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(1_600_000)
    );
    let wrong_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let wrong_type = json!({"metadata": {"name": "a"}, "data": {"a": 5}});
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "kube-system"}});
    let cases: Vec<(u16, &str, &str, Vec<u8>, &str)> = vec![
        (400, &maps, json, b"{\"metadata\": {".to_vec(), "a document that ends too early"),
        (400, &maps, json, b"[]".to_vec(), "no object"),
        (400, &maps, json, Vec::new(), "nothing"),
        (400, &maps, yaml, b"metadata: [a\n".to_vec(), "YAML that ends too early"),
        (400, &maps, json, wrong_kind.to_string().into(), "another kind"),
        (400, &maps, json, wrong_type.to_string().into(), "a number for a string"),
        (400, &maps, json, elsewhere.to_string().into(), "another namespace than the path's"),
        (
            400,
            &maps,
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\x0a\x7f".to_vec(),
            "protobuf that ends too early",
        ),
        (413, &maps, json, big.into_bytes(), "an object over the bound"),
        (415, &maps, "text/plain", b"x".to_vec(), "a form that is not served"),
        (404, "/api/v1/namespaces/default/unicorns", json, b"{}".to_vec(), "no such kind"),
        (404, "/apis/example.com/v1/things", json, b"{}".to_vec(), "no such group"),
        (
            404,
            "/api/v1/namespaces/absent/configmaps",
            json,
            config_map("a").to_string().into(),
            "no such namespace",
        ),
        (409, &maps, json, config_map("kept").to_string().into(), "a name that is taken"),
    ];
    for (code, path, kind, body, what) in cases {
        let answer = admin.raw("POST", path, kind, body).await;
        assert_eq!(answer.code, code, "{what}: {}", answer.body);
        assert_eq!(answer.body["kind"], "Status", "{what}");
        assert_eq!(answer.body["code"], code, "{what}");
        assert!(!answer.message().is_empty(), "{what}: the message says what is wrong");
    }
    assert_eq!(admin.revision().await, before, "nothing was written");
    let now = admin.get(&format!("{maps}/kept")).await.ok();
    assert_eq!(now, stored, "the object is as it was");
}

#[tokio::test]
async fn an_invalid_object_is_a_422_that_names_each_field() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": -1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "other"}},
                "spec": {"containers": [{"image": "x"}]}}},
    });
    let answer = admin.post(DEPLOYMENTS, &deployment).await;
    assert_eq!((answer.code, &answer.body["reason"]), (422, &json!("Invalid")), "{}", answer.body);
    let causes = answer.body["details"]["causes"].as_array().expect("causes");
    let fields: Vec<&str> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
    for field in ["spec.replicas", "spec.template.spec.containers[0].name"] {
        assert!(fields.contains(&field), "{field} is named: {fields:?}");
    }
    assert!(answer.message().starts_with("Deployment.apps \"web\" is invalid: "));
}

#[tokio::test]
async fn unknown_fields_are_an_error_a_warning_or_nothing_as_the_client_wishes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let body = |name: &str| json!({"metadata": {"name": name}, "dta": {}});
    let maps = format!("{DEFAULT}/configmaps");
    let strict = admin.post(&format!("{maps}?fieldValidation=Strict"), &body("a")).await;
    assert_eq!(strict.code, 400);
    assert!(strict.message().contains("unknown field \"dta\""), "{}", strict.message());
    assert_eq!(admin.get(&format!("{maps}/a")).await.code, 404, "nothing was stored");
    let lenient = admin.post(&format!("{maps}?fieldValidation=Warn"), &body("b")).await.ok();
    assert_eq!(lenient.get("dta"), None, "the field is dropped");
    let twice = b"{\"metadata\":{\"name\":\"c\"},\"data\":{\"a\":\"1\",\"a\":\"2\"}}".to_vec();
    let path = format!("{maps}?fieldValidation=Strict");
    let answer = admin.raw("POST", &path, "application/json", twice).await;
    assert_eq!(answer.code, 400, "a field that is given twice: {}", answer.body);
}

#[tokio::test]
async fn a_stale_revision_is_a_conflict() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    let maps = format!("{DEFAULT}/configmaps");
    let first = admin.post(&maps, &config_map("a")).await.ok();
    let path = format!("{maps}/a");
    admin.merge(&path, &json!({"data": {"a": "c"}})).await.ok();
    let mut stale = first;
    stale["data"]["a"] = json!("d");
    let answer = admin.put(&path, &stale).await;
    assert_eq!((answer.code, &answer.body["reason"]), (409, &json!("Conflict")));
    assert!(answer.message().contains("the object has been modified"), "{}", answer.message());
    assert_eq!(admin.get(&path).await.ok()["data"]["a"], "c", "the newer value stays");
}

#[tokio::test]
async fn nobody_gets_in_by_a_wrong_token_and_anonymous_sees_little() {
    let cluster = Cluster::start().await;
    for token in ["x", "a.b.c", "abcdef.0123456789abcdef", "eyJhbGciOiJub25lIn0.e30."] {
        let answer = cluster.by_token(Some(token)).await.get("/api/v1/namespaces").await;
        assert_eq!(answer.code, 401, "the token {token:?}");
        assert_eq!(answer.body["reason"], "Unauthorized");
    }
    let anonymous = cluster.by_token(None).await;
    let answer = anonymous.get("/api/v1/namespaces").await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "namespaces is forbidden: User \"system:anonymous\" cannot list resource \"namespaces\" in \
         API group \"\" at the cluster scope"
    );
    for path in ["/version", "/healthz", "/livez", "/readyz", "/cacerts"] {
        assert_eq!(anonymous.get(path).await.code, 200, "{path} is open");
    }
    let answer = anonymous.get("/metrics").await;
    assert_eq!(
        answer.message(),
        "forbidden: User \"system:anonymous\" cannot get path \"/metrics\""
    );
}

#[tokio::test]
async fn a_selector_that_cannot_be_read_or_met_is_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    for query in [
        "labelSelector=a%20in%20b",
        "fieldSelector=spec.nonsense%3Da",
        "continue=zz",
        "resourceVersion=x",
        "resourceVersionMatch=Exact",
    ] {
        let answer = admin.get(&format!("{DEFAULT}/pods?{query}")).await;
        assert_eq!(answer.code, 400, "{query}: {}", answer.body);
    }
    assert_eq!(admin.delete(&format!("{DEFAULT}/pods/absent")).await.code, 404);
    assert_eq!(admin.put("/api/v1/namespaces", &json!({})).await.code, 405);
}
