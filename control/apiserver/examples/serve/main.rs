//! An apiserver for trials: makes a CA and certificates in a folder, writes an admin kubeconfig,
//! serves.
//!
//! `cargo run -p bowline-apiserver --example serve -- --listen 127.0.0.1:6443 --dir /tmp/trial`

mod pki;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use pki::Pki;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Arguments {
    /// Where to serve.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// The address in `default/kubernetes` and in the kubeconfig; that of `--listen` by default.
    #[arg(long)]
    advertise: Option<IpAddr>,
    /// Holds certificates, kubeconfig and state; what is there is kept.
    #[arg(long)]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let arguments = Arguments::parse();
    let advertise = arguments.advertise.unwrap_or(arguments.listen.ip());
    std::fs::create_dir_all(&arguments.dir)?;
    let pki = Pki::open(&arguments.dir, advertise)?;
    pki.kubeconfig(&format!("https://{}", SocketAddr::new(advertise, arguments.listen.port())))?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    println!("kubeconfig: {}", arguments.dir.join("kubeconfig").display());
    let config = pki.config(arguments.listen, advertise)?;
    bowline_apiserver::run(config, shutdown).await?;
    Ok(())
}
