//! The cluster roles and bindings that Kubernetes promises to have.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// All of them.
pub(super) fn all() -> Vec<Value> {
    let mut objects = general();
    objects.extend(user_facing());
    objects.extend(components());
    objects.extend(joining());
    objects
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn paths(paths: &[&str], verbs: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": verbs})
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn role(name: &str, rules: &[Value]) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
           "metadata": metadata(name), "rules": rules})
}

fn binding(name: &str, role: &str, subjects: &[(&str, &str)]) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(kind, name)| {
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name})
        })
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": metadata(name), "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
    })
}

/// A role that others take in by its label.
fn part(name: &str, of: &str, rules: &[Value]) -> Value {
    let mut role = role(name, rules);
    role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{of}")] =
        json!("true");
    role
}

/// A role that is the sum of others. It has `rules` from the start, in the order in which the
/// controllers, who keep them, write them.
fn sum(name: &str, of: Option<&str>, rules: &[Vec<Value>]) -> Value {
    let mut role = role(name, &rules.concat());
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    if let Some(of) = of {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{of}")] =
            json!("true");
    }
    role
}

fn general() -> Vec<Value> {
    let documents = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let keys = [
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ];
    vec![
        role("cluster-admin", &[rule(&["*"], &["*"], &["*"]), paths(&["*"], &["*"])]),
        binding("cluster-admin", "cluster-admin", &[("Group", "system:masters")]),
        role("system:discovery", &[paths(&documents, &["get"])]),
        binding("system:discovery", "system:discovery", &[("Group", "system:authenticated")]),
        role("system:public-info-viewer", &[paths(&health, &["get"])]),
        binding(
            "system:public-info-viewer",
            "system:public-info-viewer",
            &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
        ),
        role(
            "system:monitoring",
            &[paths(
                &[
                    "/healthz",
                    "/healthz/*",
                    "/livez",
                    "/livez/*",
                    "/metrics",
                    "/metrics/slis",
                    "/readyz",
                    "/readyz/*",
                ],
                &["get"],
            )],
        ),
        binding("system:monitoring", "system:monitoring", &[("Group", "system:monitoring")]),
        role(
            "system:basic-user",
            &[
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
        binding("system:basic-user", "system:basic-user", &[("Group", "system:authenticated")]),
        role("system:service-account-issuer-discovery", &[paths(&keys, &["get"])]),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            &[("Group", "system:serviceaccounts")],
        ),
        role(
            "system:auth-delegator",
            &[
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        role(
            "system:kubelet-api-admin",
            &[
                rule(&[""], &["nodes"], &["get", "list", "watch", "proxy"]),
                rule(
                    &[""],
                    &[
                        "nodes/log",
                        "nodes/metrics",
                        "nodes/proxy",
                        "nodes/stats",
                        "nodes/configz",
                        "nodes/healthz",
                        "nodes/pods",
                    ],
                    &["*"],
                ),
            ],
        ),
    ]
}

/// What `apps` holds that people make.
const WORKLOADS: &[&str] = &[
    "daemonsets",
    "deployments",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
    "statefulsets",
    "statefulsets/scale",
];
/// What people make of the core group.
const CORE: &[&str] = &[
    "configmaps",
    "endpoints",
    "events",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "replicationcontrollers/scale",
    "services",
    "serviceaccounts",
];
/// What people only look at.
const SEEN: &[&str] = &[
    "bindings",
    "limitranges",
    "namespaces",
    "namespaces/status",
    "persistentvolumeclaims/status",
    "pods/log",
    "pods/status",
    "replicationcontrollers/status",
    "resourcequotas",
    "resourcequotas/status",
    "services/status",
];
/// The same of `apps`.
const STATUS: &[&str] = &[
    "daemonsets/status",
    "deployments/status",
    "replicasets/status",
    "statefulsets/status",
    "controllerrevisions",
];
/// What people make of networking.
const NETWORK: &[&str] = &["ingresses", "networkpolicies"];
/// What gives access to what runs.
const STREAMS: &[&str] =
    &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"];

fn view() -> Vec<Value> {
    vec![
        rule(&[""], CORE, READ),
        rule(&[""], SEEN, READ),
        rule(&["apps"], WORKLOADS, READ),
        rule(&["apps"], STATUS, READ),
        rule(
            &["autoscaling"],
            &["horizontalpodautoscalers", "horizontalpodautoscalers/status"],
            READ,
        ),
        rule(&["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"], READ),
        rule(&["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
        rule(&["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
    ]
}

fn edit() -> Vec<Value> {
    vec![
        rule(&[""], STREAMS, READ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(&[""], CORE, WRITE),
        rule(&[""], STREAMS, WRITE),
        rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
        rule(&["apps"], WORKLOADS, WRITE),
        rule(&["apps"], &["deployments/rollback"], WRITE),
        rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
        rule(&["batch"], &["cronjobs", "jobs"], WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
        rule(&["networking.k8s.io"], NETWORK, WRITE),
        rule(&["coordination.k8s.io"], &["leases"], ALL),
    ]
}

fn admin() -> Vec<Value> {
    vec![
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
        rule(&["rbac.authorization.k8s.io"], &["rolebindings", "roles"], ALL),
    ]
}

fn user_facing() -> Vec<Value> {
    vec![
        sum("admin", None, &[edit(), view(), admin()]),
        sum("edit", Some("admin"), &[edit(), view()]),
        sum("view", Some("edit"), &[view()]),
        part("system:aggregate-to-admin", "admin", &admin()),
        part("system:aggregate-to-edit", "edit", &edit()),
        part("system:aggregate-to-view", "view", &view()),
    ]
}

fn components() -> Vec<Value> {
    let events = rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]);
    vec![
        role("system:node", &node_rules()),
        binding("system:node", "system:node", &[("Group", "system:nodes")]),
        role(
            "system:kube-scheduler",
            &[
                events.clone(),
                rule(
                    &[""],
                    &[
                        "nodes",
                        "pods",
                        "replicationcontrollers",
                        "services",
                        "namespaces",
                        "persistentvolumeclaims",
                        "persistentvolumes",
                    ],
                    READ,
                ),
                rule(&[""], &["pods"], &["delete"]),
                rule(&[""], &["bindings", "pods/binding"], &["create"]),
                rule(&[""], &["pods/status"], &["patch", "update"]),
                rule(&["apps"], &["replicasets", "statefulsets"], READ),
                rule(&["policy"], &["poddisruptionbudgets"], READ),
                rule(&["scheduling.k8s.io"], &["priorityclasses"], READ),
                rule(
                    &["storage.k8s.io"],
                    &[
                        "csidrivers",
                        "csinodes",
                        "csistoragecapacities",
                        "storageclasses",
                        "volumeattachments",
                    ],
                    READ,
                ),
                rule(&["coordination.k8s.io"], &["leases"], ALL),
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        binding(
            "system:kube-scheduler",
            "system:kube-scheduler",
            &[("User", "system:kube-scheduler")],
        ),
        // All controllers run as one user: it collects garbage and empties namespaces of any kind.
        role(
            "system:kube-controller-manager",
            &[
                events,
                rule(&["*"], &["*"], READ),
                rule(&["*"], &["*"], WRITE),
                rule(
                    &[""],
                    &["serviceaccounts/token", "pods/eviction", "pods/binding"],
                    &["create"],
                ),
                rule(&["certificates.k8s.io"], &["signers"], &["approve", "sign"]),
                // Rules of cluster roles that are sums of others.
                rule(&["rbac.authorization.k8s.io"], &["clusterroles"], &["escalate"]),
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        binding(
            "system:kube-controller-manager",
            "system:kube-controller-manager",
            &[("User", "system:kube-controller-manager")],
        ),
    ]
}

/// What every node may do alike. What depends on which node it is, the authorizer says
/// (`authz/node.rs`) and admission (`admission/node.rs`).
fn node_rules() -> Vec<Value> {
    vec![
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(
            &["authorization.k8s.io"],
            &["localsubjectaccessreviews", "subjectaccessreviews"],
            &["create"],
        ),
        rule(&[""], &["services"], READ),
        rule(&[""], &["nodes"], &["create"]),
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        rule(&[""], &["pods"], &["create", "delete"]),
        rule(&[""], &["pods/status"], &["patch", "update"]),
        rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
        rule(
            &["certificates.k8s.io"],
            &["certificatesigningrequests"],
            &["create", "get", "list", "watch"],
        ),
        rule(
            &["certificates.k8s.io"],
            &[
                "certificatesigningrequests/selfnodeclient",
                "certificatesigningrequests/selfnodeserver",
            ],
            &["create"],
        ),
        rule(&["coordination.k8s.io"], &["leases"], &["create"]),
        rule(&["storage.k8s.io"], &["volumeattachments", "csidrivers"], READ),
        rule(&["storage.k8s.io"], &["csinodes"], &["create"]),
        rule(&["node.k8s.io"], &["runtimeclasses"], READ),
    ]
}

/// What a node may do with a bootstrap token: ask for its certificate, which is approved by itself.
fn joining() -> Vec<Value> {
    let csr = |name: &str, sub: &str| {
        role(
            name,
            &[rule(
                &["certificates.k8s.io"],
                &[&format!("certificatesigningrequests/{sub}")],
                &["create"],
            )],
        )
    };
    let client = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    let own = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    vec![
        role(
            "system:node-bootstrapper",
            &[rule(
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["create", "get", "list", "watch"],
            )],
        ),
        binding(
            "bowline:node-bootstrapper",
            "system:node-bootstrapper",
            &[("Group", "system:bootstrappers")],
        ),
        csr(client, "nodeclient"),
        binding("bowline:nodes-get-certificates", client, &[("Group", "system:bootstrappers")]),
        csr(own, "selfnodeclient"),
        binding("bowline:nodes-renew-certificates", own, &[("Group", "system:nodes")]),
    ]
}
