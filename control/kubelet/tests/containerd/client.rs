//! What the API server is to a kubelet: an HTTPS client with a certificate, and WebSockets.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) struct Client {
    address: SocketAddr,
    tls: tokio_rustls::TlsConnector,
}

type Response = http::Response<hyper::body::Incoming>;

/// Channels of `v4.channel.k8s.io`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STATUS: u8 = 3;

impl Client {
    pub(crate) fn new(address: SocketAddr, ca: &str, cert: &str, key: &str) -> Self {
        let der =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(ca)).expect("a CA");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![der(cert)], key)
            .expect("a client certificate");
        Self { address, tls: tokio_rustls::TlsConnector::from(Arc::new(config)) }
    }

    async fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response, Box<dyn std::error::Error>> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = http::Request::get(path).header("Host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
    }

    /// The body of a successful answer.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let answer = self.send(path, &[]).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes().to_vec();
        match status.is_success() {
            true => Ok(body),
            false => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    async fn socket(&self, path: &str) -> Socket {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
            ("Origin", "http://localhost"),
        ];
        let answer = self.send(path, &headers).await.expect("an answer");
        assert_eq!(answer.status(), 101, "the protocol is switched");
        let stream = hyper::upgrade::on(answer).await.expect("switched");
        Socket { stream: TokioIo::new(stream) }
    }

    /// Standard output and exit code of a command that was given `input`.
    pub(crate) async fn exec(&self, path: &str, input: &[u8]) -> (Vec<u8>, i64) {
        let mut socket = self.socket(path).await;
        socket.send(STDIN, input).await;
        let mut output = Vec::new();
        while let Some((channel, bytes)) = socket.receive().await {
            match channel {
                STDOUT => output.extend(bytes),
                STATUS => return (output, exit_code(&bytes)),
                _ => {}
            }
        }
        panic!("no exit code was told; output {output:?}");
    }

    /// What a server on the pod's port answers to `request` before it closes.
    pub(crate) async fn port_forward(&self, path: &str, request: &[u8]) -> Vec<u8> {
        let mut socket = self.socket(path).await;
        socket.send(0, request).await;
        let (mut answer, mut port_told) = (Vec::new(), false);
        while let Some((channel, bytes)) = socket.receive().await {
            // The first message of each channel is the port's number.
            if channel == 0 && std::mem::replace(&mut port_told, true) {
                answer.extend(bytes);
            }
            if answer.ends_with(b"hello\n") {
                break;
            }
        }
        answer
    }
}

fn exit_code(status: &[u8]) -> i64 {
    let status: serde_json::Value = serde_json::from_slice(status).expect("a Status");
    if status["status"] == "Success" {
        return 0;
    }
    let causes = status["details"]["causes"].as_array().expect("causes");
    let code = causes.iter().find(|c| c["reason"] == "ExitCode").expect("an exit code");
    code["message"].as_str().and_then(|m| m.parse().ok()).expect("a number")
}

/// Just enough of RFC 6455: whole binary messages of under 64 KiB.
struct Socket {
    stream: TokioIo<Upgraded>,
}

impl Socket {
    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let length = u16::try_from(bytes.len() + 1).expect("a short message");
        // Final, binary; masked with zeros, which changes nothing.
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.push(channel);
        frame.extend(bytes);
        self.stream.write_all(&frame).await.expect("sent");
    }

    /// Channel and content of the next message; nothing at the end.
    async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let kind = self.stream.read_u8().await.ok()? & 0x0f;
            let length = match self.stream.read_u8().await.ok()? & 0x7f {
                126 => u64::from(self.stream.read_u16().await.ok()?),
                127 => self.stream.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut content = vec![0; usize::try_from(length).expect("a length")];
            self.stream.read_exact(&mut content).await.ok()?;
            match kind {
                1 | 2 if !content.is_empty() => {
                    let channel = content.remove(0);
                    return Some((channel, content));
                }
                8 => return None,
                _ => {}
            }
        }
    }
}
