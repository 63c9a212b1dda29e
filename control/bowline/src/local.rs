//! `bowline local`: a cluster of namespaced nodes on this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bowline_api::client;
use bowline_local::{
    BIN_IN_NODE, Cluster, NodePlan, Options, Plan, Progress, SHARED_IN_NODE, Unit, Workload, image,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};

use crate::console::Console;
use crate::durable;
use crate::manifests;

const READY_DEADLINE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
const ADD_ONS: [&str; 2] = ["bowline-proxy", "bowline-dns"];

/// A Bowline cluster as a workload of namespaced nodes: the server on n1, an agent on each.
pub struct Bowline {
    /// Further arguments of `bowline server`.
    pub server_args: Vec<String>,
    /// Further arguments of `bowline agent`.
    pub agent_args: Vec<String>,
}

impl Bowline {
    /// Where the administrator's kubeconfig of a cluster appears, on the host.
    pub fn kubeconfig(plan: &Plan) -> PathBuf {
        plan.shared_dir().join("kubeconfig")
    }
}

impl Workload for Bowline {
    fn prepare(&self, plan: &Plan) -> io::Result<()> {
        image::addons(&plan.bin_dir, &plan.shared_dir().join("images")).map(drop)
    }

    fn units(&self, plan: &Plan, node: &NodePlan) -> Vec<Unit> {
        let bowline = format!("{BIN_IN_NODE}/bowline");
        let shared = |file: &str| format!("{SHARED_IN_NODE}/{file}");
        let server_address = plan.nodes[0].address;
        let mut units = Vec::new();
        if node.number == 1 {
            let mut command = vec![
                bowline.clone(),
                "server".to_owned(),
                format!("--advertise-address={server_address}"),
                format!("--write-kubeconfig={}", shared("kubeconfig")),
                format!("--write-token={}", shared("token")),
            ];
            command.extend(self.server_args.iter().cloned());
            units.push(Unit::new("server", command));
        }
        let mut command = vec![
            bowline,
            "agent".to_owned(),
            format!("--server=https://{server_address}:6443"),
            format!("--token-file={}", shared("token")),
            format!("--node-name={}", node.name),
            format!("--node-ip={}", node.address),
            format!("--images={}", shared("images")),
        ];
        command.extend(self.agent_args.iter().cloned());
        units.push(Unit::new("agent", command));
        units
    }
}

/// Settings of `bowline local up`.
#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    /// How many nodes: n1, n2 and so on
    #[arg(long, default_value_t = 1)]
    pub nodes: u16,
    /// Leave the administrator's kubeconfig here
    #[arg(long, default_value = "kubeconfig", value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Apply this manifest when the cluster is ready, and wait for its deployments
    #[arg(long, value_name = "FILE")]
    pub demo: Option<PathBuf>,
    /// Further argument of `bowline server`; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// Further argument of `bowline agent`; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub agent_arg: Vec<String>,
}

/// Brings the cluster up (a running one stays as it is), waits until it is ready, says how to use it.
pub async fn up(name: &str, args: UpArgs) -> anyhow::Result<()> {
    client::install_crypto();
    bowline_local::containerd::preflight()?;
    let console = Console::default();
    let options = Options::new(name, args.nodes)?;
    let workload =
        Bowline { server_args: args.server_arg.clone(), agent_args: args.agent_arg.clone() };
    let up = tokio::task::block_in_place(|| Cluster::up(&options, &workload, &console))?;
    let plan = up.cluster.plan();
    let (client, text) = connect(plan, &console).await?;
    ready(&client, plan.nodes.len(), &console).await?;
    durable::write(&args.kubeconfig, text.as_bytes(), durable::SECRET)
        .with_context(|| format!("can't write {}", args.kubeconfig.display()))?;
    if let Some(demo) = &args.demo {
        console.step(&format!("demo: {}", demo.display()));
        let applied = manifests::apply_file(&client, demo).await;
        applied.with_context(|| format!("the demo {}", demo.display()))?;
        deployments_available(&client).await?;
    }
    console.finish();
    print_usage(plan, &args, up.booted.is_empty(), console.elapsed());
    Ok(())
}

async fn connect(plan: &Plan, console: &Console) -> anyhow::Result<(Client, String)> {
    console.step("apiserver");
    let path = Bowline::kubeconfig(plan);
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let failure = match attempt(&path).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(failure
                .context("the apiserver does not answer; see `bowline local logs n1 server`"));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn attempt(path: &Path) -> anyhow::Result<(Client, String)> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let client = client::connect(Some(path)).await?;
    client.apiserver_version().await?;
    Ok((client, text))
}

/// Waits until every node is Ready and every add-on runs on every node.
pub async fn ready(client: &Client, nodes: usize, progress: &dyn Progress) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    let mut told = String::new();
    loop {
        let state = match missing(client, nodes).await {
            Ok(None) => return Ok(()),
            Ok(Some(what)) => what,
            Err(error) => format!("the apiserver ({error})"),
        };
        if Instant::now() > deadline {
            bail!(
                "still waiting for {state} after {READY_DEADLINE:?}; see `kubectl get pods -A` and `bowline local logs`"
            );
        }
        if state != told {
            progress.step(&format!("waiting for {state}"));
            told = state;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the cluster still lacks, for people; none when it is ready.
async fn missing(client: &Client, nodes: usize) -> kube::Result<Option<String>> {
    let all = ListParams::default();
    let ready = Api::<Node>::all(client.clone())
        .list(&all)
        .await?
        .iter()
        .filter(|node| {
            let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        })
        .count();
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "kube-system");
    for name in ADD_ONS {
        let status = sets.get_opt(name).await?.and_then(|set| set.status);
        let running = status.map_or(0, |s| s.number_ready);
        if usize::try_from(running).unwrap_or(0) < nodes {
            return Ok(Some(format!("{name} ({running} of {nodes} nodes)")));
        }
    }
    if ready < nodes {
        return Ok(Some(format!("nodes ({ready} of {nodes} Ready)")));
    }
    Ok(None)
}

async fn deployments_available(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    loop {
        let waiting: Vec<String> = api
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter(|d| {
                let wanted = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                d.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0) < wanted
            })
            .filter_map(|d| d.metadata.name)
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("deployments not available after {READY_DEADLINE:?}: {}", waiting.join(", "));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn print_usage(plan: &Plan, args: &UpArgs, existed: bool, elapsed: Duration) {
    let nodes = plan.nodes.len();
    let plural = if nodes == 1 { "" } else { "s" };
    if existed {
        println!("The cluster of {nodes} node{plural} runs already; nothing was changed.");
    } else {
        println!("A cluster of {nodes} node{plural} is up after {:.1} s.", elapsed.as_secs_f64());
    }
    println!("\n  export KUBECONFIG={}", absolute(&args.kubeconfig).display());
    println!("  kubectl get pods -A -o wide");
    if args.demo.is_some() {
        println!(
            "  curl http://{}:30080/          # the demo, by its node port",
            plan.nodes[0].address
        );
    }
    println!("\nRemove it all with `make down` (or `bowline local down`).");
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
