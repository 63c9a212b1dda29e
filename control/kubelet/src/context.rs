//! What all parts of a running kubelet share.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bowline_api::events::{Recorder, Severity};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::make::field::Place;
use crate::pod::view;
use crate::runtime::Runtime;
use crate::source::objects::Objects;
use crate::volume::token::Tokens;

/// Shared by all tasks; the configuration never changes.
pub struct Context {
    pub config: Config,
    pub runtime: Arc<dyn Runtime>,
    /// Scheme of container ids: `containerd`.
    pub runtime_name: String,
    pub objects: Objects,
    pub tokens: Tokens,
    pub cgroups: Cgroups,
    /// Absent without an API server.
    pub recorder: Option<Recorder>,
    /// Why pods can't have their own network yet, if they can't.
    pub network_missing: watch::Receiver<Option<String>>,
    pub machine: Machine,
    pub shutdown: CancellationToken,
}

/// The node's hardware, and what this process may do.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpus: u64,
    pub memory: u64,
    /// Smallest oom_score_adj that may be asked for: 0 without CAP_SYS_RESOURCE.
    pub lowest_oom: i64,
}

impl Context {
    /// A folder for each pod, by UID.
    pub fn pods_dir(&self) -> PathBuf {
        self.config.root_dir.join("pods")
    }

    /// Everything of one pod on this node's disk.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.config.pod_log_dir.join(view::folder(pod))
    }

    pub fn seccomp_root(&self) -> String {
        self.config.root_dir.join("seccomp").display().to_string()
    }

    pub fn place(&self, pod_ips: &[IpAddr]) -> Place {
        Place {
            node_name: self.config.node_name.clone(),
            host_ips: self.config.node_ips.clone(),
            pod_ips: pod_ips.to_vec(),
            allocatable_cpu: (self.machine.cpus * 1000)
                .saturating_sub(self.config.reserved_cpu_millis),
            allocatable_memory: self.machine.memory.saturating_sub(self.config.reserved_memory),
        }
    }

    /// Tells users of something that happened to a pod, or to one of its containers.
    pub fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let message = message.into();
        match severity {
            Severity::Warning => {
                tracing::warn!(pod = view::folder(pod), container, reason, message);
            }
            Severity::Normal => {
                tracing::debug!(pod = view::folder(pod), container, reason, message);
            }
        }
        if let Some(recorder) = &self.recorder {
            let about = ObjectReference {
                field_path: container.map(|c| format!("spec.containers{{{c}}}")),
                ..bowline_api::events::reference(pod)
            };
            recorder.event_about(about, severity, reason, message);
        }
    }
}
