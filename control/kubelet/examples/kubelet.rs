//! A kubelet by hand, for trials: `kubelet --cri SOCKET --root DIR [--static DIR] [--kubeconfig FILE]
//! [--node NAME] [--ip ADDRESS] [--listen ADDRESS] [--client-ca FILE]
//! [--cert FILE --key FILE]`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bowline_kubelet::{Config, Serving, run};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    bowline_api::client::install_crypto();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let flags: HashMap<&str, &str> =
        words.chunks_exact(2).map(|w| (w[0].trim_start_matches("--"), w[1].as_str())).collect();
    let flag = |name: &str| flags.get(name).copied();
    let root = PathBuf::from(flag("root").context("--root DIR is missing")?);
    let client = match flag("kubeconfig") {
        Some(path) => bowline_api::client::connect(Some(Path::new(path))).await?,
        None => kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse()?))?,
    };
    let mut config = Config::new(flag("node").unwrap_or("node"), client);
    config.standalone = flag("kubeconfig").is_none();
    config.cri_socket = flag("cri").context("--cri SOCKET is missing")?.into();
    config.static_pod_dir = flag("static").map(PathBuf::from);
    config.pod_log_dir = root.join("logs/pods");
    config.container_log_dir = Some(root.join("logs/containers"));
    config.node_ips = vec![flag("ip").unwrap_or("127.0.0.1").parse()?];
    config.listen = flag("listen").unwrap_or("127.0.0.1:10250").parse()?;
    config.serving = match (flag("cert"), flag("key")) {
        (Some(cert), Some(key)) => {
            Serving::Pem { cert: std::fs::read(cert)?, key: std::fs::read(key)? }
        }
        _ => Serving::Bootstrap,
    };
    config.auth.client_ca = flag("client-ca").map(std::fs::read).transpose()?;
    config.root_dir = root;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(run(config, shutdown).await?)
}
