//! Services in number, made through the API.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;

use super::cluster::{BenchCluster, SERVER, SERVER_PORT};

/// Requests to the apiserver at once.
const AT_ONCE: usize = 16;
/// How long the kernel's maps may lag behind the API.
const LAG: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(250);

/// A client of the bench's cluster.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    bowline_api::client::install_crypto();
    Ok(bowline_api::client::connect(Some(kubeconfig)).await?)
}

/// How long it took to make services.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Until the API had all of them.
    pub in_api: Duration,
    /// Until the kernel's maps had all of them, each with its backend.
    pub in_maps: Duration,
}

/// Makes the services `from..to`, each in front of the server's pod, and waits until the kernel's
/// maps have `to` of them.
pub async fn make(
    cluster: &BenchCluster,
    client: &kube::Client,
    (from, to): (u32, u32),
) -> anyhow::Result<Made> {
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    let start = Instant::now();
    futures::stream::iter(from..to)
        .map(|place| create(&api, place))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let in_api = start.elapsed();
    loop {
        let present = in_maps(cluster)?;
        if present >= to as usize {
            return Ok(Made { in_api, in_maps: start.elapsed() });
        }
        ensure!(
            start.elapsed() < in_api + LAG,
            "after {LAG:?} the kernel's maps have {present} of {to} services"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// The ClusterIP of one of them.
pub async fn cluster_ip(client: &kube::Client, place: u32) -> anyhow::Result<Ipv4Addr> {
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = api.get(&name(place)).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("it has no address")?;
    address.parse().with_context(|| format!("{} has the address {address}", name(place)))
}

fn name(place: u32) -> String {
    format!("bench-{place}")
}

async fn create(api: &Api<Service>, place: u32) -> anyhow::Result<()> {
    let service: Service = serde_json::from_value(serde_json::json!({
        "metadata": { "name": name(place) },
        "spec": {
            "selector": { "app": SERVER },
            "ports": [{ "port": 80, "targetPort": SERVER_PORT, "protocol": "TCP" }],
        },
    }))?;
    api.create(&PostParams::default(), &service)
        .await
        .map(drop)
        .with_context(|| format!("create the service {}", name(place)))
}

/// Services in the kernel's maps that have the server as their backend.
fn in_maps(cluster: &BenchCluster) -> anyhow::Result<usize> {
    let table = cluster.kubectl(&[
        "exec",
        "-n",
        "kube-system",
        "daemonset/bowline-proxy",
        "--",
        "/bowline-proxy",
        "services",
    ])?;
    let backend = format!(":{SERVER_PORT}");
    Ok(table.lines().filter(|line| line.trim_end().ends_with(&backend)).count())
}
