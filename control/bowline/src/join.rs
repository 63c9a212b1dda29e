//! How an agent gets its identity: it checks the server against the token, asks for a client
//! certificate by a `CertificateSigningRequest`, and keeps what it got as its kubeconfig.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config};
use rcgen::{CertificateParams, DnType, KeyPair};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::durable;
use crate::kubeconfig;
use crate::pki::{self, Pair};
use crate::token::JoinToken;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Where a server listens that was not told otherwise.
const DEFAULT_PORT: u16 = 6443;
const SIGNING_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// A certificate that ends sooner than this is replaced at the agent's start.
const RENEW_BEFORE: time::Duration = time::Duration::days(90);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{0:?} is no server URL; give one like https://192.168.1.10:6443")]
    ServerUrl(String),
    #[error("can't reach the server at {server}: {}{}", reason(error), hint(server, error))]
    Reach { server: String, error: Box<kube::Error> },
    #[error(
        "the server at {server} does not know this token; run `bowline token` on the server for \
         the one that is valid"
    )]
    Token { server: String },
    #[error(
        "the server at {server} shows another CA than the token names; either the token is of \
         another cluster, or somebody is between this node and the server"
    )]
    ForeignServer { server: String },
    #[error("the server refused to sign this node's certificate: {0}")]
    Denied(String),
    #[error(
        "the server did not sign this node's certificate in {SIGNING_DEADLINE:?}; is its controller running?"
    )]
    Unsigned,
    #[error("can't make a key or a request")]
    Request(#[from] rcgen::Error),
    #[error("can't write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// What went wrong at the bottom of it: the layers above only say in turn that a request failed.
fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("it answers {} {}", status.code, status.message);
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    // Without the numbers, which differ at each try.
    let text = last.to_string();
    match text.split_once(": verification time") {
        Some((certificate, _)) => certificate.to_owned(),
        None => text,
    }
}

/// What to look at, for the causes that can be told from outside.
fn hint(server: &str, error: &kube::Error) -> String {
    let reason = reason(error).to_ascii_lowercase();
    if reason.contains("not valid yet") || reason.contains("expired") {
        return " by this machine's clock; see `timedatectl` on both machines".to_owned();
    }
    let refused = reason.contains("refused") || reason.contains("no route");
    if refused && !server.trim_end_matches('/').ends_with(&format!(":{DEFAULT_PORT}")) {
        return format!(" (the server's port is {DEFAULT_PORT} unless it was told another)");
    }
    String::new()
}

/// The files of a node's identity.
pub struct Identity {
    pub kubeconfig: PathBuf,
    pub ca_pem: String,
}

/// Where a node's identity lies in a folder.
struct Files {
    kubeconfig: PathBuf,
    ca: PathBuf,
    cert: PathBuf,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let file = |name| folder.join(name);
        Self {
            kubeconfig: file("kubelet.kubeconfig"),
            ca: file("ca.crt"),
            cert: file("kubelet-client.crt"),
        }
    }
}

/// The identity that `folder` holds, made to name this server; none when it holds none, or one of
/// another cluster than the token's, or one that ends soon. Who has joined needs no token any more.
pub fn kept(
    server: &str,
    token: Option<&JoinToken>,
    folder: &Path,
) -> Result<Option<Identity>, JoinError> {
    let Files { kubeconfig, ca, cert } = Files::of(folder);
    let read = |path: &Path| fs::read_to_string(path).ok();
    let (Some(ca_pem), Some(cert_pem), Some(config)) = (read(&ca), read(&cert), read(&kubeconfig))
    else {
        return Ok(None);
    };
    let of_cluster = token.is_none_or(|token| token.ca_hash.is_none_or_matches(&ca_pem));
    let Some(wanted) = kubeconfig::with_server(&config, server) else { return Ok(None) };
    if !of_cluster || !lasts(&cert_pem) {
        return Ok(None);
    }
    if wanted != config {
        durable::write(&kubeconfig, wanted.as_bytes(), durable::SECRET)
            .map_err(|source| JoinError::Write { path: kubeconfig.clone(), source })?;
    }
    Ok(Some(Identity { kubeconfig, ca_pem }))
}

/// Joins the cluster: `folder` then holds a kubeconfig and the CA of the cluster.
pub async fn join(
    server: &str,
    token: &JoinToken,
    node_name: &str,
    folder: &Path,
) -> Result<Identity, JoinError> {
    let Files { kubeconfig, ca: ca_path, cert: cert_path } = Files::of(folder);
    let ca_pem = fetch_ca(server, token).await?;
    let pair = request_certificate(server, &ca_pem, token, node_name).await?;
    let config = kubeconfig::with_certificate(server, &ca_pem, "kubelet", &pair);
    let write = |path: &Path, text: &str, mode| {
        durable::write(path, text.as_bytes(), mode)
            .map_err(|source| JoinError::Write { path: path.to_owned(), source })
    };
    write(&ca_path, &ca_pem, durable::PUBLIC)?;
    write(&kubeconfig, &config, durable::SECRET)?;
    // Last: it says that the others are whole.
    write(&cert_path, &pair.cert, durable::PUBLIC)?;
    info!(server, node = node_name, "joined the cluster");
    Ok(Identity { kubeconfig, ca_pem })
}

trait PinnedHash {
    fn is_none_or_matches(&self, ca_pem: &str) -> bool;
}

impl PinnedHash for Option<String> {
    fn is_none_or_matches(&self, ca_pem: &str) -> bool {
        self.is_none() || *self == pki::ca_hash(ca_pem)
    }
}

fn lasts(cert_pem: &str) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else {
        return false;
    };
    let Ok(cert) = pem.parse_x509() else { return false };
    let end = cert.validity().not_after.timestamp();
    end > (OffsetDateTime::now_utc() + RENEW_BEFORE).unix_timestamp()
}

/// Checks and reads the URL of a server.
///
/// # Errors
/// When it is no `https` URL of a host alone.
pub fn server_url(server: &str) -> Result<http::Uri, JoinError> {
    let wrong = || JoinError::ServerUrl(server.to_owned());
    let url: http::Uri = server.parse().map_err(|_| wrong())?;
    let whole = url.scheme_str() == Some("https") && url.host().is_some_and(|h| !h.is_empty());
    if whole && matches!(url.path(), "" | "/") { Ok(url) } else { Err(wrong()) }
}

fn config(server: &str) -> Result<Config, JoinError> {
    let mut config = Config::new(server_url(server)?);
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(config)
}

async fn fetch_ca(server: &str, token: &JoinToken) -> Result<String, JoinError> {
    let failed = |error| JoinError::Reach { server: server.to_owned(), error: Box::new(error) };
    let mut config = config(server)?;
    // Nothing is trusted yet: what comes back is believed only if its hash is the token's.
    config.accept_invalid_certs = true;
    let client = Client::try_from(config).map_err(failed)?;
    let request = http::Request::get("/cacerts")
        .body(Vec::new())
        .map_err(|error| failed(kube::Error::HttpError(error)))?;
    let ca_pem = client.request_text(request).await.map_err(failed)?;
    match &token.ca_hash {
        None => warn!(server, "the token names no CA: trusting the server at first sight"),
        Some(_) if token.ca_hash.is_none_or_matches(&ca_pem) => {}
        Some(_) => return Err(JoinError::ForeignServer { server: server.to_owned() }),
    }
    Ok(ca_pem)
}

async fn request_certificate(
    server: &str,
    ca_pem: &str,
    token: &JoinToken,
    node_name: &str,
) -> Result<Pair, JoinError> {
    let failed = |error| JoinError::Reach { server: server.to_owned(), error: Box::new(error) };
    let mut config = config(server)?;
    let (_, ca) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes())
        .map_err(|_| JoinError::ForeignServer { server: server.to_owned() })?;
    config.root_cert = Some(vec![ca.contents]);
    config.auth_info = AuthInfo { token: Some(token.bearer().into()), ..AuthInfo::default() };
    let client = Client::try_from(config).map_err(failed)?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node_name}"));
    let request = params.serialize_request(&key)?.pem()?;
    let api: Api<CertificateSigningRequest> = Api::all(client);
    let csr = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(format!("node-csr-{node_name}-")),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let created = api.create(&PostParams::default(), &csr).await.map_err(|error| match &error {
        kube::Error::Api(status) if status.code == 401 => {
            JoinError::Token { server: server.to_owned() }
        }
        _ => failed(error),
    })?;
    let name = created.metadata.name.unwrap_or_default();
    let cert = tokio::time::timeout(SIGNING_DEADLINE, signed(&api, &name))
        .await
        .map_err(|_| JoinError::Unsigned)?
        .map_err(|refusal| match refusal {
            Refusal::Denied(message) => JoinError::Denied(message),
            Refusal::Api(source) => failed(*source),
        })?;
    Ok(Pair { cert, key: key.serialize_pem() })
}

enum Refusal {
    Denied(String),
    Api(Box<kube::Error>),
}

async fn signed(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String, Refusal> {
    loop {
        let csr = api.get(name).await.map_err(|error| Refusal::Api(Box::new(error)))?;
        let status = csr.status.unwrap_or_default();
        if let Some(ByteString(cert)) = status.certificate {
            return Ok(String::from_utf8_lossy(&cert).into_owned());
        }
        for condition in status.conditions.unwrap_or_default() {
            if condition.type_ == "Denied" || condition.type_ == "Failed" {
                return Err(Refusal::Denied(condition.message.unwrap_or_default()));
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{ADMIN, Pki};

    const HERE: &str = "https://10.0.0.5:6443";

    fn joined(folder: &Path) -> String {
        let pki = Pki::open(&folder.join("tls")).unwrap();
        let pair = pki.client(ADMIN).unwrap();
        let ca_pem = pki.ca().cert.clone();
        let files = Files::of(folder);
        let config = kubeconfig::with_certificate(HERE, &ca_pem, "kubelet", &pair);
        fs::write(files.kubeconfig, config).unwrap();
        fs::write(files.ca, &ca_pem).unwrap();
        fs::write(files.cert, &pair.cert).unwrap();
        ca_pem
    }

    #[test]
    fn who_has_joined_needs_no_token() {
        let folder = tempfile::tempdir().unwrap();
        assert!(kept(HERE, None, folder.path()).unwrap().is_none());
        let ca_pem = joined(folder.path());
        assert!(kept(HERE, None, folder.path()).unwrap().is_some());
        let token = JoinToken::generate(pki::ca_hash(&ca_pem).unwrap());
        assert!(kept(HERE, Some(&token), folder.path()).unwrap().is_some());
    }

    #[test]
    fn a_token_of_another_cluster_makes_the_agent_join_anew() {
        let folder = tempfile::tempdir().unwrap();
        joined(folder.path());
        let token = JoinToken::generate("ab".repeat(32));
        assert!(kept(HERE, Some(&token), folder.path()).unwrap().is_none());
    }

    #[test]
    fn an_identity_follows_the_server_to_another_address() {
        let folder = tempfile::tempdir().unwrap();
        joined(folder.path());
        let there = "https://10.0.0.6:6443";
        let identity = kept(there, None, folder.path()).unwrap().unwrap();
        let text = fs::read_to_string(identity.kubeconfig).unwrap();
        assert!(text.contains(there) && !text.contains(HERE), "{text}");
    }

    #[test]
    fn only_the_url_of_a_host_is_a_server() {
        for good in ["https://10.0.0.5:6443", "https://k8s.example/", "https://[fd00::1]:6443"] {
            assert!(server_url(good).is_ok(), "{good}");
        }
        for bad in ["10.0.0.5:6443", "http://10.0.0.5:6443", "https://", "https://a/b", "", "a b"] {
            assert!(server_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_names_the_cause_and_a_likely_remedy() {
        let error = |text: &str, server: &str| {
            let io = std::io::Error::other(text.to_owned());
            let error = Box::new(kube::Error::Service(Box::new(io)));
            JoinError::Reach { server: server.to_owned(), error }.to_string()
        };
        let refused = error("Connection refused (os error 111)", "https://10.0.0.5");
        assert!(refused.contains("refused") && refused.contains("6443"), "{refused}");
        let skewed = error("certificate not valid yet: verification time 1", HERE);
        assert!(
            skewed.ends_with("yet by this machine's clock; see `timedatectl` on both machines")
        );
    }
}
