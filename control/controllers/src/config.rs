//! What the controllers are told from outside: plain data, checked by whoever builds it.

use std::time::Duration;

use ipnetwork::IpNetwork;

/// How long a node may be silent (lease and status alike) before it counts as lost.
pub(crate) const DEFAULT_NODE_MONITOR_GRACE: Duration = Duration::from_secs(40);
/// Life of the certificates that the signer hands out.
pub(crate) const DEFAULT_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Ended pods kept for reading, cluster-wide, before the oldest are collected.
pub(crate) const DEFAULT_TERMINATED_PODS: usize = 500;

/// A certificate authority as PEM: the signer signs with it, the root CA publisher hands it out.
#[derive(Clone)]
pub struct CertificateAuthority {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Settings of [`crate::run`].
#[derive(Clone)]
pub struct Config {
    /// Talks to the apiserver as `system:kube-controller-manager`.
    pub client: kube::Client,
    /// Pod ranges, at most one of each family. Empty: nodes get no pod range from us.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Prefix length of a node's piece of an IPv4 range.
    pub node_cidr_mask_v4: u8,
    /// Prefix length of a node's piece of an IPv6 range.
    pub node_cidr_mask_v6: u8,
    /// Without it certificate requests stay pending and `kube-root-ca.crt` is not published.
    pub ca: Option<CertificateAuthority>,
    /// Silence after which a node's Ready condition becomes Unknown.
    pub node_monitor_grace: Duration,
    /// How long a signed certificate is valid, at most.
    pub certificate_lifetime: Duration,
    /// Ended pods that are kept before the oldest are deleted.
    pub terminated_pods: usize,
}

impl Config {
    /// The defaults of every setting, and no certificate authority and no pod range.
    pub fn new(client: kube::Client) -> Self {
        Self {
            client,
            cluster_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            ca: None,
            node_monitor_grace: DEFAULT_NODE_MONITOR_GRACE,
            certificate_lifetime: DEFAULT_CERTIFICATE_LIFETIME,
            terminated_pods: DEFAULT_TERMINATED_PODS,
        }
    }
}
