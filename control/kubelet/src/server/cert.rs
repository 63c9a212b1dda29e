//! The server's own certificate: given, self-signed, or signed by the cluster on request.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use parking_lot::RwLock;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Config, Serving};
use crate::context::Context;

const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Key and chain as they were signed last, below the kubelet's folder.
const KEPT: &str = "pki/kubelet-server.pem";
/// A certificate is renewed when this part of its life is left: a fifth.
const RENEW_BEFORE: i64 = 5;
/// How often a signed certificate's age is looked at.
const AGE_PERIOD: Duration = Duration::from_secs(600);
/// How often an unanswered request is looked at, and when it is made again.
const POLL: Duration = Duration::from_millis(250);
const GIVE_UP: Duration = Duration::from_secs(300);

/// No usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("make a key or certificate")]
    Make(#[from] rcgen::Error),
    #[error("the serving certificate or key is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the serving certificate and key can't be used")]
    Tls(#[from] rustls::Error),
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("ask the API server for a certificate")]
    Request(#[from] kube::Error),
    #[error("the certificate was not signed in time")]
    NotSigned,
    #[error("the certificate was denied: {0}")]
    Denied(String),
}

/// The TLS configuration of now; new connections use the newest certificate.
pub(super) struct Certificates {
    current: RwLock<Arc<ServerConfig>>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    key: KeyPair,
    must_ask: bool,
}

impl Certificates {
    pub(super) fn new(
        ctx: &Context,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Arc<Self>, Error> {
        let key = KeyPair::generate()?;
        let mut must_ask = false;
        let (cert, key_pem) = match &ctx.config.serving {
            Serving::Pem { cert, key } => (cert.clone(), key.clone()),
            Serving::SelfSigned => self_signed(&ctx.config, &key)?,
            Serving::Bootstrap => {
                must_ask = !ctx.config.standalone;
                match std::fs::read(ctx.config.root_dir.join(KEPT)) {
                    Ok(kept) if fits(&kept, &ctx.config) => (kept.clone(), kept),
                    _ => self_signed(&ctx.config, &key)?,
                }
            }
        };
        let current = RwLock::new(tls(&cert, &key_pem, verifier.clone())?);
        Ok(Arc::new(Self { current, verifier, key, must_ask }))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read())
    }

    /// Gets the certificate signed by the cluster, where it should be.
    pub(super) async fn keep_signed(self: Arc<Self>, ctx: Arc<Context>) {
        if !self.must_ask {
            return;
        }
        loop {
            let kept = std::fs::read(ctx.config.root_dir.join(KEPT)).unwrap_or_default();
            if fits(&kept, &ctx.config) {
                tokio::select! {
                    () = ctx.shutdown.cancelled() => return,
                    () = tokio::time::sleep(AGE_PERIOD) => continue,
                }
            }
            match self.ask(&ctx).await {
                Ok(()) => continue,
                Err(error) => {
                    let error = bowline_api::chain::chain(&error);
                    tracing::debug!(error, "no signed serving certificate yet");
                }
            }
            tokio::select! {
                () = ctx.shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn ask(&self, ctx: &Context) -> Result<(), Error> {
        let request = params(&ctx.config, true)?.serialize_request(&self.key)?.pem()?;
        let api: Api<CertificateSigningRequest> = Api::all(ctx.config.client.clone());
        let wanted = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("csr-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.into_bytes()),
                signer_name: SIGNER.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), "server auth".to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let made = api.create(&PostParams::default(), &wanted).await?;
        let name = made.metadata.name.unwrap_or_default();
        let deadline = tokio::time::Instant::now() + GIVE_UP;
        while tokio::time::Instant::now() < deadline {
            let status = api.get(&name).await?.status.unwrap_or_default();
            let denied = status.conditions.iter().flatten().find(|c| c.type_ != "Approved");
            if let Some(denied) = denied {
                return Err(Error::Denied(denied.message.clone().unwrap_or_default()));
            }
            if let Some(cert) = status.certificate.filter(|c| !c.0.is_empty()) {
                let key = self.key.serialize_pem();
                *self.current.write() = tls(&cert.0, key.as_bytes(), self.verifier.clone())?;
                keep(&ctx.config, &[key.as_bytes(), &cert.0].concat())?;
                tracing::info!("the serving certificate is signed by the cluster");
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Error::NotSigned)
    }
}

fn keep(config: &Config, pem: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = config.root_dir.join(KEPT);
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let next = path.with_extension("next");
        let _ = std::fs::remove_file(&next);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(pem)?;
        file.sync_all()?;
        std::fs::rename(&next, &path)
    };
    write().map_err(|source| Error::Write { path: path.clone(), source })
}

/// Is the kept certificate for this node's addresses, and young enough?
fn fits(pem: &[u8], config: &Config) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem) else { return false };
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else { return false };
    let validity = cert.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    let left = validity.not_after.timestamp() - jiff::Timestamp::now().as_second();
    let Ok(Some(names)) = cert.subject_alternative_name() else { return false };
    let listed = |ip: &std::net::IpAddr| {
        names.value.general_names.iter().any(|name| match (name, ip) {
            (x509_parser::prelude::GeneralName::IPAddress(raw), std::net::IpAddr::V4(ip)) => {
                *raw == ip.octets()
            }
            (x509_parser::prelude::GeneralName::IPAddress(raw), std::net::IpAddr::V6(ip)) => {
                *raw == ip.octets()
            }
            _ => false,
        })
    };
    left * RENEW_BEFORE > life && config.node_ips.iter().all(listed)
}

fn params(config: &Config, as_node: bool) -> Result<CertificateParams, rcgen::Error> {
    let mut names: Vec<String> = config.node_ips.iter().map(ToString::to_string).collect();
    names.push(config.node_name.clone());
    let mut params = CertificateParams::new(names)?;
    let user = format!("system:node:{}", config.node_name);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    if !as_node {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }
    Ok(params)
}

fn self_signed(config: &Config, key: &KeyPair) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let cert = params(config, false)?.self_signed(key)?;
    Ok((cert.pem().into_bytes(), key.serialize_pem().into_bytes()))
}

fn tls(
    cert: &[u8],
    key: &[u8],
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, Error> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
