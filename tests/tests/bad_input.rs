//! Bad input gets a clear error, and changes nothing.

use std::path::Path;
use std::process::Command;

use bowline_tests::harness::{TestCluster, bin_dir};

struct Answer {
    code: u16,
    body: serde_json::Value,
}

/// A request with curl, as the administrator unless `credentials` say otherwise.
struct Api {
    server: String,
    folder: std::path::PathBuf,
}

impl Api {
    fn new(cluster: &TestCluster) -> Self {
        let folder = std::env::temp_dir().join(format!("bowline-api-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        for (file, path) in [
            ("ca", "{.clusters[0].cluster.certificate-authority-data}"),
            ("cert", "{.users[0].user.client-certificate-data}"),
            ("key", "{.users[0].user.client-key-data}"),
        ] {
            let text = cluster.kubectl().run(&[
                "config",
                "view",
                "--raw",
                "-o",
                &format!("jsonpath={path}"),
            ]);
            let output = Command::new("sh")
                .args(["-c", &format!("echo {text} | base64 -d > {}", folder.join(file).display())])
                .status();
            assert!(output.expect("sh runs").success());
        }
        let server = cluster.kubectl().run(&[
            "config",
            "view",
            "--raw",
            "-o",
            "jsonpath={.clusters[0].cluster.server}",
        ]);
        Self { server, folder }
    }

    fn call(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let file = |name: &str| self.folder.join(name).display().to_string();
        self.curl(&["--cert", &file("cert"), "--key", &file("key")], method, path, kind, body)
    }

    fn curl(
        &self,
        credentials: &[&str],
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> Answer {
        let sent = self.folder.join("body");
        std::fs::write(&sent, body).expect("it can be written");
        let mut command = Command::new("curl");
        command.args(["-s", "-X", method, "-w", "\n%{http_code}", "--cacert"]);
        command.arg(self.folder.join("ca")).args(credentials);
        command.args(["-H", &format!("Content-Type: {kind}"), "-H", "Expect:"]);
        if !body.is_empty() {
            command.arg("--data-binary").arg(format!("@{}", sent.display()));
        }
        let output =
            command.arg(format!("{}{path}", self.server)).output().expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').expect("curl writes the code last");
        Answer {
            code: code.parse().expect("a code"),
            body: serde_json::from_str(body).unwrap_or(serde_json::Value::Null),
        }
    }
}

impl Answer {
    #[track_caller]
    fn is(&self, code: u16, reason: &str, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.body);
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["reason"], reason, "{}", self.body);
        let text = self.body.to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }
}

#[test]
fn the_api_names_what_is_wrong_and_keeps_its_state() {
    let cluster = TestCluster::get("bad-input");
    let api = Api::new(&cluster);
    let maps = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace());
    let pods = format!("/api/v1/namespaces/{}/pods", cluster.namespace());
    let (json, yaml) = ("application/json", "application/yaml");
    let before = cluster.kubectl().run(&["get", "configmaps,pods", "-o", "name"]);

    api.call("POST", &maps, json, b"{\"apiVersion\": ").is(400, "BadRequest", &[]);
    api.call("POST", &maps, yaml, b"a: [1, 2\nb: }").is(400, "BadRequest", &[]);
    let invalid = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Not_A_Name"},
        "spec":{"containers":[{"name":"a","image":"x"},{"name":"a"}]}}"#;
    let answer = api.call("POST", &pods, json, invalid);
    let fields = ["metadata.name", "spec.containers[1].name", "spec.containers[1].image"];
    answer.is(422, "Invalid", &fields);
    let causes = answer.body["details"]["causes"].as_array().expect("causes");
    assert!(causes.iter().all(|cause| cause["field"].is_string() && cause["reason"].is_string()));
    for field in fields {
        assert!(causes.iter().any(|cause| cause["field"] == field), "{field}: {causes:?}");
    }

    let good =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"1"}}"#;
    assert_eq!(api.call("POST", &maps, json, good).code, 201);
    api.call("POST", &maps, json, good).is(409, "AlreadyExists", &["configmaps", "\\\"m\\\""]);
    let stale = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","resourceVersion":"1"},"data":{"a":"2"}}"#;
    api.call("PUT", &format!("{maps}/m"), json, stale).is(
        409,
        "Conflict",
        &["the object has been modified"],
    );
    assert_eq!(cluster.kubectl().jsonpath(&["configmap", "m"], "{.data.a}"), "1");
    assert_eq!(api.call("DELETE", &format!("{maps}/m"), json, b"").code, 200);

    let unknown =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"u"},"date":{"a":"1"}}"#;
    api.call("POST", &format!("{maps}?fieldValidation=Strict"), json, unknown).is(
        400,
        "BadRequest",
        &["unknown field", "date"],
    );
    let large = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"l"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    api.call("POST", &maps, json, large.as_bytes()).is(413, "RequestEntityTooLarge", &[]);
    let over = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"l"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(1_600_000)
    );
    api.call("POST", &maps, json, over.as_bytes()).is(413, "RequestEntityTooLarge", &[]);

    api.curl(&["-H", "Authorization: Bearer wrong"], "GET", &maps, json, b"").is(
        401,
        "Unauthorized",
        &[],
    );
    let anonymous = api.curl(&[], "GET", &maps, json, b"");
    assert!([401, 403].contains(&anonymous.code), "{}", anonymous.body);
    let token = cluster.kubectl().run(&["create", "token", "default"]);
    let bearer = format!("Authorization: Bearer {}", token.trim());
    api.curl(&["-H", &bearer], "GET", &maps, json, b"").is(
        403,
        "Forbidden",
        &[
            &format!("system:serviceaccount:{}:default", cluster.namespace()),
            "cannot list resource",
            "configmaps",
        ],
    );
    api.call("GET", "/apis/example.com/v1/nothings", json, b"").is(404, "NotFound", &[]);
    api.call("GET", &format!("{maps}/absent"), json, b"").is(404, "NotFound", &["absent"]);

    assert_eq!(cluster.kubectl().run(&["get", "configmaps,pods", "-o", "name"]), before);
    std::fs::remove_dir_all(&api.folder).expect("it was ours");
}

#[test]
fn a_corrupt_cni_configuration_is_refused_and_leaves_nothing_behind() {
    let cluster = TestCluster::get("bad-cni");
    for (configuration, code) in [
        ("{not json", 6),
        (r#"{"cniVersion":"1.0.0","name":"x","type":"bowline-cni","ranges":["no range"]}"#, 7),
        (r#"{"cniVersion":"1.0.0","name":"x","type":"bowline-cni"}"#, 7),
    ] {
        let script = format!(
            "before=$(ls /sys/class/net | wc -l); ip netns add bad 2>/dev/null || true; \
             printf '%s' '{configuration}' | CNI_COMMAND=ADD CNI_CONTAINERID=bad CNI_NETNS=/run/netns/bad \
             CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/bowline-cni; echo \" exit $?\"; \
             ip netns del bad; after=$(ls /sys/class/net | wc -l); [ $before = $after ] && echo clean; \
             find /var/lib/cni/bowline -printf '%p %l\n' | grep -w bad || echo nothing of it"
        );
        let output = cluster.in_node("n2", &["sh", "-c", &script]);
        assert!(
            output.contains(&format!("\"code\":{code}"))
                || output.contains(&format!("\"code\": {code}")),
            "{output}"
        );
        assert!(output.contains("exit 1") && output.contains("clean"), "{output}");
        assert!(output.contains("nothing of it"), "{output}");
    }
}

#[test]
fn commands_say_what_is_wrong_and_what_to_do() {
    let bowline = |arguments: &[&str]| {
        let output =
            Command::new(bin_dir().join("bowline")).args(arguments).output().expect("it was built");
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let says = |arguments: &[&str], parts: &[&str]| {
        let text = bowline(arguments);
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {part:?} is missing in {text}");
        }
    };
    says(&["local", "--cluster=no-such", "status"], &["no-such", "bowline local up"]);
    says(&["local", "--cluster=../x", "up"], &["../x", "lower-case"]);
    says(&["no-such-command"], &["no-such-command", "bowline --help"]);
    says(
        &["agent", "--server=https://127.0.0.1:1", "--token=x"],
        &["not a join token", "bowline token"],
    );
    let kept = Path::new("/var/lib/bowline/agent/containerd");
    assert!(!kept.exists(), "an agent that can't join has started containerd");
    // A port that is taken.
    let taken = std::net::TcpListener::bind("[::]:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let folder = std::env::temp_dir().join(format!("bowline-taken-{}", std::process::id()));
    says(
        &[
            "server",
            &format!("--port={port}"),
            "--advertise-address=127.0.0.1",
            &format!("--data-dir={}", folder.display()),
        ],
        &[&port.to_string(), "listen"],
    );
    std::fs::remove_dir_all(&folder).expect("it was ours");
}

#[test]
fn a_host_that_lacks_what_the_proxy_needs_is_told_what_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c, \
        clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], \
        contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}";
    std::fs::write(file("kubeconfig"), kubeconfig).expect("it can be written");
    std::fs::write(file("release"), "5.10.0-13-amd64\n").expect("it can be written");
    let run = format!(
        "timeout 20 {} run --node-name=n --kubeconfig={} --health-address=127.0.0.1:0 \
         --metrics-address=127.0.0.1:0 --bpf-dir={}",
        bin_dir().join("bowline-proxy").display(),
        file("kubeconfig"),
        file("bpf")
    );
    let old = format!("mount --bind {} /proc/sys/kernel/osrelease; exec {run}", file("release"));
    let no_bpf = format!("exec {run}");
    let no_cgroup2 = format!(
        "for mount in $(findmnt -rno TARGET -t cgroup2 | sort -r); do umount -l $mount; done; \
         exec {run}"
    );
    for (script, parts) in [
        (old, ["kernel 5.10.0-13-amd64 is too old", "boot a newer kernel"]),
        (no_bpf, ["is not on a bpf file system", "mount -t bpf bpf /sys/fs/bpf"]),
        (no_cgroup2, ["no cgroup2 mount", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"]),
    ] {
        // In namespaces of its own, so that nothing of it stays; the proxy looks at process 1's mounts.
        let output = Command::new("unshare")
            .args(["-m", "-p", "-f", "--mount-proc", "sh", "-ec", &script])
            .output()
            .expect("unshare(1) is part of Debian's base");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}: {said}");
        for part in parts {
            assert!(said.contains(part), "{script}: {part:?} is missing in {said}");
        }
    }
    assert!(!folder.path().join("bpf").exists(), "what is no bpf file system was left changed");
}
