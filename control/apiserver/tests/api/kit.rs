//! A server with its own folder, and clients to it.

use std::time::Duration;

use bowline_apiserver::Server;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{AuthInfo, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::pki::Pki;

pub(crate) const DEFAULT: &str = "/api/v1/namespaces/default";

/// A running server; it stops when this is dropped.
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pki: Pki,
    url: String,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

/// An answer: its code and its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a request that must have worked.
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{}: {}", self.code, self.body);
        self.body
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open(folder.path(), "127.0.0.1".parse().expect("it is an address"));
        let mut cluster = Self {
            folder,
            pki: pki.expect("certificates are made"),
            url: String::new(),
            stop: CancellationToken::new(),
            running: None,
        };
        cluster.boot().await;
        cluster
    }

    /// Starts the server on what is in the folder.
    async fn boot(&mut self) {
        let listen = "127.0.0.1:0".parse().expect("it is an address");
        let address = "127.0.0.1".parse().expect("it is an address");
        let mut config = self.pki.config(listen, address).expect("the files are there");
        config.limits.shutdown_grace = Duration::from_millis(200);
        let server = Server::bind(config).await.expect("the server starts");
        self.url = format!("https://{}", server.local_addr());
        self.stop = CancellationToken::new();
        let stop = self.stop.clone();
        self.running = Some(tokio::spawn(async move {
            server.serve(stop).await.expect("the server ends well");
        }));
        let admin = self.admin().await;
        for _ in 0..500 {
            if admin.get("/readyz").await.code == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not get ready");
    }

    /// Stops the server and starts another one on the same folder.
    pub(crate) async fn restart(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.expect("the server does not panic");
        }
        self.boot().await;
    }

    pub(crate) async fn admin(&self) -> Caller {
        self.by_certificate("admin").await
    }

    /// A client with one of the certificates of the folder.
    pub(crate) async fn by_certificate(&self, name: &str) -> Caller {
        self.pki.kubeconfig(&self.url).expect("it can be written");
        let file = match name {
            "admin" => "kubeconfig".to_owned(),
            other => format!("{other}.kubeconfig"),
        };
        let read = Kubeconfig::read_from(self.folder.path().join(file)).expect("it is valid");
        let options = kube::config::KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(read, &options).await.expect("it is valid");
        Caller::new(config)
    }

    /// A client without a certificate; with a token, if one is given.
    pub(crate) async fn by_token(&self, token: Option<&str>) -> Caller {
        let mut config = Config::new(self.url.parse().expect("it is a URL"));
        let pem = self.pki.read("ca.crt").expect("it is there");
        let ders = rustls_pki_types::pem::PemObject::pem_slice_iter(pem.as_bytes());
        let ders = ders.map(|der: Result<rustls_pki_types::CertificateDer<'_>, _>| {
            der.expect("it is PEM").to_vec()
        });
        config.root_cert = Some(ders.collect());
        config.auth_info =
            AuthInfo { token: token.map(|t| t.to_owned().into()), ..AuthInfo::default() };
        Caller::new(config)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Sends requests as one user.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) client: Client,
}

impl Caller {
    fn new(mut config: Config) -> Self {
        // The tests want to see each answer.
        config.default_retry = false;
        bowline_api::client::install_crypto();
        Self { client: Client::try_from(config).expect("the configuration is whole") }
    }

    /// Sends a body as it is.
    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(Body::from(body.into()))
            .expect("tests write valid requests");
        let response = self.client.send(request).await.expect("the server answers");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("the answer is whole").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, "application/json", "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw("POST", path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.raw("PUT", path, "application/json", body.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.raw("PATCH", path, "application/merge-patch+json", body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.raw("DELETE", path, "application/json", "").await
    }

    /// The newest revision, by an empty list.
    pub(crate) async fn revision(&self) -> String {
        let list = self.get("/api/v1/podtemplates").await.ok();
        list["metadata"]["resourceVersion"].as_str().expect("a list has a revision").to_owned()
    }

    pub(crate) async fn service_account(&self, name: &str) {
        let account = json!({"metadata": {"name": name}});
        self.post(&format!("{DEFAULT}/serviceaccounts"), &account).await.ok();
    }

    /// A token of a service account in `default`.
    pub(crate) async fn token(&self, name: &str, spec: &Value) -> String {
        let path = format!("{DEFAULT}/serviceaccounts/{name}/token");
        let answer = self.post(&path, &json!({"spec": spec})).await.ok();
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}},
           "spec": {"containers": [{"name": "c", "image": "i"}]}})
}
