//! What the apiserver is told by its caller: addresses, keys, ranges and limits. Building it binds
//! nothing.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

/// Everything that [`crate::run`] needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the HTTPS socket listens; port 0 takes a free one (see [`crate::Server::local_addr`]).
    pub listen: SocketAddr,
    /// The address under which clients reach this server: it becomes the endpoint of the Service
    /// `default/kubernetes`.
    pub advertise_address: IpAddr,
    /// Holds `state.db` (and SQLite's `-wal` and `-shm` beside it).
    pub data_dir: PathBuf,
    /// Certificates and keys.
    pub tls: Tls,
    /// How service account tokens are signed and checked.
    pub service_accounts: ServiceAccounts,
    /// Ranges of service addresses; the first one's family is the default family. At most one per
    /// family.
    pub service_cidrs: Vec<IpNetwork>,
    /// Node ports that may be allocated.
    pub node_ports: RangeInclusive<u16>,
    /// The cluster's DNS domain, `cluster.local` by convention.
    pub cluster_domain: String,
    /// Bounds on requests.
    pub limits: Limits,
}

/// PEM texts: the caller owns the files.
#[derive(Clone)]
pub struct Tls {
    /// The server's certificate chain, leaf first.
    pub cert_pem: String,
    /// The server's private key.
    pub key_pem: String,
    /// Client certificates are trusted if they chain to one of these. It is also what `/cacerts`
    /// answers and what checks the kubelets' serving certificates.
    pub ca_pem: String,
    /// The certificate by which the server presents itself to kubelets.
    pub kubelet_client_cert_pem: String,
    /// The private key of `kubelet_client_cert_pem`.
    pub kubelet_client_key_pem: String,
}

/// Service account tokens are ES256 (ECDSA on P-256).
#[derive(Clone)]
pub struct ServiceAccounts {
    /// The `iss` claim, by convention `https://kubernetes.default.svc.<cluster domain>`. It is also
    /// the default audience.
    pub issuer: String,
    /// A PKCS#8 PEM private key on P-256.
    pub signing_key_pem: String,
    /// SPKI PEM public keys, the signing key's own included: tokens of former keys stay valid for
    /// as long as their key is listed.
    pub public_keys_pem: Vec<String>,
}

/// Bounds on what one client, or all together, may ask of the server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body; a larger one is answered 413.
    pub max_body_bytes: usize,
    /// Requests served at once, watches and upgraded streams apart; more are answered 429.
    pub max_requests_in_flight: usize,
    /// Open connections; more wait in the listen queue.
    pub max_connections: usize,
    /// Time for a client to send a request's headers, and for the TLS handshake.
    pub header_timeout: Duration,
    /// Time for a client to send a request's body.
    pub body_timeout: Duration,
    /// How long open requests may go on after shutdown was asked for.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 1_572_864,
            max_requests_in_flight: 800,
            max_connections: 8192,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(2),
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls { keys withheld }")
    }
}

impl std::fmt::Debug for ServiceAccounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServiceAccounts {{ issuer: {:?}, keys withheld }}", self.issuer)
    }
}
