//! `bowline-proxy install-cni`: puts the CNI plugin and its configuration on the node, and ends.
//!
//! The configuration needs the node's pod ranges, so this waits for them. Both files are replaced
//! atomically: the container runtime may read them at any time.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::reflector::{Node, Object};

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
    #[error("can't encode the configuration")]
    Encode { source: serde_json::Error },
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Conflist {
    cni_version: &'static str,
    name: &'static str,
    plugins: [Plugin; 1],
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Plugin {
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
    write_conflist(&config, &node)
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
    let conflist = Conflist {
        cni_version: cni_version(&node.status.node_info.container_runtime_version),
        name: "bowline",
        plugins: [Plugin {
            r#type: PLUGIN,
            ranges: node.pod_ranges(),
            cluster_cidrs,
            mtu: config.mtu,
        }],
    };
    let text =
        serde_json::to_vec_pretty(&conflist).map_err(|source| InstallError::Encode { source })?;
    let path = config.conf_dir.join(CONFLIST);
    if std::fs::read(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    replace(&path, &text, 0o644)?;
    tracing::info!(path = %path.display(), version = conflist.cni_version, "CNI configured");
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
    let mut waited = Duration::ZERO;
    loop {
        let failed = |source| InstallError::Request { node: node.to_owned(), source };
        let request = http::Request::get(&path).body(Vec::new()).map_err(failed)?;
        let problem = match client.request::<Node>(request).await {
            Ok(node) if !node.pod_ranges().is_empty() => return Ok(node),
            Ok(_) => "it has no podCIDR yet (the node IPAM controller gives it)".to_owned(),
            Err(error) => error.to_string(),
        };
        if waited.as_millis().is_multiple_of(SAY.as_millis()) {
            tracing::info!(node, %problem, "waiting for the node's pod ranges");
        }
        tokio::time::sleep(POLL).await;
        waited += POLL;
    }
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
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).expect("it exists");
            let mut names: Vec<String> = entries
                .map(|e| e.expect("an entry").file_name().to_string_lossy().into())
                .collect();
            names.sort();
            names
        };
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
    }
}
