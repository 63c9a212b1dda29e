//! The runtime behind CRI: containerd, CRI-O and others.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    Container, Error, ExecOutput, Health, KnownPod, PodRuntime, Result, Runtime, Sandbox, State,
    Streams, Version, labels,
};
use crate::cri::client::{BadSocket, CALL_TIMEOUT, Client};
use crate::cri::events::{self, Event};
use crate::cri::v1;

/// Events that wait for their reader; containerd buffers on its side too.
const EVENT_QUEUE: usize = 1024;
/// Longest wait for an image.
const PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Added to a grace period or a command's limit before the call itself is given up.
const SLACK: Duration = Duration::from_secs(30);

/// A CRI runtime at a unix socket.
pub struct CriRuntime {
    client: Client,
}

impl CriRuntime {
    pub fn new(socket: &Path) -> std::result::Result<Self, BadSocket> {
        Ok(Self { client: Client::new(socket)? })
    }

    async fn call<Q, A>(&self, act: &'static str, method: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        self.call_within(act, method, request, CALL_TIMEOUT).await
    }

    async fn call_within<Q, A>(
        &self,
        act: &'static str,
        method: &'static str,
        request: Q,
        limit: Duration,
    ) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        self.client.unary(method, request, limit).await.map_err(|status| Error::Call {
            act,
            code: status.code(),
            message: status.message().to_owned(),
        })
    }

    async fn sandboxes(&self, uid: &str) -> Result<Vec<Sandbox>> {
        let filter = v1::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() };
        let mut found: v1::ListPodSandboxResponse = self
            .call(
                "list sandboxes",
                "/runtime.v1.RuntimeService/ListPodSandbox",
                v1::ListPodSandboxRequest { filter: Some(filter) },
            )
            .await?;
        found.items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        let mut sandboxes: Vec<_> = found.items.iter().map(sandbox_of).collect();
        if let Some(first) = sandboxes.first_mut().filter(|s| s.ready) {
            first.ips = self.sandbox_ips(&first.id).await?;
        }
        Ok(sandboxes)
    }

    async fn sandbox_ips(&self, id: &str) -> Result<Vec<std::net::IpAddr>> {
        let answer: v1::PodSandboxStatusResponse = self
            .call(
                "read sandbox status",
                "/runtime.v1.RuntimeService/PodSandboxStatus",
                v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false },
            )
            .await?;
        let Some(network) = answer.status.and_then(|s| s.network) else { return Ok(Vec::new()) };
        let all =
            std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|p| p.ip));
        Ok(all.filter_map(|ip| ip.parse().ok()).collect())
    }

    async fn containers(&self, uid: &str) -> Result<Vec<Container>> {
        let filter = v1::ContainerFilter { label_selector: by_uid(uid), ..Default::default() };
        let found: v1::ListContainersResponse = self
            .call(
                "list containers",
                "/runtime.v1.RuntimeService/ListContainers",
                v1::ListContainersRequest { filter: Some(filter) },
            )
            .await?;
        let all = found.containers.into_iter().map(|c| self.container(c.id, c.pod_sandbox_id));
        let mut containers: Vec<_> = try_join_all(all).await?.into_iter().flatten().collect();
        containers.sort_by_key(|c: &Container| std::cmp::Reverse((c.created_at, c.attempt)));
        Ok(containers)
    }

    async fn container(&self, id: String, sandbox_id: String) -> Result<Option<Container>> {
        let answer: Result<v1::ContainerStatusResponse> = self
            .call(
                "read container status",
                "/runtime.v1.RuntimeService/ContainerStatus",
                v1::ContainerStatusRequest { container_id: id, verbose: false },
            )
            .await;
        match answer {
            Ok(answer) => Ok(answer.status.map(|s| container_of(s, sandbox_id))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())])
}

fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

fn sandbox_of(s: &v1::PodSandbox) -> Sandbox {
    Sandbox {
        id: s.id.clone(),
        attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: s.state() == v1::PodSandboxState::Ready,
        created_at: timestamp(s.created_at).unwrap_or_default(),
        ips: Vec::new(),
    }
}

fn container_of(s: v1::ContainerStatus, sandbox_id: String) -> Container {
    let state = match s.state() {
        v1::ContainerState::Created => State::Created,
        v1::ContainerState::Running => State::Running,
        v1::ContainerState::Exited => State::Exited,
        v1::ContainerState::Unknown => State::Unknown,
    };
    let annotations: BTreeMap<_, _> = s.annotations.into_iter().collect();
    let attempt = annotations
        .get(labels::RESTART_COUNT)
        .and_then(|n| n.parse().ok())
        .or_else(|| s.metadata.as_ref().map(|m| m.attempt))
        .unwrap_or(0);
    Container {
        id: s.id,
        sandbox_id,
        name: s.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        attempt,
        state,
        created_at: timestamp(s.created_at).unwrap_or_default(),
        started_at: timestamp(s.started_at),
        finished_at: timestamp(s.finished_at),
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        image: s.image.map(|i| i.image).unwrap_or_default(),
        image_ref: s.image_ref,
        hash: annotations.get(labels::HASH).cloned().unwrap_or_default(),
        log_path: s.log_path,
        annotations,
    }
}

#[async_trait]
impl Runtime for CriRuntime {
    async fn version(&self) -> Result<Version> {
        let a: v1::VersionResponse = self
            .call(
                "read the runtime's version",
                "/runtime.v1.RuntimeService/Version",
                v1::VersionRequest { version: "v1".into() },
            )
            .await?;
        Ok(Version { name: a.runtime_name, version: a.runtime_version })
    }

    async fn health(&self) -> Result<Health> {
        let a: v1::StatusResponse = self
            .call(
                "read the runtime's status",
                "/runtime.v1.RuntimeService/Status",
                v1::StatusRequest { verbose: false },
            )
            .await?;
        let mut health = Health::default();
        for condition in a.status.map(|s| s.conditions).unwrap_or_default() {
            match condition.r#type.as_str() {
                "RuntimeReady" => {
                    health.runtime_ready = condition.status;
                    health.message = condition.message;
                }
                "NetworkReady" => {
                    health.network_ready = condition.status;
                    health.network_message = condition.message;
                }
                _ => {}
            }
        }
        Ok(health)
    }

    async fn pods(&self) -> Result<Vec<KnownPod>> {
        let sandboxes = self.call::<_, v1::ListPodSandboxResponse>(
            "list sandboxes",
            "/runtime.v1.RuntimeService/ListPodSandbox",
            v1::ListPodSandboxRequest::default(),
        );
        let containers = self.call::<_, v1::ListContainersResponse>(
            "list containers",
            "/runtime.v1.RuntimeService/ListContainers",
            v1::ListContainersRequest::default(),
        );
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let mut pods = BTreeMap::new();
        for s in sandboxes.items {
            note(&mut pods, s.id, &s.labels, &s.annotations);
        }
        for c in containers.containers {
            note(&mut pods, c.id, &c.labels, &c.annotations);
        }
        Ok(pods.into_values().collect())
    }

    async fn pod(&self, uid: &str) -> Result<PodRuntime> {
        let (sandboxes, containers) = tokio::try_join!(self.sandboxes(uid), self.containers(uid))?;
        Ok(PodRuntime { sandboxes, containers })
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let a: v1::RunPodSandboxResponse = self
            .call("run the sandbox", "/runtime.v1.RuntimeService/RunPodSandbox", request)
            .await?;
        Ok(a.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call::<_, v1::Empty>(
            "stop the sandbox",
            "/runtime.v1.RuntimeService/StopPodSandbox",
            request,
        )
        .await
        .map(drop)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call::<_, v1::Empty>(
            "remove the sandbox",
            "/runtime.v1.RuntimeService/RemovePodSandbox",
            request,
        )
        .await
        .map(drop)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let a: v1::CreateContainerResponse = self
            .call("create the container", "/runtime.v1.RuntimeService/CreateContainer", request)
            .await?;
        Ok(a.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.call::<_, v1::Empty>(
            "start the container",
            "/runtime.v1.RuntimeService/StartContainer",
            request,
        )
        .await
        .map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.call_within::<_, v1::Empty>(
            "stop the container",
            "/runtime.v1.RuntimeService/StopContainer",
            request,
            grace + CALL_TIMEOUT,
        )
        .await
        .map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.call::<_, v1::Empty>(
            "remove the container",
            "/runtime.v1.RuntimeService/RemoveContainer",
            request,
        )
        .await
        .map(drop)
    }

    async fn image(&self, name: &str) -> Result<Option<v1::Image>> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        let a: v1::ImageStatusResponse = self
            .call("look for the image", "/runtime.v1.ImageService/ImageStatus", request)
            .await?;
        Ok(a.image)
    }

    async fn images(&self) -> Result<Vec<v1::Image>> {
        let request = v1::ListImagesRequest::default();
        let a: v1::ListImagesResponse =
            self.call("list images", "/runtime.v1.ImageService/ListImages", request).await?;
        Ok(a.images)
    }

    async fn pull_image(&self, name: &str, auth: Option<v1::AuthConfig>) -> Result<String> {
        let request =
            v1::PullImageRequest { image: Some(image_spec(name)), auth, sandbox_config: None };
        let method = "/runtime.v1.ImageService/PullImage";
        let a: v1::PullImageResponse =
            self.call_within("pull the image", method, request, PULL_TIMEOUT).await?;
        Ok(a.image_ref)
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        let request = v1::RemoveImageRequest { image: Some(image_spec(name)) };
        self.call::<_, v1::Empty>(
            "remove the image",
            "/runtime.v1.ImageService/RemoveImage",
            request,
        )
        .await
        .map(drop)
    }

    async fn image_fs(&self) -> Result<Vec<v1::FilesystemUsage>> {
        let method = "/runtime.v1.ImageService/ImageFsInfo";
        let a: v1::ImageFsInfoResponse =
            self.call("read the images' usage", method, v1::Empty {}).await?;
        Ok(a.image_filesystems)
    }

    async fn stats(&self) -> Result<Vec<v1::ContainerStats>> {
        let method = "/runtime.v1.RuntimeService/ListContainerStats";
        let request = v1::ListContainerStatsRequest::default();
        let a: v1::ListContainerStatsResponse =
            self.call("read the containers' usage", method, request).await?;
        Ok(a.stats)
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, limit: Duration) -> Result<ExecOutput> {
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let method = "/runtime.v1.RuntimeService/ExecSync";
        let a: v1::ExecSyncResponse =
            self.call_within("run a command", method, request, limit + SLACK).await?;
        Ok(ExecOutput { stdout: a.stdout, stderr: a.stderr, exit_code: a.exit_code })
    }

    async fn exec(&self, id: &str, cmd: Vec<String>, s: Streams) -> Result<String> {
        let request = v1::ExecRequest {
            container_id: id.to_owned(),
            cmd,
            tty: s.tty,
            stdin: s.stdin,
            stdout: s.stdout,
            stderr: s.stderr,
        };
        let method = "/runtime.v1.RuntimeService/Exec";
        let a: v1::ExecResponse = self.call("prepare exec", method, request).await?;
        Ok(a.url)
    }

    async fn attach(&self, id: &str, s: Streams) -> Result<String> {
        let request = v1::AttachRequest {
            container_id: id.to_owned(),
            stdin: s.stdin,
            tty: s.tty,
            stdout: s.stdout,
            stderr: s.stderr,
        };
        let method = "/runtime.v1.RuntimeService/Attach";
        let a: v1::AttachResponse = self.call("prepare attach", method, request).await?;
        Ok(a.url)
    }

    async fn port_forward(&self, sandbox_id: &str, port: Vec<i32>) -> Result<String> {
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port };
        let method = "/runtime.v1.RuntimeService/PortForward";
        let a: v1::PortForwardResponse = self.call("prepare port-forward", method, request).await?;
        Ok(a.url)
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        let method = "/runtime.v1.RuntimeService/ReopenContainerLog";
        self.call::<_, v1::Empty>("reopen the log", method, request).await.map(drop)
    }

    fn events(&self) -> mpsc::Receiver<Event> {
        let (to, from) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(events::follow(self.client.clone(), to));
        from
    }
}

fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        user_specified_image: name.to_owned(),
        ..Default::default()
    }
}

/// Adds a sandbox or container to its pod; what has no pod's labels is not ours.
fn note(
    pods: &mut BTreeMap<String, KnownPod>,
    id: String,
    labels: &HashMap<String, String>,
    annotations: &HashMap<String, String>,
) {
    let Some(uid) = labels.get(labels::POD_UID).filter(|uid| !uid.is_empty()) else { return };
    let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let pod = pods.entry(uid.clone()).or_insert_with(|| KnownPod {
        uid: uid.clone(),
        name: text(labels::POD_NAME),
        namespace: text(labels::POD_NAMESPACE),
        grace_period: None,
        ids: Vec::new(),
    });
    pod.ids.push(id);
    if let Some(grace) = annotations.get(labels::GRACE_PERIOD).and_then(|g| g.parse().ok()) {
        pod.grace_period = Some(grace);
    }
}
