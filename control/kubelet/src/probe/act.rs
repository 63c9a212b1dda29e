//! What probes and lifecycle hooks do: run a command, ask a server, open a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container as Spec, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::runtime::Runtime;
use bowline_api::chain::chain;

/// Bytes of a command's or a server's answer that are shown to users.
const SHOWN: usize = 1024;

/// An act did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The container, or what runs in it, is to blame.
    Failed(String),
    /// The runtime could not be asked: this says nothing about the container.
    Unknown(String),
}

impl Failure {
    pub fn message(self) -> String {
        match self {
            Self::Failed(message) | Self::Unknown(message) => message,
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// Whom to act on.
pub struct Target<'a> {
    pub runtime: &'a dyn Runtime,
    /// The container, for commands.
    pub id: &'a str,
    pub spec: &'a Spec,
    /// The pod's address.
    pub ip: Option<IpAddr>,
}

/// Probes once.
pub async fn probe(target: &Target<'_>, probe: &Probe, timeout: Duration) -> Result<(), Failure> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        run(target, command, timeout).await
    } else if let Some(get) = &probe.http_get {
        Ok(http_get(target, get, "kube-probe/1.35").await?)
    } else if let Some(tcp) = &probe.tcp_socket {
        Ok(connect(target, tcp.host.as_deref(), &tcp.port).await?)
    } else if let Some(grpc) = &probe.grpc {
        let service = grpc.service.as_deref().unwrap_or_default();
        Ok(super::grpc::check(target.ip, grpc.port, service).await?)
    } else {
        Ok(())
    }
}

/// Runs a command in the container; an exit code other than 0 is a failure.
pub async fn run(
    target: &Target<'_>,
    command: Vec<String>,
    limit: Duration,
) -> Result<(), Failure> {
    let output = target.runtime.exec_sync(target.id, command, limit).await;
    let output = output.map_err(|e| match e.is_timeout() {
        true => Failure::Failed(format!("command timed out after {limit:?}")),
        false => Failure::Unknown(e.to_string()),
    })?;
    if output.exit_code == 0 {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Failure::Failed(format!("exit code {}: {}", output.exit_code, cut(&text))))
}

/// Opens a connection and closes it.
pub async fn connect(
    target: &Target<'_>,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<(), String> {
    dial(target, host, port).await.map(drop)
}

/// Asks a web server; 200 to 399 is success.
pub async fn http_get(target: &Target<'_>, get: &HTTPGetAction, agent: &str) -> Result<(), String> {
    let host = get.host.as_deref().filter(|h| !h.is_empty());
    let port = port_number(target.spec, &get.port)?;
    let stream = dial(target, host, &get.port).await?;
    let tls = get.scheme.as_deref() == Some("HTTPS");
    let authority = match (host, target.ip) {
        (Some(host), _) => format!("{host}:{port}"),
        (None, Some(ip)) => SocketAddr::new(ip, u16::try_from(port).unwrap_or(0)).to_string(),
        (None, None) => format!("localhost:{port}"),
    };
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = http::Request::get(path).header("User-Agent", agent).header("Accept", "*/*");
    let mut has_host = false;
    for header in get.http_headers.iter().flatten() {
        has_host |= header.name.eq_ignore_ascii_case("host");
        request = request.header(&header.name, &header.value);
    }
    if !has_host {
        request = request.header("Host", &authority);
    }
    let request = request
        .header("Connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| e.to_string())?;
    if tls {
        let name =
            rustls_pki_types::ServerName::from(stream.peer_addr().map_err(|e| e.to_string())?.ip());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(unverified::config()?));
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(stream: S, request: http::Request<Empty<bytes::Bytes>>) -> Result<(), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| chain(&e));
    let result = match answer {
        Ok(answer) => {
            let status = answer.status();
            if status.is_success() || status.is_redirection() {
                Ok(())
            } else {
                let body = http_body_util::Limited::new(answer.into_body(), SHOWN);
                let text = body.collect().await.map(http_body_util::Collected::to_bytes);
                let text =
                    text.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
                Err(format!(
                    "HTTP probe failed with statuscode: {}: {}",
                    status.as_u16(),
                    cut(&text)
                ))
            }
        }
        Err(e) => Err(e),
    };
    driver.abort();
    result
}

async fn dial(
    target: &Target<'_>,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<TcpStream, String> {
    let port = u16::try_from(port_number(target.spec, port)?).map_err(|e| e.to_string())?;
    let connected = match (host.filter(|h| !h.is_empty()), target.ip) {
        (Some(host), _) => TcpStream::connect((host, port)).await,
        (None, Some(ip)) => TcpStream::connect((ip, port)).await,
        (None, None) => return Err("the pod has no address yet".to_owned()),
    };
    connected.map_err(|e| format!("dial tcp port {port}: {e}"))
}

/// A port by its number or by its name among the container's ports.
pub fn port_number(spec: &Spec, port: &IntOrString) -> Result<i32, String> {
    match port {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(name) => spec
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .map(|p| p.container_port)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("container {} has no port called {name}", spec.name)),
    }
}

fn cut(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
    text[..end].trim_end()
}

/// TLS that believes any certificate: a probe asks whether a server lives, not who it is.
mod unverified {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    pub(super) fn config() -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth())
    }

    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
