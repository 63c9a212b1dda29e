//! A containerd and a kubelet of their own in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bowline_kubelet::runtime::Runtime as _;
use bowline_kubelet::runtime::cri::CriRuntime;
use bowline_kubelet::{Auth, Config, Serving};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// An image with nothing but busybox, and the sandbox's own.
pub(crate) const IMAGE: &str = "docker.io/bowline/test-busybox:1";
const PAUSE: &str = "docker.io/bowline/test-pause:1";
const NEEDED: [&str; 4] = ["containerd", "runc", "ctr", "busybox"];

pub(crate) struct Machine {
    dir: tempfile::TempDir,
    containerd: Child,
    kubelet: Option<(CancellationToken, JoinHandle<()>)>,
    client: Client,
    config: Config,
    runtime: CriRuntime,
    node: String,
}

impl Machine {
    /// Nothing where something that is needed is missing, which is said.
    pub(crate) async fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: these tests need root");
            return None;
        }
        for program in NEEDED {
            let found = Command::new("which").arg(program).stdout(Stdio::null()).status();
            if !found.is_ok_and(|s| s.success()) {
                println!(
                    "skipped: {program} is missing; apt-get install containerd busybox-static"
                );
                return None;
            }
        }
        bowline_api::client::install_crypto();
        let dir =
            tempfile::Builder::new().prefix("h-kubelet-").tempdir_in("/var/tmp").expect("a folder");
        let root = dir.path();
        write_cni(root);
        let containerd = start_containerd(root);
        let socket = root.join("containerd.sock");
        let runtime = CriRuntime::new(&socket).expect("a socket's path");
        let deadline = Instant::now() + Duration::from_secs(30);
        while runtime.version().await.is_err() {
            assert!(Instant::now() < deadline, "containerd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (image, command) in [(IMAGE, "sh"), (PAUSE, "/bin/pause")] {
            let tar = root.join("image.tar");
            std::fs::write(&tar, image_tar(image, command)).expect("written");
            ctr(&socket, &["images", "import", &tar.display().to_string()]);
        }
        let ca = Ca::new();
        let address = free_address();
        let node = format!("hk-{name}");
        let (cert, key) = ca.sign("system:node", &["127.0.0.1"]);
        let api = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
        let api = kube::Client::try_from(api).expect("a client that is never used");
        let mut config = Config::new(&node, api);
        config.standalone = true;
        config.cri_socket = socket;
        config.root_dir = root.join("kubelet");
        config.pod_log_dir = root.join("logs");
        config.container_log_dir = Some(root.join("links"));
        config.static_pod_dir = Some(root.join("manifests"));
        config.cgroup_root = format!("/{node}");
        config.node_ips = vec!["127.0.0.1".parse().expect("an address")];
        config.listen = address;
        config.serving = Serving::Pem { cert: cert.into_bytes(), key: key.into_bytes() };
        config.auth = Auth { client_ca: Some(ca.pem.clone().into_bytes()), webhook: false };
        std::fs::create_dir_all(root.join("manifests")).expect("made");
        let (cert, key) = ca.sign("admin", &[]);
        let client = Client::new(address, &ca.pem, &cert, &key);
        Some(Self { dir, containerd, kubelet: None, client, config, runtime, node })
    }

    pub(crate) fn apply(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        // JSON is YAML too.
        std::fs::write(self.manifest(name), pod.to_string()).expect("written");
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.manifest(name)).expect("removed");
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.dir.path().join("manifests").join(format!("{name}.yaml"))
    }

    /// Starts a kubelet and waits until its server answers.
    pub(crate) async fn start(&mut self) {
        let stop = CancellationToken::new();
        let (config, stopped) = (self.config.clone(), stop.clone());
        let task = tokio::spawn(async move {
            bowline_kubelet::run(config, stopped).await.expect("the kubelet runs");
        });
        self.kubelet = Some((stop, task));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.client.get("/healthz").await.is_err() {
            assert!(Instant::now() < deadline, "the kubelet's server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn stop_kubelet(&mut self) {
        if let Some((stop, task)) = self.kubelet.take() {
            stop.cancel();
            task.await.expect("the kubelet ends");
        }
    }

    async fn find(&self, name: &str) -> Option<Value> {
        let name = format!("{name}-{}", self.node);
        let list = self.client.get("/pods").await.ok()?;
        let list: Value = serde_json::from_slice(&list).ok()?;
        list["items"].as_array()?.iter().find(|p| p["metadata"]["name"] == name.as_str()).cloned()
    }

    /// Waits until the pod is as `wanted` asks, and returns it.
    pub(crate) async fn until(
        &self,
        name: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + within;
        loop {
            let found = self.find(name).await;
            if let Some(pod) = found.as_ref().filter(|pod| wanted(pod)) {
                return pod.clone();
            }
            assert!(Instant::now() < deadline, "{name} is still {found:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_gone(&self, name: &str, within: Duration) {
        let deadline = Instant::now() + within;
        while let Some(pod) = self.find(name).await {
            assert!(Instant::now() < deadline, "{name} is still there: {pod:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the runtime has this many pods.
    pub(crate) async fn until_containers(&self, pods: usize, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let known = self.runtime.pods().await.expect("the runtime answers");
            if known.len() == pods {
                return;
            }
            assert!(Instant::now() < deadline, "the runtime still has {known:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn path(&self, act: &str, pod: &str, rest: &str) -> String {
        format!("/{act}/default/{pod}-{}{rest}", self.node)
    }

    pub(crate) async fn logs(&self, pod: &str, container: &str, query: &str) -> String {
        let path = self.path("containerLogs", pod, &format!("/{container}?{query}"));
        let log = self.client.get(&path).await.expect("a log");
        String::from_utf8(log).expect("text")
    }

    pub(crate) async fn exec(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
        input: &[u8],
    ) -> (Vec<u8>, i64) {
        let words: Vec<_> = command.iter().map(|w| format!("command={}", encode(w))).collect();
        let query = format!("/{container}?input=1&output=1&error=1&{}", words.join("&"));
        self.client.exec(&self.path("exec", pod, &query), input).await
    }

    pub(crate) async fn port_forward(&self, pod: &str, port: u16, request: &[u8]) -> Vec<u8> {
        let path = self.path("portForward", pod, &format!("?port={port}"));
        self.client.port_forward(&path, request).await
    }

    /// Nothing of any pod is left on the disk or among the cgroups.
    pub(crate) fn assert_clean(&self) {
        for dir in ["kubelet/pods", "logs", "links"] {
            let left = std::fs::read_dir(self.dir.path().join(dir)).expect("listed").count();
            assert_eq!(left, 0, "{dir} has leftovers");
        }
        let cgroups = bowline_kubelet::cgroup::Cgroups::detect(
            &self.config.cgroup_mount,
            &self.config.cgroup_root,
        );
        assert_eq!(cgroups.pods(), [], "no cgroup is left");
    }

    /// Ends everything and removes it.
    pub(crate) async fn stop(mut self) {
        let manifests = std::fs::read_dir(self.dir.path().join("manifests")).expect("listed");
        for file in manifests.flatten() {
            std::fs::remove_file(file.path()).expect("removed");
        }
        if self.kubelet.is_some() {
            self.until_containers(0, Duration::from_secs(30)).await;
        }
        self.stop_kubelet().await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pod in names(&self.dir.path().join("logs")) {
                println!("pod with logs: {pod}");
            }
            let log = std::fs::read_to_string(self.dir.path().join("containerd.log"));
            let log = log.unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(10).collect();
            println!("containerd: {lines:#?}");
            // Shims of pods that are still there would outlive the test.
            let socket = self.dir.path().join("containerd.sock");
            for task in ctr(&socket, &["tasks", "ls", "-q"]).lines() {
                ctr(&socket, &["tasks", "kill", "-s", "SIGKILL", "-a", task]);
            }
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let _ = bowline_kubelet::volume::teardown(self.dir.path());
        for entry in std::fs::read_dir(&self.config.cgroup_mount).into_iter().flatten().flatten() {
            remove_empty(&entry.path().join(&self.node));
        }
        remove_empty(&self.config.cgroup_mount.join(&self.node));
    }
}

fn remove_empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

fn names(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

fn encode(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}

fn ctr(socket: &Path, arguments: &[&str]) -> String {
    let socket = socket.display().to_string();
    let output = Command::new("ctr").args(["-a", &socket, "-n", "k8s.io"]).args(arguments).output();
    String::from_utf8_lossy(&output.expect("ctr runs").stdout).into_owned()
}

/// A network plugin that only sets the loopback device up: pods reach themselves, nobody else.
fn write_cni(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let script = "#!/bin/sh\n\
        cat > /dev/null\n\
        case $CNI_COMMAND in\n\
        VERSION) echo '{\"cniVersion\":\"0.4.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\"]}';;\n\
        ADD) nsenter --net=$CNI_NETNS busybox ip link set lo up\n\
        echo '{\"cniVersion\":\"0.4.0\",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"'$CNI_NETNS'\"}],\
        \"ips\":[{\"version\":\"4\",\"address\":\"10.252.0.2/24\",\"interface\":0}]}';;\n\
        esac\n";
    std::fs::create_dir_all(root.join("bin")).expect("made");
    std::fs::create_dir_all(root.join("net.d")).expect("made");
    for plugin in ["loopback", "test"] {
        let path = root.join("bin").join(plugin);
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    }
    let conf = r#"{"cniVersion":"0.4.0","name":"test","plugins":[{"type":"test"}]}"#;
    std::fs::write(root.join("net.d/10-test.conflist"), conf).expect("written");
}

fn start_containerd(root: &Path) -> Child {
    let dir = root.display();
    let config = format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs","io.containerd.snapshotter.v1.devmapper","io.containerd.snapshotter.v1.zfs","io.containerd.tracing.processor.v1.otlp","io.containerd.internal.v1.opt"]
[grpc]
  address = "{dir}/containerd.sock"
[ttrpc]
  address = ""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{dir}/state/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/bin"
    conf_dir = "{dir}/net.d"
"#
    );
    std::fs::write(root.join("config.toml"), config).expect("written");
    let log = std::fs::File::create(root.join("containerd.log")).expect("made");
    Command::new("containerd")
        .arg("-c")
        .arg(root.join("config.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd starts")
}

/// An OCI layout with one image of one layer: busybox under the names that the tests use. `pause` is
/// a script that sleeps for good.
fn image_tar(name: &str, command: &str) -> Vec<u8> {
    let busybox = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"));
    let pause = b"#!/bin/busybox sh\ntrap exit TERM INT\nwhile true; do sleep 1000 & wait; done\n";
    let files = [
        ("bin/busybox".to_owned(), busybox.expect("busybox is there"), 0o755),
        ("bin/pause".to_owned(), pause.to_vec(), 0o755),
    ];
    let links = ["sh", "cat", "echo", "sleep", "httpd", "mkdir", "false", "true"];
    let layer = tar_of(&files, &links);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": [command]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
    let config = config.to_string().into_bytes();
    let kind = "application/vnd.oci.image";
    let descriptor = |what: &str, blob: &[u8]| {
        serde_json::json!({"mediaType": format!("{kind}.{what}"), "digest": digest(blob),
            "size": blob.len()})
    };
    let manifest = serde_json::json!({"schemaVersion": 2,
        "mediaType": format!("{kind}.manifest.v1+json"),
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", &layer)]});
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": name});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    let blob = |b: Vec<u8>| (format!("blobs/sha256/{}", &digest(&b)[7..]), b, 0o644);
    let files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(), 0o644),
        ("index.json".to_owned(), index.to_string().into_bytes(), 0o644),
        blob(layer),
        blob(config),
        blob(manifest),
    ];
    tar_of(&files, &[])
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn tar_of(files: &[(String, Vec<u8>, u32)], links: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(content.len()).expect("a size"));
        header.set_mode(*mode);
        tar.append_data(&mut header, path, content.as_slice()).expect("added");
    }
    for link in links {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{link}"), "busybox").expect("added");
    }
    tar.into_inner().expect("a tar")
}

/// A certificate authority for one test.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key of `name`, a member of system:masters.
    fn sign(&self, name: &str, addresses: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        (cert.pem(), key.serialize_pem())
    }
}
