//! What a kubelet is told at its start. Building a [`Config`] touches nothing outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

/// The port on which the API server reaches a kubelet.
pub const DEFAULT_PORT: u16 = 10250;
/// Pods a node takes when nothing else is said; the field's default.
pub const DEFAULT_MAX_PODS: u32 = 110;
/// How often the node's lease is renewed.
pub const DEFAULT_LEASE_PERIOD: Duration = Duration::from_secs(10);
/// How long after its last renewal a lease is void.
pub const DEFAULT_LEASE_DURATION: Duration = Duration::from_secs(40);

/// Where the certificate of the kubelet's own HTTPS server comes from.
#[derive(Clone, Debug)]
pub enum Serving {
    /// PEM certificate chain and PEM private key.
    Pem { cert: Vec<u8>, key: Vec<u8> },
    /// A CertificateSigningRequest (signer `kubernetes.io/kubelet-serving`); a self-signed
    /// certificate serves until it is signed. Kept under `<root_dir>/pki`.
    Bootstrap,
    /// A self-signed certificate.
    SelfSigned,
}

/// Who may use the kubelet's HTTPS server.
#[derive(Clone, Debug)]
pub struct Auth {
    /// PEM bundle: client certificates signed by it are believed (CN: user, O: groups).
    pub client_ca: Option<Vec<u8>>,
    /// Ask the API server about bearer tokens (TokenReview) and rights (SubjectAccessReview).
    /// Without it only members of `system:masters` are served.
    pub webhook: bool,
}

/// Everything that a kubelet needs to know; [`Config::new`] fills in the field's conventions.
#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of this node, the preferred family first.
    pub node_ips: Vec<IpAddr>,
    /// Talks to the API server as `system:node:<node_name>`. Not called when `standalone`.
    pub client: kube::Client,
    /// No API server at all: static pods only.
    pub standalone: bool,
    /// Unix socket of the CRI runtime.
    pub cri_socket: PathBuf,
    /// State of pods: volumes, managed files.
    pub root_dir: PathBuf,
    /// Container logs, one folder a pod.
    pub pod_log_dir: PathBuf,
    /// Symbolic links to the logs, as log collectors expect them; none when absent.
    pub container_log_dir: Option<PathBuf>,
    /// Manifests of pods that run without the API server.
    pub static_pod_dir: Option<PathBuf>,
    /// Name servers of pods with dnsPolicy ClusterFirst.
    pub cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster, without a final dot.
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// Where the HTTPS server listens.
    pub listen: SocketAddr,
    pub serving: Serving,
    pub auth: Auth,
    /// The cgroup below which `kubepods` is made, as a path in the hierarchy (`/`).
    pub cgroup_root: String,
    /// Where the cgroup file systems are mounted.
    pub cgroup_mount: PathBuf,
    /// Labels set on the Node at registration, besides the usual ones.
    pub node_labels: BTreeMap<String, String>,
    /// Taints set on the Node at its first registration.
    pub node_taints: Vec<Taint>,
    /// Value of spec.providerID, where a cloud gives one.
    pub provider_id: Option<String>,
    pub max_pods: u32,
    /// CPU (millicores) and memory (bytes) that pods can't have.
    pub reserved_cpu_millis: u64,
    pub reserved_memory: u64,
    pub lease_period: Duration,
    pub lease_duration: Duration,
    /// How often an unchanged node status is sent again.
    pub node_status_period: Duration,
    /// A log file is rotated when it is larger than this, in bytes.
    pub log_max_size: u64,
    /// Files of a container's log that are kept, the current one included.
    pub log_max_files: usize,
    /// Images whose names begin so are never removed, however full the disk: no registry has them.
    pub kept_images: Vec<String>,
}

impl Config {
    /// A kubelet of node `node_name` with the field's conventions for all else.
    pub fn new(node_name: impl Into<String>, client: kube::Client) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: Vec::new(),
            client,
            standalone: false,
            cri_socket: "/run/bowline/containerd.sock".into(),
            root_dir: "/var/lib/kubelet".into(),
            pod_log_dir: "/var/log/pods".into(),
            container_log_dir: Some("/var/log/containers".into()),
            static_pod_dir: None,
            cluster_dns: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT),
            serving: Serving::Bootstrap,
            auth: Auth { client_ca: None, webhook: true },
            cgroup_root: "/".into(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
            provider_id: None,
            max_pods: DEFAULT_MAX_PODS,
            reserved_cpu_millis: 0,
            reserved_memory: 0,
            lease_period: DEFAULT_LEASE_PERIOD,
            lease_duration: DEFAULT_LEASE_DURATION,
            node_status_period: Duration::from_secs(300),
            log_max_size: 10 << 20,
            log_max_files: 5,
            kept_images: Vec::new(),
        }
    }
}
