//! A real apiserver, the controllers and the scheduler in this process, and kubelets that pretend.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_apiserver::{Config as ApiConfig, Limits, Server, ServiceAccounts, Tls};
use bowline_controllers::{CertificateAuthority, Config};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; far above what it takes, for machines under load.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// One cluster's control plane; all ends when it is dropped.
pub(crate) struct Trial {
    pub(crate) client: Client,
    server: String,
    pki: Pki,
    config: ApiConfig,
    serving: Mutex<CancellationToken>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Trial {
    /// An apiserver, and controllers with the settings that `adjust` makes.
    pub(crate) async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        bowline_api::client::install_crypto();
        let dir = tempfile::tempdir().expect("a folder");
        let pki = Pki::new(dir.path());
        let mut config = pki.api_config();
        let server = Server::bind(config.clone()).await.expect("the apiserver binds");
        let address = server.local_addr();
        config.listen = address;
        let shutdown = CancellationToken::new();
        let serving = shutdown.child_token();
        tokio::spawn(server.serve(serving.clone()));
        let api_config = config;
        let url = format!("https://{address}");
        let client = pki.client(&url, "kubernetes-admin", "system:masters").await;
        let own = pki.client(&url, "system:kube-controller-manager", "").await;
        let mut config = Config::new(own);
        config.cluster_cidrs = vec!["10.244.0.0/16".parse().expect("a range")];
        config.ca = Some(CertificateAuthority {
            certificate_pem: pki.ca_pem.clone(),
            key_pem: pki.ca_key_pem.clone(),
        });
        adjust(&mut config);
        tokio::spawn(bowline_controllers::run(config, shutdown.clone()));
        let own = pki.client(&url, "system:kube-scheduler", "").await;
        let config = bowline_scheduler::Config::new(own);
        tokio::spawn(bowline_scheduler::run(config, shutdown.clone()));
        let trial = Self {
            client,
            server: url,
            pki,
            config: api_config,
            serving: Mutex::new(serving),
            shutdown,
            _dir: dir,
        };
        trial.until("the apiserver is ready", || trial.is_ready()).await;
        // Without it no pod is let in.
        trial.wait(&trial.api::<ServiceAccount>(), "default", |_| true).await;
        trial
    }

    /// Ends the apiserver and starts another at the same address with the same state.
    pub(crate) async fn restart(&self) {
        self.serving.lock().cancel();
        let start = Instant::now();
        let server = loop {
            match Server::bind(self.config.clone()).await {
                Ok(server) => break server,
                Err(error) => assert!(start.elapsed() < DEADLINE, "it never starts: {error}"),
            }
            tokio::time::sleep(LOOK).await;
        };
        let serving = self.shutdown.child_token();
        *self.serving.lock() = serving.clone();
        tokio::spawn(server.serve(serving));
        self.until("the apiserver is ready again", || self.is_ready()).await;
    }

    async fn is_ready(&self) -> bool {
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
        self.client.request_text(request).await.is_ok()
    }

    /// A client with a certificate for this user and group.
    pub(crate) async fn as_user(&self, name: &str, group: &str) -> Client {
        self.pki.client(&self.server, name, group).await
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Creates an object in `default` (or cluster-wide) from JSON.
    pub(crate) async fn create<K>(&self, api: &Api<K>, value: Value) -> K
    where
        K: DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(value).expect("a valid object");
        api.create(&PostParams::default(), &object).await.expect("it is created")
    }

    /// Waits until `holds`; says `what` when it never does.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        let start = Instant::now();
        while !holds().await {
            assert!(start.elapsed() < DEADLINE, "never: {what}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the object is there and `holds` of it.
    pub(crate) async fn wait<K>(&self, api: &Api<K>, name: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let start = Instant::now();
        let mut last = None;
        while start.elapsed() < DEADLINE {
            last = api.get_opt(name).await.expect("the apiserver answers");
            if let Some(object) = &last
                && holds(object)
            {
                return object.clone();
            }
            tokio::time::sleep(LOOK).await;
        }
        panic!("{name} never became so: {last:#?}");
    }

    /// Waits until the object is gone.
    pub(crate) async fn gone<K>(&self, api: &Api<K>, name: &str)
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let what = format!("{name} is gone");
        self.until(&what, || async {
            api.get_opt(name).await.expect("the apiserver answers").is_none()
        })
        .await;
    }

    /// Adds ready nodes whose kubelets run everything that is bound to them: pods become ready with
    /// an address (or end, if their image says so), and go when deleted.
    pub(crate) async fn nodes(&self, names: &[&str]) {
        for name in names {
            let node = json!({"metadata": {"name": name,
                "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "z"}}});
            self.create(&self.all::<Node>(), node).await;
            self.beat(name).await;
        }
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let kubelets = Kubelets { client: self.client.clone(), names };
        tokio::spawn(Arc::new(kubelets).run(self.shutdown.clone()));
    }

    pub(crate) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), "kube-node-lease")
    }

    /// One heartbeat by lease, which says nothing of the node but that it lives.
    pub(crate) async fn renew(&self, name: &str) {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "spec": {"holderIdentity": name, "renewTime": MicroTime(jiff::Timestamp::now())}});
        let parameters = PatchParams::apply("kubelet").force();
        let renewed = self.leases().patch(name, &parameters, &Patch::Apply(lease)).await;
        renewed.expect("a renewal");
    }

    /// One heartbeat by status.
    pub(crate) async fn beat(&self, name: &str) {
        let now = jiff::Timestamp::now();
        let patch = Patch::Strategic(json!({"status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
            "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}));
        let parameters = PatchParams::default();
        self.all::<Node>().patch_status(name, &parameters, &patch).await.expect("a heartbeat");
    }
}

pub(crate) fn deployment(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}}, "template": pod_template("web", image)}})
}

pub(crate) fn pod_template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}})
}

pub(crate) fn available(deployment: &Deployment, wanted: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    status.available_replicas == Some(wanted)
        && status.updated_replicas == Some(wanted)
        && status.replicas == Some(wanted)
        && status.observed_generation == deployment.metadata.generation
}

pub(crate) async fn pods(trial: &Trial, app: &str) -> Vec<Pod> {
    let list = ListParams::default().labels(&format!("app={app}"));
    trial.api::<Pod>().list(&list).await.expect("a list").items
}

/// Addresses of the slices' endpoints that are ready.
pub(crate) async fn ready_addresses(trial: &Trial, service: &str) -> BTreeSet<String> {
    let list = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = trial.api::<EndpointSlice>().list(&list).await.expect("a list").items;
    slices
        .into_iter()
        .flat_map(|slice| slice.endpoints)
        .filter(|one| one.conditions.as_ref().and_then(|all| all.ready) == Some(true))
        .flat_map(|one| one.addresses)
        .collect()
}

struct Kubelets {
    client: Client,
    names: Vec<String>,
}

impl Kubelets {
    async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let events = watcher(pods, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events.applied_objects());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = events.next() => if let Ok(pod) = event {
                    tokio::spawn(Arc::clone(&self).serve(pod));
                },
            }
        }
    }

    async fn serve(self: Arc<Self>, pod: Pod) {
        let pods: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        if pod.metadata.deletion_timestamp.is_some() {
            if node.is_some() {
                let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
            }
            return;
        }
        if node.is_none_or(|node| !self.names.contains(&node)) {
            return;
        }
        let started = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if started != Some("Pending") && started.is_some() {
            return;
        }
        let phase = phase_of(&pod);
        let ready = if phase == "Running" { "True" } else { "False" };
        let uid = pod.uid().unwrap_or_default();
        let address = format!("10.244.{}.{}", byte(&uid, 0), byte(&uid, 2));
        let now = jiff::Timestamp::now();
        let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": {
            "phase": phase, "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now},
                {"type": "ContainersReady", "status": ready, "lastTransitionTime": now}]}}));
        let _ = pods.patch_status(&name, &PatchParams::default(), &patch).await;
    }
}

/// What becomes of a pod: its image's name says it.
fn phase_of(pod: &Pod) -> &'static str {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    match containers.first().and_then(|one| one.image.as_deref()) {
        Some("succeeds") => "Succeeded",
        Some("fails") => "Failed",
        _ => "Running",
    }
}

fn byte(uid: &str, place: usize) -> u8 {
    uid.get(place..place + 2).and_then(|text| u8::from_str_radix(text, 16).ok()).unwrap_or(1)
}

struct Pki {
    dir: std::path::PathBuf,
    ca_pem: String,
    ca_key_pem: String,
}

impl Pki {
    fn new(dir: &Path) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "trial-ca");
        let ca = params.self_signed(&key).expect("a CA");
        Self { dir: dir.to_owned(), ca_pem: ca.pem(), ca_key_pem: key.serialize_pem() }
    }

    fn sign(&self, name: &str, organization: &str) -> (String, String) {
        let ca_key = KeyPair::from_pem(&self.ca_key_pem).expect("the CA's key");
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, ca_key).expect("the CA");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.distinguished_name.push(DnType::CommonName, name);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn api_config(&self) -> ApiConfig {
        let (cert_pem, key_pem) = self.sign("kube-apiserver", "");
        let (kubelet_cert, kubelet_key) = self.sign("kubelet-client", "system:masters");
        let accounts = KeyPair::generate().expect("a key");
        ApiConfig {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            data_dir: self.dir.join("db"),
            tls: Tls {
                cert_pem,
                key_pem,
                ca_pem: self.ca_pem.clone(),
                kubelet_client_cert_pem: kubelet_cert,
                kubelet_client_key_pem: kubelet_key,
            },
            service_accounts: ServiceAccounts {
                issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
                signing_key_pem: accounts.serialize_pem(),
                public_keys_pem: vec![accounts.public_key_pem()],
            },
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            node_ports: 30000..=32767,
            cluster_domain: "cluster.local".to_owned(),
            limits: Limits::default(),
        }
    }

    async fn client(&self, server: &str, name: &str, organization: &str) -> Client {
        let (certificate, key) = self.sign(name, organization);
        let write = |file: &str, text: &str| {
            let path = self.dir.join(format!("{name}.{file}").replace(':', "-"));
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "trial",
            "clusters": [{"name": "trial", "cluster": {"server": server,
                "certificate-authority": write("ca", &self.ca_pem)}}],
            "users": [{"name": "user", "user": {
                "client-certificate": write("crt", &certificate), "client-key": write("key", &key)}}],
            "contexts": [{"name": "trial", "context": {"cluster": "trial", "user": "user"}}],
        });
        let path = write("kubeconfig", &kubeconfig.to_string());
        bowline_api::client::connect(Some(Path::new(&path))).await.expect("a client")
    }
}
