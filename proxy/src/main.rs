//! The `bowline-proxy` command: flags to configuration, configuration to a run, a run to an exit code.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bowline_proxy::maps::{BpfMaps, Maps};
use bowline_proxy::{agent, install_cni, loader, observe};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The service load balancer of a Kubernetes node, in eBPF.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent of this node (privileged, in the host's network and process namespaces).
    Run(Run),
    /// Put the CNI plugin and its configuration on this node.
    InstallCni(InstallCni),
    /// Show the service addresses in the kernel and the backends that they lead to.
    Services(Show),
    /// Show the backends in the kernel.
    Backends(Show),
    /// Show entries, capacity and bytes of each map.
    Maps(Show),
    /// Take everything of this agent's off the node: programs, maps, routes, nftables.
    Cleanup(Cleanup),
}

#[derive(Args)]
struct Bpf {
    /// Directory for the pinned maps and links, on a bpf file system.
    #[arg(long, default_value = loader::DEFAULT_DIRECTORY)]
    bpf_dir: PathBuf,
}

#[derive(Args)]
struct Node {
    /// This node's name in the API.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Kubeconfig; without one, the pod's service account.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Ranges of all pods of the cluster; without, the ranges of the nodes.
    #[arg(long = "cluster-cidr", env = "CLUSTER_CIDR", value_delimiter = ',')]
    cluster_cidrs: Vec<IpNetwork>,
    /// Write the log as JSON.
    #[arg(long)]
    log_json: bool,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    bpf: Bpf,
    /// The cgroup whose sockets are served; without, the root of process 1's cgroup2 mount.
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Interfaces that serve node ports; without, those of the default routes.
    #[arg(long = "uplink", value_delimiter = ',')]
    uplinks: Vec<String>,
    /// Address of /healthz, /livez and /readyz.
    #[arg(long, default_value = "0.0.0.0:10256")]
    health_address: SocketAddr,
    /// Address of /metrics.
    #[arg(long, default_value = "0.0.0.0:10249")]
    metrics_address: SocketAddr,
}

#[derive(Args)]
struct InstallCni {
    #[command(flatten)]
    node: Node,
    /// Directory that holds the plugin's binary; without, that of this program.
    #[arg(long)]
    source: Option<PathBuf>,
    #[command(flatten)]
    cni: CniDirs,
    /// MTU of pods' interfaces; 0: that of the uplink.
    #[arg(long, default_value_t = 0)]
    mtu: u32,
}

#[derive(Args)]
struct CniDirs {
    /// The host's directory for CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The host's directory for CNI configuration.
    #[arg(long, default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

#[derive(Args)]
struct Cleanup {
    #[command(flatten)]
    bpf: Bpf,
    /// Remove the CNI plugin and its configuration, too: new pods need another network then.
    #[arg(long)]
    cni: bool,
    #[command(flatten)]
    cni_dirs: CniDirs,
    /// Where the CNI plugin notes the addresses of pods.
    #[arg(long, default_value = "/var/lib/cni/bowline")]
    cni_state: PathBuf,
    /// Then wait for SIGTERM, as the pod of a DaemonSet has to.
    #[arg(long)]
    stay: bool,
}

#[derive(Args)]
struct Show {
    #[command(flatten)]
    bpf: Bpf,
    /// Format.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bowline-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => {
            start_log(flags.node.log_json);
            runtime()?.block_on(run(flags))
        }
        Command::InstallCni(flags) => {
            start_log(flags.node.log_json);
            runtime()?.block_on(install(flags))
        }
        Command::Services(show) => {
            let rows = observe::services(&open(&show)?.dump()?);
            print(show.output, &rows, || observe::services_table(&rows))
        }
        Command::Backends(show) => {
            let rows = observe::backends(&open(&show)?.dump()?);
            print(show.output, &rows, || observe::backends_table(&rows))
        }
        Command::Maps(show) => {
            let rows = open(&show)?.usage()?;
            print(show.output, &rows, || observe::maps_table(&rows))
        }
        Command::Cleanup(flags) => {
            start_log(false);
            runtime()?.block_on(cleanup(flags)).context("could not remove all")
        }
    }
}

async fn run(flags: Run) -> anyhow::Result<()> {
    let client = connect(&flags.node).await?;
    let config = agent::Config {
        node: flags.node.node_name,
        loader: loader::Config {
            directory: flags.bpf.bpf_dir,
            cgroup_root: flags.cgroup_root,
            ..loader::Config::default()
        },
        uplinks: flags.uplinks,
        cluster_cidrs: flags.node.cluster_cidrs,
        health_address: dual(flags.health_address),
        metrics_address: dual(flags.metrics_address),
    };
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone(), "stopping; the dataplane goes on without this agent")?;
    Ok(agent::run(client, config, stop).await?)
}

async fn install(flags: InstallCni) -> anyhow::Result<()> {
    let client = connect(&flags.node).await?;
    let config = install_cni::Config {
        node: flags.node.node_name,
        source: flags.source,
        bin_dir: flags.cni.bin_dir,
        conf_dir: flags.cni.conf_dir,
        cluster_cidrs: flags.node.cluster_cidrs,
        mtu: flags.mtu,
    };
    Ok(install_cni::run(client, config).await?)
}

async fn cleanup(flags: Cleanup) -> anyhow::Result<()> {
    // Listened for first: a signal meanwhile must not end it halfway.
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone(), "stopping")?;
    if flags.cni {
        let dirs = &flags.cni_dirs;
        install_cni::remove(&dirs.bin_dir, &dirs.conf_dir, &flags.cni_state)
            .context("the CNI plugin")?;
    }
    let config = loader::Config { directory: flags.bpf.bpf_dir, ..loader::Config::default() };
    agent::cleanup(&config).await?;
    tracing::info!("nothing of Bowline's is left in this node's kernel");
    if flags.stay {
        stop.cancelled().await;
    }
    Ok(())
}

async fn connect(node: &Node) -> anyhow::Result<kube::Client> {
    bowline_api::client::install_crypto();
    Ok(bowline_api::client::connect(node.kubeconfig.as_deref()).await?)
}

/// The unspecified IPv4 address means both families, where the kernel has both.
fn dual(address: SocketAddr) -> SocketAddr {
    let any = address.ip() == IpAddr::from([0, 0, 0, 0]);
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    if any && has_v6 { ([0u16; 8], address.port()).into() } else { address }
}

fn stop_on_signal(stop: CancellationToken, say: &'static str) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("{say}");
        stop.cancel();
    });
    Ok(())
}

fn open(show: &Show) -> anyhow::Result<BpfMaps> {
    let pins = loader::pins_below(&show.bpf.bpf_dir);
    BpfMaps::open(&pins).with_context(|| {
        format!(
            "no maps at {}: is the agent running on this node? Else pass --bpf-dir",
            pins.display()
        )
    })
}

fn print<T: serde::Serialize>(
    output: Output,
    rows: &T,
    table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    use std::io::Write;
    let text = match output {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(rows)? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader (`head`) has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// One thread for all but the dataplane: the agent waits far more than it works.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("can't start the runtime")
}

fn start_log(json: bool) {
    // RUST_LOG says otherwise. The client tells of every failed request, which whoever made it tells, too.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client::client=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = builder.with_ansi(ansi).with_writer(std::io::stderr);
    match json {
        true => builder.json().init(),
        false => builder.with_target(false).init(),
    }
}
