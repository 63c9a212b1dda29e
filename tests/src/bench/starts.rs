//! From the wish for a pod to its running container: through the API, and by the runtime alone.
//!
//! Both make the same sandbox with the same network and the same container from the same image.
//! What the API's way takes longer is the cluster's own: apiserver, scheduler, kubelet, and the
//! pod's volume with its service account token.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bowline_kubelet::cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata,
};
use bowline_kubelet::runtime::Runtime;
use bowline_kubelet::runtime::cri::CriRuntime;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};

use super::cluster::BenchCluster;
use crate::harness::TESTKIT_IMAGE;

/// A pod that takes longer to start, or to go, makes the bench give up.
const LIMIT: Duration = Duration::from_secs(60);

/// Milliseconds of each start.
#[derive(Debug, Default)]
pub struct Starts {
    pub api: Vec<f64>,
    pub runtime: Vec<f64>,
}

/// Starts `count` pods each way, one at a time and in turns, each removed before the next.
pub async fn measure(
    cluster: &BenchCluster,
    client: &kube::Client,
    count: usize,
) -> anyhow::Result<Starts> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let runtime = CriRuntime::new(&cluster.containerd_socket()?)?;
    let name = format!("docker.io/{TESTKIT_IMAGE}");
    let image = runtime.image(&name).await?.with_context(|| format!("{name} is not there"))?;
    let mut starts = Starts::default();
    // The first one each way is not counted: it pays for cold caches.
    for number in 0..=count {
        let by_api = through_api(&api, number).await?;
        let by_runtime = by_runtime(&runtime, &image.id, number).await?;
        if number > 0 {
            starts.api.push(by_api.as_secs_f64() * 1000.0);
            starts.runtime.push(by_runtime.as_secs_f64() * 1000.0);
        }
    }
    Ok(starts)
}

async fn through_api(api: &Api<Pod>, number: usize) -> anyhow::Result<Duration> {
    let name = format!("start-{number}");
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "main", "image": TESTKIT_IMAGE, "command": ["testkit", "serve"],
            }],
        },
    }))?;
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = api.watch(&only, "0").await?.boxed();
    let start = Instant::now();
    api.create(&PostParams::default(), &pod).await?;
    let mut took = None;
    let end = async {
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod)
                    if took.is_none() && is_running(&pod) =>
                {
                    took = Some(start.elapsed());
                    api.delete(&name, &DeleteParams::default()).await?;
                }
                WatchEvent::Deleted(_) => return Ok(()),
                WatchEvent::Error(error) => bail!("the watch of {name} ended: {error:?}"),
                _ => {}
            }
        }
        bail!("the watch of {name} ended")
    };
    tokio::time::timeout(LIMIT, end).await.with_context(|| format!("{name} took {LIMIT:?}"))??;
    took.with_context(|| format!("{name} was never seen running"))
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

async fn by_runtime(runtime: &CriRuntime, image: &str, number: usize) -> anyhow::Result<Duration> {
    let sandbox = sandbox_config(number);
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        command: vec!["testkit".to_owned(), "serve".to_owned()],
        ..ContainerConfig::default()
    };
    let start = Instant::now();
    let id = runtime.run_sandbox(sandbox.clone(), "").await?;
    let started = async {
        let container = runtime.create_container(&id, container, sandbox).await?;
        runtime.start_container(&container).await
    };
    let started = started.await;
    let took = start.elapsed();
    runtime.stop_sandbox(&id).await?;
    runtime.remove_sandbox(&id).await?;
    started?;
    Ok(took)
}

/// As the kubelet asks for a pod without wishes of its own. It has no labels of a pod, so the
/// kubelet lets it be.
fn sandbox_config(number: usize) -> PodSandboxConfig {
    let namespaces = NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        target_id: String::new(),
    };
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        ..LinuxSandboxSecurityContext::default()
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: format!("floor-{number}"),
            uid: format!("bench-floor-{number}"),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: format!("floor-{number}"),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(security),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}
