//! Putting a kubelet together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Recorder;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::context::{Context, Machine};
use crate::cri::client::BadSocket;
use crate::logs::rotate;
use crate::node::{self, lease};
use crate::pod::manager::{self, Inputs, Pods, Source};
use crate::pod::mirror;
use crate::runtime::Runtime;
use crate::runtime::cri::CriRuntime;
use crate::server;
use crate::source::objects::{Changed, Objects};
use crate::source::{api, files};
use crate::volume::token::Tokens;
use crate::{evict, image_gc};

/// Changes of pods that wait for the manager.
const CHANGES: usize = 256;
/// How often the runtime is asked for its health: while it is well, and while it is not.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);
const HEALTH_RETRY: Duration = Duration::from_millis(100);
/// Bit of CAP_SYS_RESOURCE in /proc/self/status.
const CAP_SYS_RESOURCE: u32 = 24;

/// Why a kubelet could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("create {}", path.display())]
    CreateDir { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Socket(#[from] BadSocket),
    #[error(transparent)]
    Server(#[from] server::Error),
}

/// Runs a kubelet until `shutdown`. Pods go on running afterwards: a later `run` adopts them.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    for dir in [&config.root_dir, &config.pod_log_dir].into_iter().chain(&config.container_log_dir)
    {
        create(dir)?;
    }
    let runtime: Arc<dyn Runtime> = Arc::new(CriRuntime::new(&config.cri_socket)?);
    run_with(config, runtime, shutdown).await
}

/// The same with a runtime of one's own.
pub async fn run_with(
    config: Config,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Some(runtime_name) = wait_for_runtime(&*runtime, &shutdown).await else { return Ok(()) };
    let pods = Pods::default();
    let told = pods.clone();
    let changed: Changed = Arc::new(move |uid| told.refresh(uid));
    let (network, network_missing) = watch::channel(Some("not known yet".to_owned()));
    let ctx = Arc::new(Context {
        objects: Objects::new(&config.client, &changed),
        tokens: Tokens::default(),
        cgroups: Cgroups::detect(&config.cgroup_mount, &config.cgroup_root),
        recorder: (!config.standalone)
            .then(|| Recorder::new(config.client.clone(), "kubelet", &config.node_name)),
        network_missing,
        machine: machine(),
        runtime_name,
        runtime,
        shutdown: shutdown.clone(),
        config,
    });
    if ctx.machine.lowest_oom == 0 {
        tracing::info!("no CAP_SYS_RESOURCE: no container gets a negative oom_score_adj");
    }
    tokio::spawn(watch_health(Arc::clone(&ctx), network));
    let (to, changes) = mpsc::channel(CHANGES);
    if !ctx.config.standalone {
        tokio::spawn(Box::pin(node::run(Arc::clone(&ctx), ctx.network_missing.clone())));
        tokio::spawn(lease::run(Arc::clone(&ctx)));
        ctx.objects.run_services(&ctx.config.client, shutdown.clone());
        let (client, node) = (ctx.config.client.clone(), ctx.config.node_name.clone());
        let from_api = tagged(Source::Api, &to);
        tokio::spawn(api::watch(client, node, from_api, shutdown.clone()));
    }
    if let Some(dir) = ctx.config.static_pod_dir.clone() {
        let from_files = tagged(Source::Files, &to);
        tokio::spawn(files::watch(dir, ctx.config.node_name.clone(), from_files, shutdown.clone()));
    }
    let server = server::bind(&ctx, pods.clone()).await?;
    tokio::spawn(server.serve());
    tokio::spawn(rotate::run(Arc::clone(&ctx), pods.clone()));
    tokio::spawn(image_gc::run(Arc::clone(&ctx), pods.clone()));
    tokio::spawn(evict::run(Arc::clone(&ctx), pods.clone()));
    if ctx.config.static_pod_dir.is_some() && !ctx.config.standalone {
        tokio::spawn(mirror::run(Arc::clone(&ctx), pods.clone()));
    }
    let inputs = Inputs { changes, events: ctx.runtime.events() };
    manager::run(ctx, pods, inputs).await;
    Ok(())
}

fn create(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|source| Error::CreateDir { path: dir.to_owned(), source })
}

/// A queue whose entries reach `to` marked with their source.
fn tagged(source: Source, to: &mpsc::Sender<(Source, api::Change)>) -> mpsc::Sender<api::Change> {
    let (sender, mut receiver) = mpsc::channel(1);
    let to = to.clone();
    tokio::spawn(async move {
        while let Some(change) = receiver.recv().await {
            if to.send((source, change)).await.is_err() {
                return;
            }
        }
    });
    sender
}

/// The runtime's name, once it answers; nothing when the kubelet is to stop before.
async fn wait_for_runtime(runtime: &dyn Runtime, shutdown: &CancellationToken) -> Option<String> {
    let mut told = false;
    loop {
        match runtime.version().await {
            Ok(version) => return Some(version.name),
            Err(error) if !told => {
                tracing::warn!(%error, "the container runtime does not answer yet, waiting for it");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(HEALTH_RETRY) => {}
        }
    }
}

/// Keeps `network` at why pods can't have their own network, if they can't.
async fn watch_health(ctx: Arc<Context>, network: watch::Sender<Option<String>>) {
    loop {
        let health = ctx.runtime.health().await;
        let missing = match &health {
            Ok(h) if h.network_ready => None,
            Ok(h) => Some(h.network_message.clone()),
            Err(e) => Some(e.to_string()),
        };
        let wait = if missing.is_some() { HEALTH_RETRY } else { HEALTH_PERIOD };
        network.send_if_modified(|old| {
            let changed = *old != missing;
            *old = missing;
            changed
        });
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Reads the node's size and this process's rights.
fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    Machine {
        cpus: u64::try_from(cpus).unwrap_or(1),
        memory: kib.unwrap_or(0) * 1024,
        lowest_oom: if effective & (1 << CAP_SYS_RESOURCE) != 0 { -1000 } else { 0 },
    }
}
