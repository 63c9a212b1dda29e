//! The built-in kinds, group by group, in the order of discovery.

use super::Flag::{All, Cluster, CreateOnly, Generation, StoredAs};
use super::{Flag, PLAIN, Row};
use crate::strategy::{self, Strategy};

type Names = &'static [&'static str];

const fn row(
    group_version: (&'static str, &'static str),
    kind: &'static str,
    plural: &'static str,
    short: Names,
    flags: &'static [Flag],
) -> Row {
    let (group, version) = group_version;
    Row { group, version, kind, plural, short, flags, subresources: &[], strategy: PLAIN }
}

impl Row {
    const fn with(self, subresources: Names) -> Self {
        Self { subresources, ..self }
    }

    const fn by(self, strategy: &'static dyn Strategy) -> Self {
        Self { strategy, ..self }
    }
}

const CORE: (&str, &str) = ("", "v1");
const APPS: (&str, &str) = ("apps", "v1");
const BATCH: (&str, &str) = ("batch", "v1");
const POLICY: (&str, &str) = ("policy", "v1");
const RBAC: (&str, &str) = ("rbac.authorization.k8s.io", "v1");
const DISCOVERY: (&str, &str) = ("discovery.k8s.io", "v1");
const COORDINATION: (&str, &str) = ("coordination.k8s.io", "v1");
const CERTIFICATES: (&str, &str) = ("certificates.k8s.io", "v1");
const EVENTS: (&str, &str) = ("events.k8s.io", "v1");
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");
const SCHEDULING: (&str, &str) = ("scheduling.k8s.io", "v1");
const STORAGE: (&str, &str) = ("storage.k8s.io", "v1");
const NODE: (&str, &str) = ("node.k8s.io", "v1");
const AUTHENTICATION: (&str, &str) = ("authentication.k8s.io", "v1");
const AUTHORIZATION: (&str, &str) = ("authorization.k8s.io", "v1");
const AUTOSCALING: (&str, &str) = ("autoscaling", "v2");
const AUTOSCALING_V1: (&str, &str) = ("autoscaling", "v1");

const STATUS: Names = &["status"];
const SCALE: Names = &["status", "scale"];

pub(super) const ROWS: &[Row] = &[
    row(CORE, "Binding", "bindings", &[], &[CreateOnly]),
    row(CORE, "ConfigMap", "configmaps", &["cm"], &[]),
    row(CORE, "Endpoints", "endpoints", &["ep"], &[]),
    row(CORE, "Event", "events", &["ev"], &[]),
    row(CORE, "LimitRange", "limitranges", &["limits"], &[]),
    row(CORE, "Namespace", "namespaces", &["ns"], &[Cluster])
        .with(&["status", "finalize"])
        .by(&strategy::Namespace),
    row(CORE, "Node", "nodes", &["no"], &[Cluster]).with(&["status", "proxy"]).by(&strategy::Node),
    row(CORE, "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], &[])
        .with(STATUS)
        .by(&strategy::Claim),
    row(CORE, "PersistentVolume", "persistentvolumes", &["pv"], &[Cluster])
        .with(STATUS)
        .by(&strategy::Volume),
    row(CORE, "Pod", "pods", &["po"], &[All, Generation])
        .with(&[
            "status",
            "log",
            "exec",
            "attach",
            "portforward",
            "proxy",
            "binding",
            "eviction",
            "ephemeralcontainers",
            "resize",
        ])
        .by(&strategy::Pod),
    row(CORE, "PodTemplate", "podtemplates", &[], &[Generation]),
    row(CORE, "ReplicationController", "replicationcontrollers", &["rc"], &[All, Generation])
        .with(SCALE),
    row(CORE, "ResourceQuota", "resourcequotas", &["quota"], &[]).with(STATUS),
    row(CORE, "Secret", "secrets", &[], &[]).by(&strategy::Secret),
    row(CORE, "ServiceAccount", "serviceaccounts", &["sa"], &[]).with(&["token"]),
    row(CORE, "Service", "services", &["svc"], &[All])
        .with(&["status", "proxy"])
        .by(&strategy::Service),
    row(APPS, "ControllerRevision", "controllerrevisions", &[], &[]),
    row(APPS, "DaemonSet", "daemonsets", &["ds"], &[All, Generation]).with(STATUS),
    row(APPS, "Deployment", "deployments", &["deploy"], &[All, Generation]).with(SCALE),
    row(APPS, "ReplicaSet", "replicasets", &["rs"], &[All, Generation]).with(SCALE),
    row(APPS, "StatefulSet", "statefulsets", &["sts"], &[All, Generation]).with(SCALE),
    row(AUTHENTICATION, "TokenReview", "tokenreviews", &[], &[Cluster, CreateOnly]),
    row(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", &[], &[Cluster, CreateOnly]),
    row(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", &[], &[CreateOnly]),
    row(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        &[],
        &[Cluster, CreateOnly],
    ),
    row(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        &[],
        &[Cluster, CreateOnly],
    ),
    row(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", &[], &[Cluster, CreateOnly]),
    row(AUTOSCALING, "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], &[All])
        .with(STATUS),
    row(
        AUTOSCALING_V1,
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        &["hpa"],
        &[All, StoredAs("autoscaling", "v2")],
    )
    .with(STATUS),
    row(BATCH, "CronJob", "cronjobs", &["cj"], &[All, Generation]).with(STATUS),
    row(BATCH, "Job", "jobs", &[], &[All, Generation]).with(STATUS).by(&strategy::Job),
    row(
        CERTIFICATES,
        "CertificateSigningRequest",
        "certificatesigningrequests",
        &["csr"],
        &[Cluster],
    )
    .with(&["approval", "status"])
    .by(&strategy::SigningRequest),
    row(COORDINATION, "Lease", "leases", &[], &[]),
    row(DISCOVERY, "EndpointSlice", "endpointslices", &[], &[Generation]),
    row(EVENTS, "Event", "events", &["ev"], &[StoredAs("", "v1")]),
    row(NETWORKING, "IngressClass", "ingressclasses", &[], &[Cluster, Generation]),
    row(NETWORKING, "Ingress", "ingresses", &["ing"], &[Generation]).with(STATUS),
    row(NETWORKING, "IPAddress", "ipaddresses", &["ip"], &[Cluster]),
    row(NETWORKING, "NetworkPolicy", "networkpolicies", &["netpol"], &[Generation]),
    row(NETWORKING, "ServiceCIDR", "servicecidrs", &[], &[Cluster]).with(STATUS),
    row(NODE, "RuntimeClass", "runtimeclasses", &[], &[Cluster]),
    row(POLICY, "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], &[Generation])
        .with(STATUS),
    row(RBAC, "ClusterRoleBinding", "clusterrolebindings", &[], &[Cluster]),
    row(RBAC, "ClusterRole", "clusterroles", &[], &[Cluster]),
    row(RBAC, "RoleBinding", "rolebindings", &[], &[]),
    row(RBAC, "Role", "roles", &[], &[]),
    row(SCHEDULING, "PriorityClass", "priorityclasses", &["pc"], &[Cluster, Generation]),
    row(STORAGE, "CSIDriver", "csidrivers", &[], &[Cluster]),
    row(STORAGE, "CSINode", "csinodes", &[], &[Cluster]),
    row(STORAGE, "CSIStorageCapacity", "csistoragecapacities", &[], &[]),
    row(STORAGE, "StorageClass", "storageclasses", &["sc"], &[Cluster]),
    row(STORAGE, "VolumeAttachment", "volumeattachments", &[], &[Cluster]).with(STATUS),
];
