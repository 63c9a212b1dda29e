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
const SIGNING_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// A certificate that ends sooner than this is replaced at the agent's start.
const RENEW_BEFORE: time::Duration = time::Duration::days(90);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{0:?} is no server URL; give one like https://192.168.1.10:6443")]
    ServerUrl(String),
    #[error("can't reach the server at {server}: {source}")]
    Reach { server: String, source: Box<kube::Error> },
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

/// The files of a node's identity.
pub struct Identity {
    pub kubeconfig: PathBuf,
    pub ca_pem: String,
}

/// Makes sure that `folder` holds a kubeconfig and the CA of the cluster; joins when it does not,
/// or when the certificate will end soon.
pub async fn join(
    server: &str,
    token: &JoinToken,
    node_name: &str,
    folder: &Path,
) -> Result<Identity, JoinError> {
    let (kubeconfig, ca_path) = (folder.join("kubelet.kubeconfig"), folder.join("ca.crt"));
    let cert_path = folder.join("kubelet-client.crt");
    if let (Ok(ca_pem), Ok(cert), true) =
        (fs::read_to_string(&ca_path), fs::read_to_string(&cert_path), kubeconfig.exists())
        && lasts(&cert)
        && token.ca_hash.is_none_or_matches(&ca_pem)
    {
        return Ok(Identity { kubeconfig, ca_pem });
    }
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

fn config(server: &str) -> Result<Config, JoinError> {
    let url = server.parse().map_err(|_| JoinError::ServerUrl(server.to_owned()))?;
    let mut config = Config::new(url);
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(config)
}

async fn fetch_ca(server: &str, token: &JoinToken) -> Result<String, JoinError> {
    let failed = |source| JoinError::Reach { server: server.to_owned(), source: Box::new(source) };
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
    let failed = |source| JoinError::Reach { server: server.to_owned(), source: Box::new(source) };
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
    let created = api.create(&PostParams::default(), &csr).await.map_err(failed)?;
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
