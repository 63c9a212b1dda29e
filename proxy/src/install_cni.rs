//! `bowline-proxy install-cni`: puts the CNI plugin and its configuration on the node, and ends.
//!
//! The configuration needs the node's pod ranges, so this waits for them. Both files are replaced
//! atomically: the container runtime may read them at any time.

mod portmap;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bowline_api::chain::chain;
use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::reflector::{Node, Object};
use crate::routes;

/// The plugin's name, in the image and on the node.
const PLUGIN: &str = "bowline-cni";
/// The plugin that containerd runs in every pod, whatever the network; ours plays that part too.
const LOOPBACK: &str = "loopback";
/// Sorts before other networks' files, of which a runtime takes the first.
const CONFLIST: &str = "10-bowline.conflist";
/// How often the Node is read until it has its pod ranges.
const POLL: Duration = Duration::from_millis(200);
/// How often the wait is said.
const SAY: Duration = Duration::from_secs(10);
/// Without any answer for this long the program ends: the kubelet starts it again with the address
/// that the ConfigMap names by then, which a running container would never learn.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to install and what to write.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: String,
    /// Holds the plugin's binary; by default the directory of this program.
    pub source: Option<PathBuf>,
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
    pub cluster_cidrs: Vec<IpNetwork>,
    /// 0: that of the uplink.
    pub mtu: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("can't find where this program lies; pass --source")]
    OwnPath { source: io::Error },
    #[error("can't read the plugin {}; it belongs beside this program", path.display())]
    ReadPlugin { path: PathBuf, source: io::Error },
    #[error("can't write {}; is the host's directory mounted here?", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("can't build the request for node {node}")]
    Request { node: String, source: http::Error },
    #[error(
        "the apiserver at {server} does not answer; where no other service proxy runs, the \
         ConfigMap kube-system/bowline must hold KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT"
    )]
    NoAnswer { server: String, source: Box<kube::Error> },
    #[error("can't encode the configuration")]
    Encode { source: serde_json::Error },
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Conflist {
    cni_version: &'static str,
    name: &'static str,
    plugins: Vec<Plugin>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(untagged)]
enum Plugin {
    Ours(Ours),
    Portmap(portmap::Portmap),
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Ours {
    r#type: &'static str,
    ranges: Vec<IpNetwork>,
    cluster_cidrs: Vec<IpNetwork>,
    mtu: u32,
}

/// Installs the plugin, waits for the node's pod ranges, and writes the configuration last: from
/// then on the runtime starts pods.
pub async fn run(client: kube::Client, config: Config) -> Result<(), InstallError> {
    install_plugin(&config)?;
    let node = wait_for_ranges(client, &config.node).await?;
    masquerade(&config, &node);
    write_conflist(&config, &node)
}

/// What the first pods send must not leave the node before the agent masquerades it: conntrack would
/// keep those connections as they began, and nobody outside can answer them. Where this fails, the
/// agent says more about it.
fn masquerade(config: &Config, node: &Node) {
    // Without the cluster's ranges only the agent knows which destinations are pods.
    if config.cluster_cidrs.is_empty() {
        return;
    }
    if let Err(error) = routes::masquerade(&node.pod_ranges(), &config.cluster_cidrs) {
        tracing::info!(error = %chain(&error), "pods are masqueraded when the agent runs");
    }
}

fn install_plugin(config: &Config) -> Result<(), InstallError> {
    let from = match &config.source {
        Some(directory) => directory.join(PLUGIN),
        None => std::env::current_exe()
            .map_err(|source| InstallError::OwnPath { source })?
            .with_file_name(PLUGIN),
    };
    let plugin = std::fs::read(&from)
        .map_err(|source| InstallError::ReadPlugin { path: from.clone(), source })?;
    // Somebody else's loopback plugin does as well, and stays.
    let loopback = config.bin_dir.join(LOOPBACK);
    let names = if loopback.exists() { &[PLUGIN][..] } else { &[PLUGIN, LOOPBACK] };
    for name in names {
        let to = config.bin_dir.join(name);
        if std::fs::read(&to).is_ok_and(|present| present == plugin) {
            continue;
        }
        replace(&to, &plugin, 0o755)?;
        tracing::info!(path = %to.display(), "CNI plugin installed");
    }
    Ok(())
}

fn write_conflist(config: &Config, node: &Node) -> Result<(), InstallError> {
    let mut cluster_cidrs = config.cluster_cidrs.clone();
    if cluster_cidrs.is_empty() {
        cluster_cidrs = node.pod_ranges();
    }
    let own = Ours { r#type: PLUGIN, ranges: node.pod_ranges(), cluster_cidrs, mtu: config.mtu };
    let mut cni_version = cni_version(&node.status.node_info.container_runtime_version);
    let mut plugins = vec![Plugin::Ours(own)];
    if let Some((portmap, version)) = portmap::find(&config.bin_dir, cni_version) {
        cni_version = version;
        plugins.push(Plugin::Portmap(portmap));
    }
    let conflist = Conflist { cni_version, name: "bowline", plugins };
    let text =
        serde_json::to_vec_pretty(&conflist).map_err(|source| InstallError::Encode { source })?;
    let path = config.conf_dir.join(CONFLIST);
    if std::fs::read(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    replace(&path, &text, 0o644)?;
    let host_ports = conflist.plugins.len() > 1;
    let version = conflist.cni_version;
    tracing::info!(path = %path.display(), version, host_ports, "CNI configured");
    Ok(())
}

/// containerd below 2.0 knows no 1.1.0 and would refuse the whole file; any other runtime is taken
/// for one that is new enough only if it says so.
fn cni_version(runtime: &str) -> &'static str {
    let major =
        |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match runtime.split_once("://") {
        Some(("containerd", version)) if major(version) >= Some(2) => "1.1.0",
        _ => "1.0.0",
    }
}

async fn wait_for_ranges(client: kube::Client, node: &str) -> Result<Node, InstallError> {
    let path = format!("{}/{node}", Node::PATH);
    let mut answered = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let failed = |source| InstallError::Request { node: node.to_owned(), source };
        let request = http::Request::get(&path).body(Vec::new()).map_err(failed)?;
        let problem = match client.request::<Node>(request).await {
            Ok(node) if !node.pod_ranges().is_empty() => return Ok(node),
            Ok(_) => {
                answered = Instant::now();
                "it has no podCIDR yet (the node IPAM controller gives it)".to_owned()
            }
            Err(error) if is_hopeless(&error, answered.elapsed()) => {
                return Err(InstallError::NoAnswer { server: server(), source: Box::new(error) });
            }
            Err(error) => {
                if is_answer(&error) {
                    answered = Instant::now();
                }
                chain(&error)
            }
        };
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            tracing::info!(node, %problem, "waiting for the node's pod ranges");
            said = Some(Instant::now());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether waiting on is in vain, when the last answer was `silent` ago.
fn is_hopeless(error: &kube::Error, silent: Duration) -> bool {
    !is_answer(error) && silent >= PATIENCE
}

/// A refusal is an answer, too: what it lacks may follow.
fn is_answer(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(_))
}

/// Where a pod's client looks for the apiserver.
fn server() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    format!("{}:{}", variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"))
}

/// Takes the configuration and the plugin off the node, so that another network can follow. What
/// the plugin has noted in `state_dir` stays while pods use its addresses.
pub fn remove(bin_dir: &Path, conf_dir: &Path, state_dir: &Path) -> io::Result<()> {
    let mut files = vec![conf_dir.join(CONFLIST), bin_dir.join(PLUGIN)];
    let loopback = bin_dir.join(LOOPBACK);
    if std::fs::read(&loopback).is_ok_and(|binary| is_ours(&binary)) {
        files.push(loopback);
    }
    for path in files {
        match std::fs::remove_file(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let attachments = std::fs::read_dir(state_dir.join("attachments"));
    let pods = attachments.map_or(0, |entries| entries.flatten().count());
    if pods > 0 {
        tracing::warn!(pods, path = %state_dir.display(), "pods still have our addresses; kept");
        return Ok(());
    }
    // It may be a mount, which can't go itself.
    for entry in std::fs::read_dir(state_dir).into_iter().flatten().flatten() {
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn is_ours(binary: &[u8]) -> bool {
    binary.windows(PLUGIN.len()).any(|window| window == PLUGIN.as_bytes())
}

/// Writes beside and renames: readers see the old file or the new one, whole.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| InstallError::Write { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| {
        let _best_effort = std::fs::remove_file(&beside);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(runtime: &str) -> Node {
        let json = serde_json::json!({
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
            "status": {"nodeInfo": {"containerRuntimeVersion": runtime}},
        });
        serde_json::from_value(json).expect("the node parses")
    }

    #[test]
    fn the_version_is_what_the_runtime_knows() {
        assert_eq!(cni_version("containerd://1.6.20~ds1"), "1.0.0");
        assert_eq!(cni_version("containerd://2.1.4"), "1.1.0");
        assert_eq!(cni_version("cri-o://1.33.0"), "1.0.0");
        assert_eq!(cni_version(""), "1.0.0");
    }

    #[test]
    fn the_plugin_and_its_configuration_are_written_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let source = directory.path().join("image");
        std::fs::create_dir(&source).expect("a directory");
        std::fs::write(source.join(PLUGIN), b"a binary").expect("a file");
        let config = Config {
            node: "here".into(),
            source: Some(source),
            bin_dir: directory.path().join("opt/cni/bin"),
            conf_dir: directory.path().join("etc/cni/net.d"),
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a literal")],
            mtu: 0,
        };
        for _ in 0..2 {
            install_plugin(&config).expect("the plugin is installed");
            write_conflist(&config, &node("containerd://1.6.20")).expect("it is written");
        }
        assert_eq!(names(&config.bin_dir), [PLUGIN, LOOPBACK]);
        assert_eq!(names(&config.conf_dir), [CONFLIST]);
        let text = std::fs::read(config.conf_dir.join(CONFLIST)).expect("it is there");
        let json: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
        let expected = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": "bowline",
            "plugins": [{
                "type": "bowline-cni",
                "ranges": ["10.244.1.0/24"],
                "clusterCidrs": ["10.244.0.0/16"],
                "mtu": 0,
            }],
        });
        assert_eq!(json, expected);

        std::fs::write(config.bin_dir.join(portmap::NAME), "of others").expect("a file");
        write_conflist(&config, &node("containerd://2.1.4")).expect("it is written");
        let text = std::fs::read(config.conf_dir.join(CONFLIST)).expect("it is there");
        let json: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
        let chained = serde_json::json!({
            "type": "portmap", "capabilities": {"portMappings": true},
        });
        assert_eq!((&json["cniVersion"], &json["plugins"][1]), (&"1.0.0".into(), &chained));
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(path).expect("it exists");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn removal_leaves_what_others_own_and_what_pods_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let [bin, conf, state] = ["bin", "conf", "state"].map(|name| directory.path().join(name));
        for path in [&bin, &conf, &state.join("attachments"), &state.join("addresses")] {
            std::fs::create_dir_all(path).expect("a directory");
        }
        let write = |path: PathBuf, text: &str| std::fs::write(path, text).expect("a file");
        for name in [PLUGIN, LOOPBACK, "bridge"] {
            write(bin.join(name), &format!("ELF {name} bowline-cni"));
        }
        write(conf.join(CONFLIST), "{}");
        write(conf.join("20-other.conflist"), "{}");
        write(state.join("lock"), "");
        write(state.join("attachments/a-pod"), "{}");
        remove(&bin, &conf, &state).expect("it is removed");
        assert_eq!(names(&bin), ["bridge"]);
        assert_eq!(names(&conf), ["20-other.conflist"]);
        assert_eq!(names(&state), ["addresses", "attachments", "lock"], "a pod is left");
        std::fs::remove_file(state.join("attachments/a-pod")).expect("the pod goes");
        write(bin.join(LOOPBACK), "somebody else's");
        remove(&bin, &conf, &state).expect("it is removed again");
        assert_eq!(names(&bin), ["bridge", LOOPBACK]);
        assert_eq!(names(&state), Vec::<String>::new());
        remove(&bin, &conf, &directory.path().join("nothing")).expect("nothing is left to do");
    }

    #[test]
    fn only_an_apiserver_that_says_nothing_ends_the_wait() {
        let silent = kube::Error::Service(Box::new(io::Error::other("connection refused")));
        assert!(!is_hopeless(&silent, PATIENCE / 2), "it may be on its way up");
        assert!(is_hopeless(&silent, PATIENCE));
        let status = kube::core::Status::failure("nodes is forbidden", "Forbidden").with_code(403);
        let refused = kube::Error::Api(Box::new(status));
        assert!(!is_hopeless(&refused, PATIENCE * 2), "its RBAC may follow");
        let error = InstallError::NoAnswer { server: server(), source: Box::new(silent) };
        assert!(error.to_string().contains("kube-system/bowline"), "{error}");
        assert!(chain(&error).ends_with("connection refused"), "{}", chain(&error));
    }
}
