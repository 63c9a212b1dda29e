//! Well-known names of the Kubernetes API (labels, annotations, taints, namespaces) and of Bowline.

/// Namespace of the add-ons and of everything that the system itself owns.
pub const SYSTEM_NAMESPACE: &str = "kube-system";
/// ConfigMap in [`SYSTEM_NAMESPACE`] that tells add-ons the apiserver's real address: the proxy
/// can't use the service address that it itself provides.
pub const CLUSTER_CONFIG_MAP: &str = "bowline";

/// Field manager, user agent and component name prefix of all our writes.
pub const MANAGER: &str = "bowline";

pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
pub const LABEL_OS: &str = "kubernetes.io/os";
pub const LABEL_ARCH: &str = "kubernetes.io/arch";
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
pub const LABEL_REGION: &str = "topology.kubernetes.io/region";
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
pub const LABEL_HEADLESS_SERVICE: &str = "service.kubernetes.io/headless";
pub const LABEL_ENDPOINT_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub const TAINT_NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
pub const FINALIZER_ORPHAN: &str = "orphan";
