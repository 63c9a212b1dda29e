//! `bowline agent`: a node. It brings containerd up, joins the cluster, and runs the kubelet.
//!
//! Who restarts what: systemd (or a local node's init) restarts the agent; the agent restarts
//! containerd, which lives in a session of its own and outlives the agent; containerd's shims
//! outlive containerd, and so do the pods.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_api::client;
use bowline_local::containerd::{self, Containerd};
use bowline_local::image;
use k8s_openapi::api::core::v1::Taint;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Usage;
use crate::addresses;
use crate::huge_pages;
use crate::join::{self, Identity};
use crate::resolver;
use crate::token::{self, JoinToken};

/// What the names of our own images begin with; they come from archives, not from a registry.
const OWN_IMAGES: &str = "docker.io/bowline/";
/// A lease is void when this many renewals were missed.
const LEASES_TO_MISS: u32 = 4;
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  bowline token                    on the server: prints what agents need to join
  bowline agent --server https://10.0.0.5:6443 --token-file /etc/bowline/token
  bowline agent --server https://10.0.0.5:6443 --token-file /etc/bowline/token \\
      --node-label topology.kubernetes.io/zone=a --node-taint dedicated=db:NoSchedule
  bowline agent --server https://10.0.0.5:6443 --token-file /etc/bowline/token \\
      --cri-socket /run/containerd/containerd.sock     with a runtime of your own

The agent may stop and start at any time: containers and their containerd go on.";

/// Settings of a node.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct AgentArgs {
    /// URL of the apiserver
    #[arg(long, value_name = "URL", value_parser = server)]
    pub server: String,
    /// Join token, as `bowline token` prints it on the server
    #[arg(long, env = "BOWLINE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File that holds the join token; waited for if it is not there yet
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node [default: the one with the default route]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Labels of the node
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub node_label: Vec<(String, String)>,
    /// Taints that the node registers with
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_parser = taint)]
    pub node_taint: Vec<Taint>,
    /// Where identity, images and containerd's data are kept
    #[arg(long, default_value = "/var/lib/bowline/agent", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Use this CRI runtime instead of starting our own containerd
    #[arg(long, value_name = "SOCKET")]
    pub cri_socket: Option<PathBuf>,
    /// Image archives to bring in [default: made from the binaries beside this one]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Manifests of static pods
    #[arg(long, default_value = "/etc/kubernetes/manifests", value_name = "DIR")]
    pub static_pods: PathBuf,
    /// Address of the cluster's DNS
    #[arg(long, default_value = "10.96.0.10", value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Name servers for pods that ask none of the cluster's [default: the host's /etc/resolv.conf,
    /// or what is behind its stub]
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Port of the kubelet, where the server fetches logs and runs commands
    #[arg(long, default_value_t = bowline_kubelet::config::DEFAULT_PORT)]
    pub kubelet_port: u16,
    /// Seconds between two signs of life; well below the server's --node-monitor-grace
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub lease_period: u64,
    /// Most pods that this node takes
    #[arg(long, default_value_t = bowline_kubelet::config::DEFAULT_MAX_PODS)]
    pub max_pods: u32,
}

fn server(text: &str) -> Result<String, join::JoinError> {
    join::server_url(text).map(|_| text.trim_end_matches('/').to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is no label; write KEY=VALUE"))
}

fn taint(text: &str) -> Result<Taint, String> {
    let wrong = || format!("{text:?} is no taint; write KEY=VALUE:EFFECT or KEY:EFFECT");
    let (key, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) || key.is_empty() {
        return Err(wrong());
    }
    let (key, value) = match key.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (key, None),
    };
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

/// Runs the node until `shutdown`; its pods and containerd go on after that.
pub async fn run(args: AgentArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    client::install_crypto();
    huge_pages::turn_off();
    if !nix::unistd::geteuid().is_root() {
        return Err(
            Usage("the agent runs containers, and for that it needs root".to_owned()).into()
        );
    }
    let node_name = node_name(&args)?;
    let node_ips = if args.node_ip.is_empty() {
        addresses::outward().into_iter().collect()
    } else {
        args.node_ip.clone()
    };
    if node_ips.is_empty() {
        bail!(
            "this machine has no default route, so no address for the node; name one by --node-ip"
        );
    }
    // What was mistyped is told before anything is started that stays.
    read_token(&args)?;
    let (runtime, identity) = tokio::select! {
        both = async { tokio::try_join!(runtime(&args), joined(&args, &node_name)) } => both?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let socket = args.cri_socket.clone().unwrap_or_else(|| containerd::Config::default().socket);
    let client = client::connect(Some(&identity.kubeconfig)).await?;
    let config = kubelet_config(&args, &node_name, node_ips, &identity, socket, client);
    let kubelet = bowline_kubelet::run(config, shutdown.clone());
    match runtime {
        Some(containerd) => {
            let supervision = containerd.supervise(shutdown.clone());
            tokio::pin!(kubelet, supervision);
            tokio::select! {
                ended = &mut kubelet => ended?,
                () = &mut supervision => kubelet.await?,
            }
        }
        None => kubelet.await?,
    }
    if !shutdown.is_cancelled() {
        bail!("the kubelet ended by itself");
    }
    Ok(())
}

fn node_name(args: &AgentArgs) -> anyhow::Result<String> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_ascii_lowercase(),
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
        let wrong = format!(
            "{name:?} can't be a node's name: only lower-case letters, digits, '-' and '.'; give \
             one by --node-name"
        );
        return Err(Usage(wrong).into());
    }
    Ok(name)
}

/// Our own containerd with the add-ons' images in it; none when the user brings a runtime.
async fn runtime(args: &AgentArgs) -> anyhow::Result<Option<Containerd>> {
    if let Some(socket) = &args.cri_socket {
        bring_images(socket, args).await;
        return Ok(None);
    }
    let config = containerd::Config {
        root: args.data_dir.join("containerd"),
        log: args.data_dir.join("containerd.log"),
        ..containerd::Config::default()
    };
    let (containerd, archives) =
        tokio::join!(Containerd::ensure(config), archives(args.images.clone(), &args.data_dir));
    let containerd = containerd?;
    containerd.import(&archives).await?;
    info!(socket = %containerd.socket().display(), "containerd answers");
    Ok(Some(containerd))
}

/// Imports our images into a runtime that is not ours, where that is a containerd. What fails here
/// is no reason to stop: the runtime may have the images, or pull them.
async fn bring_images(socket: &Path, args: &AgentArgs) {
    let config = containerd::Config { socket: socket.to_owned(), ..containerd::Config::default() };
    let archives = archives(args.images.clone(), &args.data_dir).await;
    let mut told = false;
    let outcome = loop {
        match Containerd::adopt(config.clone()).await {
            Ok(Some(containerd)) => break containerd.import(&archives).await.map(drop),
            Ok(None) if !told => {
                warn!(socket = %socket.display(), "no runtime answers on --cri-socket yet, waiting");
                told = true;
            }
            Ok(None) => {}
            Err(error) => break Err(error),
        }
        tokio::time::sleep(RETRY).await;
    };
    if let Err(error) = outcome {
        warn!(
            socket = %socket.display(),
            "the add-ons' images can't be brought to this runtime, so it has to pull them: {error}"
        );
    }
}

async fn archives(given: Option<PathBuf>, data_dir: &Path) -> Vec<PathBuf> {
    let cache = data_dir.join("images");
    let made = tokio::task::spawn_blocking(move || match given {
        Some(folder) => archives_in(&folder),
        None => {
            let executable = std::env::current_exe()?;
            image::addons(executable.parent().unwrap_or(Path::new("/")), &cache)
        }
    });
    match made.await {
        Ok(Ok(archives)) => archives,
        Ok(Err(error)) => {
            warn!("the add-ons' images can't be made here, so they are pulled: {error}");
            Vec::new()
        }
        Err(error) => {
            warn!("packing images panicked: {error}");
            Vec::new()
        }
    }
}

fn archives_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut archives: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "tar"))
        .collect();
    archives.sort();
    Ok(archives)
}

/// Joins, as often as it takes: a server that starts after its agents is no error. A token or a
/// server that is wrong is one at once.
async fn joined(args: &AgentArgs, node_name: &str) -> anyhow::Result<Identity> {
    let folder = args.data_dir.join("pki");
    let mut pause = RETRY;
    let mut told = String::new();
    loop {
        let token = read_token(args)?;
        if let Some(identity) = join::kept(&args.server, token.as_ref(), &folder)? {
            return Ok(identity);
        }
        let failure: anyhow::Error = match (token, &args.token_file) {
            (Some(token), _) => match join::join(&args.server, &token, node_name, &folder).await {
                Ok(identity) => return Ok(identity),
                Err(error @ join::JoinError::ForeignServer { .. }) => {
                    return Err(Usage(error.to_string()).into());
                }
                Err(error @ (join::JoinError::Denied(_) | join::JoinError::Write { .. })) => {
                    return Err(error.into());
                }
                Err(error) => error.into(),
            },
            (None, Some(file)) => {
                pause = RETRY;
                anyhow::anyhow!("the file with the join token, {}, is not there", file.display())
            }
            (None, None) => {
                let missing = "no join token: give --token or --token-file (run `bowline token` \
                               on the server to see it)";
                return Err(Usage(missing.to_owned()).into());
            }
        };
        let text = format!("{failure:#}");
        if text != told {
            warn!("can't join yet, trying on: {text}");
            told = text;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

fn read_token(args: &AgentArgs) -> anyhow::Result<Option<JoinToken>> {
    let invalid = |place: &str, error: token::InvalidToken| Usage(format!("{place}: {error}"));
    match (&args.token, &args.token_file) {
        (Some(text), _) => Ok(Some(text.parse().map_err(|error| invalid("--token", error))?)),
        (None, Some(path)) => match fs::read_to_string(path) {
            // An empty one is being written.
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => {
                let place = path.display().to_string();
                Ok(Some(text.parse().map_err(|error| invalid(&place, error))?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        },
        (None, None) => Ok(None),
    }
}

fn kubelet_config(
    args: &AgentArgs,
    node_name: &str,
    node_ips: Vec<IpAddr>,
    identity: &Identity,
    socket: PathBuf,
    client: kube::Client,
) -> bowline_kubelet::Config {
    let mut config = bowline_kubelet::Config::new(node_name, client);
    config.node_ips = node_ips;
    config.cri_socket = socket;
    config.static_pod_dir = Some(args.static_pods.clone());
    config.cluster_dns = args.cluster_dns.clone();
    config.cluster_domain = args.cluster_domain.clone();
    config.resolv_conf = args.resolv_conf.clone().unwrap_or_else(resolver::configuration);
    config.listen.set_port(args.kubelet_port);
    config.auth = bowline_kubelet::Auth {
        client_ca: Some(identity.ca_pem.clone().into_bytes()),
        webhook: true,
    };
    config.node_labels = args.node_label.iter().cloned().collect::<BTreeMap<_, _>>();
    config.node_taints = args.node_taint.clone();
    config.max_pods = args.max_pods;
    config.kept_images = vec![OWN_IMAGES.to_owned()];
    config.lease_period = Duration::from_secs(args.lease_period);
    config.lease_duration = config.lease_period * LEASES_TO_MISS;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_is_read_as_kubectl_writes_it() {
        let read = taint("a/b=c:NoSchedule").unwrap();
        assert_eq!((read.key.as_str(), read.value.as_deref()), ("a/b", Some("c")));
        assert_eq!(taint("a:NoExecute").unwrap().value, None);
        assert!(taint("a=b:Sometimes").is_err());
        assert!(taint("a=b").is_err());
    }
}
