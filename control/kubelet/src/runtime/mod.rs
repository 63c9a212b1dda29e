//! What runs pods: a trait, so that everything above it can be tested without a runtime.

pub mod cri;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::cri::events::Event;
use crate::cri::v1::{
    AuthConfig, ContainerConfig, ContainerStats, FilesystemUsage, Image, PodSandboxConfig,
};

/// Labels and annotations by which a later kubelet knows a container again.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// A call to the runtime failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{act}: {message}")]
    Call { act: &'static str, code: tonic::Code, message: String },
    #[error("{act}: the runtime's answer lacks {what}")]
    Answer { act: &'static str, what: &'static str },
}

impl Error {
    /// The object that the call named does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { code: tonic::Code::NotFound, .. })
    }

    /// What was asked for was begun and not done in time.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Call { code: tonic::Code::DeadlineExceeded, .. } => true,
            // containerd says it only in words.
            Self::Call { message, .. } => {
                message.contains("context deadline exceeded") && message.contains("timeout")
            }
            Self::Answer { .. } => false,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A sandbox as the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    /// The pod's own addresses; empty with the node's network.
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// A container as the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    /// Restarts before this one.
    pub attempt: u32,
    pub state: State,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// Name of the image as the pod asked for it.
    pub image: String,
    pub image_ref: String,
    /// Hash of the specification from which it was made.
    pub hash: String,
    pub log_path: String,
    pub annotations: BTreeMap<String, String>,
}

/// All that the runtime has of one pod, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRuntime {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

impl PodRuntime {
    /// The newest container called `name`.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// A pod that the runtime knows, by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    /// From its containers' annotations; what to give it when nobody remembers its specification.
    pub grace_period: Option<i64>,
    /// Ids of its sandboxes and containers.
    pub ids: Vec<String>,
}

/// The runtime's own health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub runtime_ready: bool,
    pub network_ready: bool,
    pub message: String,
    pub network_message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    pub version: String,
}

/// A finished command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Which standard streams of a process are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A container runtime. Every call may fail at any time, and may have had its effect even so.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> Result<Version>;
    async fn health(&self) -> Result<Health>;
    /// Every pod of which the runtime has anything.
    async fn pods(&self) -> Result<Vec<KnownPod>>;
    async fn pod(&self, uid: &str) -> Result<PodRuntime>;
    /// Returns the sandbox's id.
    async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String>;
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// Returns the container's id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> Result<String>;
    async fn start_container(&self, id: &str) -> Result<()>;
    /// The stop signal, then after `grace` SIGKILL; returns when it has ended.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    async fn remove_container(&self, id: &str) -> Result<()>;
    async fn image(&self, name: &str) -> Result<Option<Image>>;
    async fn images(&self) -> Result<Vec<Image>>;
    async fn pull_image(&self, name: &str, auth: Option<AuthConfig>) -> Result<String>;
    async fn remove_image(&self, name: &str) -> Result<()>;
    async fn image_fs(&self) -> Result<Vec<FilesystemUsage>>;
    async fn stats(&self) -> Result<Vec<ContainerStats>>;
    async fn exec_sync(&self, id: &str, cmd: Vec<String>, limit: Duration) -> Result<ExecOutput>;
    /// Address of a streaming server that runs `cmd`, good for one request.
    async fn exec(&self, id: &str, cmd: Vec<String>, streams: Streams) -> Result<String>;
    async fn attach(&self, id: &str, streams: Streams) -> Result<String>;
    async fn port_forward(&self, sandbox_id: &str, ports: Vec<i32>) -> Result<String>;
    /// Makes the runtime open the container's log file anew, after it was renamed.
    async fn reopen_log(&self, id: &str) -> Result<()>;
    /// What happens in the runtime, until the receiver is dropped.
    fn events(&self) -> mpsc::Receiver<Event>;
}
