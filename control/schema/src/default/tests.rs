use serde_json::json;

use super::*;

fn defaulted(gvk: &Gvk, mut object: Value) -> Value {
    apply(gvk, &mut object);
    let once = object.clone();
    apply(gvk, &mut object);
    assert_eq!(object, once, "defaulting twice is defaulting once");
    object
}

#[test]
fn a_minimal_pod_gets_what_upstream_writes() {
    let pod = defaulted(
        &Gvk::new("", "v1", "Pod"),
        json!({"spec": {"containers": [{"name": "c", "image": "reg:5000/x",
            "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "s"}}]}}),
    );
    assert_eq!(
        pod,
        json!({"spec": {
            "containers": [{"name": "c", "image": "reg:5000/x", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                    "failureThreshold": 3}}],
            "volumes": [{"name": "e", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30, "securityContext": {},
            "schedulerName": "default-scheduler", "enableServiceLinks": true}})
    );
}

#[test]
fn a_deployments_strategy_and_limits_are_filled_and_its_template_keeps_its_requests() {
    let deployment = defaulted(
        &Gvk::new("apps", "v1", "Deployment"),
        json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers":
            [{"name": "c", "image": "x:1", "resources": {"limits": {"cpu": "1"}}}]}}}}),
    );
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(
        spec["strategy"]["rollingUpdate"],
        json!({"maxSurge": "25%", "maxUnavailable": "25%"})
    );
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["resources"], json!({"limits": {"cpu": "1"}}));
    assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());
    let recreate = defaulted(
        &Gvk::new("apps", "v1", "Deployment"),
        json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
    );
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(recreate["spec"]["replicas"], 0, "a set zero stays");
}

#[test]
fn services_get_target_ports_and_policies_by_type() {
    let gvk = Gvk::new("", "v1", "Service");
    let plain = defaulted(&gvk, json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(
        plain["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]})
    );
    let node_port = defaulted(
        &gvk,
        json!({"spec": {"type": "NodePort",
        "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": "http"}]}}),
    );
    assert_eq!(node_port["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(node_port["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    assert_eq!(node_port["spec"]["ports"][0]["targetPort"], "http");
    let external = defaulted(&gvk, json!({"spec": {"type": "ExternalName"}}));
    assert!(external["spec"].get("internalTrafficPolicy").is_none());
}

#[test]
fn jobs_tell_a_work_queue_from_a_single_completion() {
    let gvk = Gvk::new("batch", "v1", "Job");
    let single = defaulted(&gvk, json!({"spec": {}}));
    assert_eq!(
        (&single["spec"]["completions"], &single["spec"]["backoffLimit"]),
        (&json!(1), &json!(6))
    );
    let queue = defaulted(&gvk, json!({"spec": {"parallelism": 3}}));
    assert!(queue["spec"].get("completions").is_none());
}

#[test]
fn role_references_get_their_group() {
    let binding = defaulted(
        &Gvk::new("rbac.authorization.k8s.io", "v1", "RoleBinding"),
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
    );
    assert_eq!(binding["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(binding["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert!(binding["subjects"][1].get("apiGroup").is_none());
}
