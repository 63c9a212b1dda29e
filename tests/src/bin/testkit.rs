//! The program in the test pods, and the client outside the cluster.

use std::time::Duration;

use bowline_tests::kit::load::LoadArgs;
use bowline_tests::kit::{dns, hold, load, serve, udp};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Servers and load generators of Bowline's own tests")]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Answer on TCP (HTTP and line echo) and UDP with this host's name
    Serve {
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Leave at once on SIGTERM instead of draining
        #[arg(long)]
        abrupt: bool,
    },
    /// HTTP requests, a new connection for each
    Load(LoadArgs),
    /// Connections that stay open
    Hold {
        target: String,
        #[arg(long, default_value_t = 10)]
        count: usize,
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        #[arg(long, default_value_t = 50)]
        pause_ms: u64,
    },
    /// Datagrams from one socket
    Udp {
        target: String,
        #[arg(long, default_value_t = 50)]
        count: u64,
        #[arg(long, default_value_t = 10)]
        pause_ms: u64,
        #[arg(long)]
        connected: bool,
    },
    /// DNS queries
    Dns {
        name: String,
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        #[arg(long, default_value_t = 20)]
        pause_ms: u64,
        #[arg(long, default_value_t = 2000)]
        timeout_ms: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let ms = Duration::from_millis;
    let report = match Cli::parse().command {
        Cmd::Serve { port, abrupt } => return serve::run(port, !abrupt).await,
        Cmd::Load(args) => load::run(args).await?,
        Cmd::Hold { target, count, seconds, pause_ms } => {
            hold::run(&target, count, seconds, ms(pause_ms)).await?
        }
        Cmd::Udp { target, count, pause_ms, connected } => {
            udp::run(&target, count, ms(pause_ms), connected).await?
        }
        Cmd::Dns { name, seconds, pause_ms, timeout_ms } => {
            dns::load(&name, seconds, ms(pause_ms), ms(timeout_ms)).await?
        }
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
