//! Questions about a pod's specification that several parts ask.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use sha2::{Digest, Sha256};

/// Seconds between the stop signal and SIGKILL when a pod says nothing.
pub const DEFAULT_GRACE: i64 = 30;

/// What a container is for, which decides its order and its restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next is started.
    Init,
    /// An init container with restartPolicy Always: runs beside all that follow.
    Sidecar,
    Main,
    /// Put into a running pod for debugging; never restarted.
    Ephemeral,
}

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    fn parse(policy: &str) -> Self {
        match policy {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Is a container that ended with `exit_code` started again?
    pub fn applies(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The pod's specification; an empty one where the object has none.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// Init containers and sidecars in order, with their roles.
pub fn init_containers(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    spec(pod).init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, c)
    })
}

pub fn main_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).containers.iter()
}

/// Ephemeral containers in the shape of ordinary ones.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    spec(pod).ephemeral_containers.iter().flatten().map(as_container).collect()
}

/// The container that ephemeral container `name` is to look at.
pub fn debug_target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let mut all = spec(pod).ephemeral_containers.iter().flatten();
    all.find(|e| e.name == name)?.target_container_name.as_deref()
}

/// Any container of the pod by its name.
pub fn container(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    init_containers(pod)
        .chain(main_containers(pod).map(|c| (Role::Main, c)))
        .find(|(_, c)| c.name == name)
        .map(|(role, c)| (role, c.clone()))
        .or_else(|| {
            let all = ephemeral_containers(pod);
            all.into_iter().find(|c| c.name == name).map(|c| (Role::Ephemeral, c))
        })
}

/// The restart policy of one container: its own, else its pod's.
pub fn restart(pod: &Pod, role: Role, container: &Container) -> Restart {
    match (role, container.restart_policy.as_deref()) {
        (Role::Ephemeral, _) => Restart::Never,
        (Role::Sidecar, _) => Restart::Always,
        (_, Some(own)) => Restart::parse(own),
        (Role::Init, None) => match spec(pod).restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            _ => Restart::OnFailure,
        },
        (Role::Main, None) => {
            Restart::parse(spec(pod).restart_policy.as_deref().unwrap_or("Always"))
        }
    }
}

/// Changes when a running container must be replaced by a new one.
pub fn hash(container: &Container) -> String {
    let mut digest = Sha256::new();
    digest.update(container.name.as_bytes());
    digest.update([0]);
    digest.update(container.image.as_deref().unwrap_or_default().as_bytes());
    digest.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Seconds that the pod is given to end.
pub fn grace_period(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(DEFAULT_GRACE)
        .max(0)
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// The name under which the pod shows up in files: `<namespace>_<name>_<uid>`.
pub fn folder(pod: &Pod) -> String {
    format!("{}_{}_{}", namespace(pod), name(pod), uid(pod))
}

fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Container::default()
    }
}
