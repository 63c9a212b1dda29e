//! TLS on both sides: what we show to clients, and to kubelets.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Tls;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} is no PEM certificate or key: {why}")]
    Pem { what: &'static str, why: String },
    #[error("the {what} can't be used")]
    Use { what: &'static str, source: rustls::Error },
    #[error("the CA that clients are checked by can't be used: {0}")]
    Clients(String),
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |why: String| TlsError::Pem { what, why };
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let list = list.map_err(|error| failed(error.to_string()))?;
    if list.is_empty() { Err(failed("it holds no certificate".to_owned())) } else { Ok(list) }
}

fn key(pem: &str, what: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| TlsError::Pem { what, why: error.to_string() })
}

fn roots(pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "CA")? {
        roots.add(certificate).map_err(|source| TlsError::Use { what: "CA", source })?;
    }
    Ok(Arc::new(roots))
}

/// The server's side: client certificates are asked for, and checked if one comes.
pub(crate) fn server(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let what = "serving certificate";
    let verifier = WebPkiClientVerifier::builder(roots(&tls.ca_pem)?)
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Clients(error.to_string()))?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.cert_pem, what)?, key(&tls.key_pem, what)?)
        .map_err(|source| TlsError::Use { what, source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session that is taken up again keeps the client's certificate, but costs memory per client.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Our side towards kubelets.
pub(crate) fn kubelet_client(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let what = "kubelet client certificate";
    let chain = certificates(&tls.kubelet_client_cert_pem, what)?;
    let key = key(&tls.kubelet_client_key_pem, what)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots(&tls.ca_pem)?)
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Use { what, source })?;
    Ok(Arc::new(config))
}
