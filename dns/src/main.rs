//! `bowline-dns`: the cluster's DNS server.

use std::{io::IsTerminal, process::ExitCode};

use bowline_dns::{
    config::{Config, Options},
    query::{self, QueryOptions},
    supervisor, worker,
};
use clap::Parser;
use hickory_proto::op::ResponseCode;
use tracing::error;
use tracing_subscriber::EnvFilter;

/// DNS server of a Kubernetes cluster.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Own the sockets, and keep a worker running that answers
    Run(Options),
    /// Ask a server one question
    Query(QueryOptions),
    /// Answer queries (started by `run`; by itself, it opens the sockets)
    Worker(Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let (options, is_worker) = match cli.command {
        Command::Run(options) => (options, false),
        Command::Worker(options) => (options, true),
        Command::Query(options) => return ask(&options),
    };
    let result = match options.check() {
        Err(error) => {
            error!("{error}");
            return ExitCode::from(supervisor::EXIT_CONFIG);
        }
        Ok(config) if is_worker => work(config),
        // The worker gets what follows `run`.
        Ok(config) => supervisor::run(&config, std::env::args_os().skip(2).collect())
            .map_err(anyhow::Error::from),
    };
    result.unwrap_or_else(|error| {
        error!("{error:#}");
        ExitCode::FAILURE
    })
}

fn ask(options: &QueryOptions) -> ExitCode {
    match query::ask(options) {
        Ok(answer) => {
            print!("{}", query::render(&answer));
            let found = answer.response_code == ResponseCode::NoError && !answer.answers.is_empty();
            if found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            error!("{:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn work(config: Config) -> anyhow::Result<ExitCode> {
    // The supervisor blocks the signals that it waits for, and its children inherit that.
    nix::sys::signal::SigSet::all().thread_unblock()?;
    // A worker must not outlive the owner of its sockets.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, worker::run(config));
    // Tasks that still wait for upstream have had their time.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}
