//! The `bowline` command.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use bowline::agent::{self, AgentArgs};
use bowline::console::Console;
use bowline::local::{self, UpArgs};
use bowline::server::{self, ServerArgs};
use bowline::status;
use bowline::{USAGE, Usage};
use bowline_local::{Cluster, image, node_init};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

// glibc's allocator keeps what a burst of requests took; this one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A complete, compact Kubernetes whose network is its heart.
#[derive(Parser)]
#[command(name = "bowline", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

/// What is logged unless RUST_LOG says otherwise. The client's layers would tell of every failed
/// request what whoever made it tells better.
const LOGGED: &str = "info,kube_client::client=off";

const EXAMPLES: &str = "\
Examples:
  bowline local up --nodes 3                     a cluster of three nodes on this machine
  bowline local sh n2 ip route                   run a command in a node of it
  bowline server                                 the control plane on this host
  bowline agent --server https://10.0.0.5:6443 --token-file token
                                                 this host as a node of it
  bowline proxy services                         what the load balancer knows (runs bowline-proxy)";

#[derive(Subcommand)]
enum Cmd {
    /// Run the control plane: apiserver, controllers, scheduler
    Server(Box<ServerArgs>),
    /// Run this host as a node: containerd and kubelet
    Agent(Box<AgentArgs>),
    /// A cluster of namespaced nodes on this machine, without Docker
    Local {
        /// Name of the cluster
        #[arg(long, global = true, default_value = "local", value_name = "NAME")]
        cluster: String,
        #[command(subcommand)]
        command: Local,
    },
    /// Print the token by which agents join this server's cluster
    #[command(
        after_help = "Example:\n  bowline token | ssh NODE 'install -D -m 600 /dev/stdin /etc/bowline/token'"
    )]
    Token {
        /// The server's data folder
        #[arg(long, default_value = "/var/lib/bowline/server", value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Write the add-ons' images as OCI archives, for nodes that are not ours
    #[command(
        after_help = "Example:\n  bowline images images && ctr -n k8s.io images import images/proxy.tar"
    )]
    Images {
        /// Made if it is not there; the archives' paths are printed
        folder: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  source <(bowline completion bash)")]
    Completion { shell: Shell },
    // `bowline X` for an X that is not above: runs `bowline-X` with what follows.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

#[derive(Subcommand)]
enum Local {
    /// Start the cluster and wait until it is ready; a running one stays as it is
    Up(Box<UpArgs>),
    /// Remove the cluster and everything of it; succeeds when there is none
    Down,
    /// Show where everything is: addresses, pids, sockets, sizes
    Status {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Run a command in a node (a shell when none is given)
    #[command(after_help = "Example:\n  bowline local sh n1 ip route")]
    Sh {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Bring an OCI or docker image archive to every node
    Load { archive: PathBuf },
    /// Show the log of a unit (server, agent) of a node
    Logs {
        node: String,
        unit: String,
        /// Go on as the log grows
        #[arg(short, long)]
        follow: bool,
    },
    /// PID 1 of a node
    #[command(hide = true)]
    NodeInit { spec: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread: a node's init makes namespaces and forks.
    if let Cmd::Local { command: Local::NodeInit { spec }, .. } = &cli.command {
        return node_init::main(spec);
    }
    let outcome = match cli.command {
        Cmd::Server(args) => daemon(|stop| server::run(*args, stop)),
        Cmd::Agent(args) => daemon(|stop| agent::run(*args, stop)),
        Cmd::Local { cluster, command } => run_local(&cluster, command),
        Cmd::Token { data_dir } => print_token(&data_dir),
        Cmd::Images { folder } => write_images(&folder),
        Cmd::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bowline", &mut script);
            print(&script)
        }
        Cmd::Other(words) => run_other(&words),
    };
    outcome.unwrap_or_else(|error| {
        let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
        if error.downcast_ref().is_some_and(broken) {
            // Whoever read (`| head`) has seen enough.
            return ExitCode::SUCCESS;
        }
        eprintln!("bowline: {error:#}");
        if error.is::<Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
    })
}

/// Runs a part until SIGTERM or SIGINT.
fn daemon<F, Fut>(part: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Runtime::new().context("can't start the async runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let signalled = stop.clone();
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            signalled.cancel();
        });
        part(stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn run_local(name: &str, command: Local) -> anyhow::Result<ExitCode> {
    match command {
        Local::Up(args) => {
            let runtime =
                tokio::runtime::Runtime::new().context("can't start the async runtime")?;
            runtime.block_on(local::up(name, *args))?;
        }
        Local::Down => {
            let console = Console::default();
            Cluster::down(name, None, &console)?;
            console.finish();
        }
        Local::Status { output } => {
            let status = open(name)?.status()?;
            match output {
                Output::Json => print((serde_json::to_string_pretty(&status)? + "\n").as_bytes())?,
                Output::Table => print(status::table(&status).as_bytes())?,
            };
        }
        Local::Sh { node, command } => return shell(&open(name)?, &node, command),
        Local::Load { archive } => {
            let console = Console::default();
            let images = open(name)?.load(&archive, &console)?;
            console.finish();
            print(images.iter().map(|image| format!("{image}\n")).collect::<String>().as_bytes())?;
        }
        Local::Logs { node, unit, follow } => {
            print_log(&open(name)?.log_file(&node, &unit)?, follow)?;
        }
        Local::NodeInit { .. } => bail!("node-init runs before anything else"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn open(name: &str) -> anyhow::Result<Cluster> {
    Cluster::open(name, None)?
        .with_context(|| format!("there is no cluster {name:?}; start one with `bowline local up`"))
}

fn shell(cluster: &Cluster, node: &str, command: Vec<String>) -> anyhow::Result<ExitCode> {
    let command = if command.is_empty() { vec!["sh".to_owned()] } else { command };
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    let status = cluster.node(node)?.spawn(process)?.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn print_log(path: &Path, follow: bool) -> anyhow::Result<()> {
    let mut file =
        std::fs::File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut out = std::io::stdout();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut chunk)?;
        out.write_all(&chunk[..read])?;
        if read > 0 {
            continue;
        }
        if !follow {
            return Ok(());
        }
        out.flush()?;
        // A log that was cut short is read from its start.
        if file.metadata()?.len() < file.stream_position()? {
            file.seek(SeekFrom::Start(0))?;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn print_token(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let path = data_dir.join("token");
    let token = std::fs::read_to_string(&path).with_context(|| {
        format!("can't read {}; is this the server's host, and are you root?", path.display())
    })?;
    print(token.as_bytes())
}

fn write_images(folder: &Path) -> anyhow::Result<ExitCode> {
    let executable = std::env::current_exe()?;
    let archives = image::addons(executable.parent().unwrap_or(Path::new("/")), folder)
        .with_context(|| format!("can't write the images to {}", folder.display()))?;
    let lines = archives.iter().map(|archive| format!("{}\n", archive.display()));
    print(lines.collect::<String>().as_bytes())
}

/// As git does: `bowline X` runs `bowline-X`, from beside this program or from the PATH.
fn run_other(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let (name, rest) = words.split_first().context("no command")?;
    let mut program = OsString::from("bowline-");
    program.push(name);
    let beside = std::env::current_exe()?.with_file_name(&program);
    let program = if beside.exists() { beside } else { program.into() };
    let error = Command::new(&program).args(rest).exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!(
            "{:?} is no command of bowline, and there is no {}; see `bowline --help`",
            name,
            program.display()
        );
    }
    Err(error).with_context(|| format!("can't run {}", program.display()))
}
