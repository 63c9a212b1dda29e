use serde_json::json;

use super::*;

/// What is wrong, in order of appearance, as `path: message`.
fn wrong(gvk: &Gvk, mut object: Value) -> Vec<String> {
    crate::decode::normalize(gvk, &mut object).expect("right types");
    crate::default::apply(gvk, &mut object);
    create(gvk, &object).iter().map(ToString::to_string).collect()
}

fn wrong_update(gvk: &Gvk, old: Value, change: impl Fn(&mut Value)) -> Vec<String> {
    let mut old = old;
    crate::default::apply(gvk, &mut old);
    let mut new = old.clone();
    change(&mut new);
    assert!(
        update(gvk, &old, &old).is_empty(),
        "no change, no error: {:?}",
        update(gvk, &old, &old)
    );
    update(gvk, &new, &old).iter().map(ToString::to_string).collect()
}

fn pod_gvk() -> Gvk {
    Gvk::new("", "v1", "Pod")
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec})
}

fn deployment_gvk() -> Gvk {
    Gvk::new("apps", "v1", "Deployment")
}

fn deployment() -> Value {
    json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[test]
fn good_objects_have_nothing_wrong() {
    let none: Vec<String> = Vec::new();
    assert_eq!(wrong(&deployment_gvk(), deployment()), none);
    let full = pod(json!({"containers": [{"name": "c", "image": "i",
        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}}],
        "ports": [{"containerPort": 80, "name": "http"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
        "readinessProbe": {"httpGet": {"port": "http"}}}],
        "initContainers": [{"name": "i", "image": "i"},
            {"name": "s", "image": "i", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["x"]}}}],
        "volumes": [{"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
        "tolerations": [{"operator": "Exists"}, {"key": "node.kubernetes.io/not-ready",
            "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}));
    assert_eq!(wrong(&pod_gvk(), full), none);
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(wrong(&Gvk::new("", "v1", "Service"), service), none);
}

#[test]
fn names_labels_and_owners_are_checked() {
    let object = json!({"metadata": {"name": "A_b", "labels": {"-x": "y z"}, "annotations": {"a/b/c": ""},
        "finalizers": ["x y"], "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o"}]}});
    let errors = wrong(&Gvk::new("", "v1", "ConfigMap"), object);
    let fields: Vec<&str> = errors.iter().map(|e| e.split(": ").next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "metadata.labels",
            "metadata.labels",
            "metadata.annotations",
            "metadata.finalizers[0]",
            "metadata.ownerReferences[0].uid"
        ],
        "{errors:#?}"
    );
    assert_eq!(
        wrong(&Gvk::new("", "v1", "ConfigMap"), json!({"metadata": {}})),
        ["metadata.name: Required value: name or generateName is required"]
    );
    let role = Gvk::new("rbac.authorization.k8s.io", "v1", "ClusterRole");
    assert!(wrong(&role, json!({"metadata": {"name": "system:Node"}})).is_empty());
}

#[test]
fn pods_are_checked_to_their_depths() {
    for (spec, expected) in [
        (json!({}), vec!["spec.containers: Required value"]),
        (
            json!({"containers": [{"name": "A", "image": "i"}, {"name": "b"}]}),
            vec![
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist \
                 of lower case alphanumeric characters or '-', and must start and end with an \
                 alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.containers[1].image: Required value",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}),
            vec!["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x"}],
                "imagePullPolicy": "Sometimes", "ports": [{"containerPort": 70000}]}], "restartPolicy": "No"}),
            vec![
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \
                 \"Always\", \"IfNotPresent\", \"Never\"",
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and \
                 65535, inclusive",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
                "spec.restartPolicy: Unsupported value: \"No\": supported values: \"Always\", \
                 \"OnFailure\", \"Never\"",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "resources":
                {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
            vec![
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or \
                 equal to cpu limit of 1",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i"}], "volumes": [
                {"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}, {"name": "v", "secret": {}}]}),
            vec![
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].secret.secretName: Required value",
                "spec.volumes[1].name: Duplicate value: \"v\"",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i"}], "initContainers": [
                {"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
            vec![
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers \
                 without restartPolicy=Always",
            ],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i", "livenessProbe": {}}],
                "tolerations": [{"key": "a", "operator": "Maybe"}]}),
            vec![
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                "spec.tolerations[0].operator: Unsupported value: \"Maybe\": supported values: \"Equal\", \
                 \"Exists\"",
            ],
        ),
    ] {
        assert_eq!(wrong(&pod_gvk(), pod(spec.clone())), expected, "{spec}");
    }
}

#[test]
fn a_pods_spec_changes_only_where_it_may() {
    let old = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
    let change = |f: fn(&mut Value)| wrong_update(&pod_gvk(), old.clone(), f);
    assert!(change(|p| p["spec"]["containers"][0]["image"] = "j".into()).is_empty());
    assert!(change(|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}])).is_empty());
    assert!(change(|p| p["metadata"]["labels"] = json!({"a": "b"})).is_empty());
    let errors = change(|p| p["spec"]["containers"][0]["command"] = json!(["x"]));
    assert!(
        errors[0].starts_with("spec: Forbidden: pod updates may not change fields"),
        "{errors:?}"
    );
    assert!(!change(|p| p["spec"]["nodeName"] = "n".into()).is_empty());
    assert_eq!(
        change(|p| p["metadata"]["name"] = "q".into()),
        ["metadata.name: Invalid value: \"q\": field is immutable"]
    );
}

#[test]
fn workloads_need_a_selector_that_fits() {
    let mut object = deployment();
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "y"});
    object["spec"]["replicas"] = (-1).into();
    assert_eq!(
        wrong(&deployment_gvk(), object),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"y\"}: `selector` does not match \
             template `labels`"
        ]
    );
    let mut object = deployment();
    object["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(wrong(&deployment_gvk(), object), ["spec.selector: Required value"]);
    let errors = wrong_update(&deployment_gvk(), deployment(), |d| {
        d["spec"]["selector"]["matchLabels"]["b"] = "c".into();
        d["spec"]["template"]["metadata"]["labels"]["b"] = "c".into();
    });
    assert_eq!(
        errors,
        [
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\",\"b\":\"c\"}}: field is immutable"
        ]
    );
    let mut object = deployment();
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    assert_eq!(wrong(&deployment_gvk(), object).len(), 1);
}

#[test]
fn services_are_checked() {
    let gvk = Gvk::new("", "v1", "Service");
    let service = |spec: Value| json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec});
    for (spec, expected) in [
        (json!({}), vec!["spec.ports: Required value"]),
        (json!({"clusterIP": "None"}), vec![]),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            vec!["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            json!({"ports": [{"port": 0, "nodePort": 30000}], "type": "ClusterIP"}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ],
        ),
        (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
        (
            json!({"ports": [{"port": 80}], "type": "Magic", "sessionAffinity": "x"}),
            vec![
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \
                 \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                "spec.sessionAffinity: Unsupported value: \"x\": supported values: \"ClientIP\", \"None\"",
            ],
        ),
    ] {
        assert_eq!(wrong(&gvk, service(spec.clone())), expected, "{spec}");
    }
    let old = service(
        json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}),
    );
    let errors = wrong_update(&gvk, old, |s| s["spec"]["clusterIPs"][0] = "10.96.0.10".into());
    assert!(errors.iter().any(|e| e.contains("may not change once set")), "{errors:?}");
}

#[test]
fn immutable_data_and_references_stay() {
    let secret = json!({"metadata": {"name": "s"}, "type": "Opaque", "immutable": true, "data": {"a": "YQ=="}});
    let gvk = Gvk::new("", "v1", "Secret");
    assert_eq!(
        wrong_update(&gvk, secret.clone(), |s| s["data"]["a"] = "Yg==".into()),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        wrong_update(&gvk, secret, |s| s["type"] = "x".into()),
        ["type: Invalid value: \"x\": field is immutable"]
    );
    let binding = json!({"metadata": {"name": "b"}, "roleRef":
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}]});
    let gvk = Gvk::new("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding");
    let errors = wrong_update(&gvk, binding, |b| b["roleRef"]["name"] = "q".into());
    assert!(errors[0].ends_with("cannot change roleRef"), "{errors:?}");
}

#[test]
fn a_dying_object_takes_no_new_finalizer() {
    let old = json!({"metadata": {"name": "c", "deletionTimestamp": "2024-05-01T12:00:00Z",
        "finalizers": ["a/b"]}});
    let gvk = Gvk::new("", "v1", "ConfigMap");
    assert!(
        wrong_update(&gvk, old.clone(), |c| c["metadata"]["finalizers"] = json!([])).is_empty()
    );
    let errors = wrong_update(&gvk, old, |c| c["metadata"]["finalizers"] = json!(["a/b", "c/d"]));
    assert!(errors[0].contains("no new finalizers can be added"), "{errors:?}");
}

#[test]
fn smaller_kinds_are_checked() {
    for (group, kind, object, expected) in [
        (
            "batch",
            "Job",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template":
            {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
            "spec.template.spec.restartPolicy",
        ),
        (
            "batch",
            "CronJob",
            json!({"spec": {"schedule": "hourly", "jobTemplate": {"spec": {"template":
            {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}}),
            "spec.schedule",
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            "spec",
        ),
        (
            "autoscaling",
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 0,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
            "spec.maxReplicas",
        ),
        (
            "",
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}}),
            "spec.resources.requests[storage]",
        ),
        (
            "rbac.authorization.k8s.io",
            "Role",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"],
            "verbs": []}]}),
            "rules[0].verbs",
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [],
            "endpoints": [{"addresses": ["127.0.0.1"]}]}),
            "endpoints[0].addresses[0]",
        ),
        (
            "",
            "Node",
            json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
            "spec.taints[0].effect",
        ),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds",
        ),
        (
            "",
            "Secret",
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            "data[tls.key]",
        ),
        ("", "ConfigMap", json!({"data": {"a/b": "x"}}), "data[a/b]"),
        ("scheduling.k8s.io", "PriorityClass", json!({"value": 2_000_000_000}), "value"),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "x", "namespace": "d"});
        let version = if kind == "HorizontalPodAutoscaler" { "v2" } else { "v1" };
        let errors = wrong(&Gvk::new(group, version, kind), object);
        assert_eq!(errors.len(), 1, "{kind}: {errors:?}");
        assert!(errors[0].starts_with(&format!("{expected}: ")), "{kind}: {errors:?}");
    }
}
