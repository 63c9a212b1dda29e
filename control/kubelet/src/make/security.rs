//! Security contexts: the pod's, overridden by the container's. Source: the API's PodSecurityContext
//! and SecurityContext.

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};

use crate::cri::v1::{
    Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, ProfileType, SecurityProfile, SupplementalGroupsPolicy,
};
use crate::pod::view;

/// Paths of /proc and /sys that an unprivileged container can't see.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that it can't change.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The container may not be started as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("container has runAsNonRoot and image will run as root")]
    RunsAsRoot,
    #[error("container's runAsUser breaks non-root policy")]
    RunAsUserRoot,
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
    )]
    UnknownUser { user: String },
}

/// The namespaces that a pod shares with its node or among its containers.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = view::spec(pod);
    let node_or = |host: Option<bool>, other: NamespaceMode| {
        (if host == Some(true) { NamespaceMode::Node } else { other }).into()
    };
    let shared = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node_or(spec.host_network, NamespaceMode::Pod),
        pid: node_or(spec.host_pid, shared),
        ipc: node_or(spec.host_ipc, NamespaceMode::Pod),
        target_id: String::new(),
    }
}

/// The sandbox's context.
pub fn of_sandbox(pod: &Pod, seccomp_root: &str) -> LinuxSandboxSecurityContext {
    let own = view::spec(pod).security_context.clone().unwrap_or_default();
    let privileged = view::init_containers(pod)
        .map(|(_, c)| c)
        .chain(view::main_containers(pod))
        .any(|c| context(c).privileged == Some(true));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: own.run_as_user.map(|value| Int64Value { value }),
        run_as_group: own.run_as_group.map(|value| Int64Value { value }),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged,
        seccomp: Some(seccomp(
            own.seccomp_profile.as_ref(),
            ProfileType::RuntimeDefault,
            seccomp_root,
        )),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// A container's context; `image` tells the user that it runs as when nobody else does.
pub fn of_container(
    pod: &Pod,
    c: &Container,
    image: &Image,
    seccomp_root: &str,
) -> Result<LinuxContainerSecurityContext, Error> {
    let pod_own = view::spec(pod).security_context.clone().unwrap_or_default();
    let own = context(c);
    let privileged = own.privileged == Some(true);
    let user = own.run_as_user.or(pod_own.run_as_user);
    let non_root = own.run_as_non_root.or(pod_own.run_as_non_root) == Some(true);
    if non_root {
        check_non_root(user, image)?;
    }
    let mut made = LinuxContainerSecurityContext {
        privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_group: own.run_as_group.or(pod_own.run_as_group).map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        ..LinuxContainerSecurityContext::default()
    };
    match user.or(image.uid.as_ref().map(|u| u.value)) {
        Some(value) => made.run_as_user = Some(Int64Value { value }),
        None => made.run_as_username.clone_from(&image.username),
    }
    if let Some(capabilities) = &own.capabilities {
        made.capabilities = Some(Capability {
            add_capabilities: names(capabilities.add.as_deref()),
            drop_capabilities: names(capabilities.drop.as_deref()),
            ..Capability::default()
        });
    }
    let profile = own.seccomp_profile.as_ref().or(pod_own.seccomp_profile.as_ref());
    made.seccomp = Some(seccomp(profile, ProfileType::Unconfined, seccomp_root));
    if !privileged && own.proc_mount.as_deref() != Some("Unmasked") {
        made.masked_paths = MASKED.map(str::to_owned).to_vec();
        made.readonly_paths = READ_ONLY.map(str::to_owned).to_vec();
    }
    Ok(made)
}

fn context(c: &Container) -> SecurityContext {
    c.security_context.clone().unwrap_or_default()
}

/// Runtimes know capabilities without their prefix.
fn names(all: Option<&[String]>) -> Vec<String> {
    let strip = |n: &String| n.strip_prefix("CAP_").unwrap_or(n).to_owned();
    all.unwrap_or_default().iter().map(strip).collect()
}

fn check_non_root(user: Option<i64>, image: &Image) -> Result<(), Error> {
    match (user, image.uid.as_ref().map(|u| u.value)) {
        (Some(0), _) => Err(Error::RunAsUserRoot),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(Error::RunsAsRoot),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => Err(Error::RunsAsRoot),
        (None, None) => Err(Error::UnknownUser { user: image.username.clone() }),
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let Some(own) = &view::spec(pod).security_context else { return Vec::new() };
    own.fs_group.into_iter().chain(own.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(pod: &Pod) -> i32 {
    let own = view::spec(pod).security_context.as_ref();
    match own.and_then(|s| s.supplemental_groups_policy.as_deref()) {
        Some("Strict") => SupplementalGroupsPolicy::Strict.into(),
        _ => SupplementalGroupsPolicy::Merge.into(),
    }
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    default: ProfileType,
    seccomp_root: &str,
) -> SecurityProfile {
    let (kind, localhost_ref) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Unconfined") => (ProfileType::Unconfined, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, format!("{seccomp_root}/{file}"))
        }
        _ => (default, String::new()),
    };
    SecurityProfile { profile_type: kind.into(), localhost_ref }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn make(pod: serde_json::Value, image: &Image) -> Result<LinuxContainerSecurityContext, Error> {
        let pod: Pod = serde_json::from_value(json!({"spec": pod})).expect("a pod");
        of_container(&pod, &view::spec(&pod).containers[0], image, "/seccomp")
    }

    fn by_uid(value: i64) -> Image {
        Image { uid: Some(Int64Value { value }), ..Image::default() }
    }

    #[test]
    fn the_container_overrides_its_pod_and_the_pod_its_image() {
        let user =
            |made: &LinuxContainerSecurityContext| made.run_as_user.as_ref().map(|u| u.value);
        let of_image = make(json!({"containers": [{"name": "c"}]}), &by_uid(7)).expect("made");
        assert_eq!(user(&of_image), Some(7));
        let spec = json!({"securityContext": {"runAsUser": 8, "fsGroup": 9}, "containers": [{"name": "c"}]});
        let of_pod = make(spec, &by_uid(7)).expect("made");
        assert_eq!((user(&of_pod), of_pod.supplemental_groups), (Some(8), vec![9]));
        let spec = json!({"securityContext": {"runAsUser": 8}, "containers": [
            {"name": "c", "securityContext": {"runAsUser": 10, "capabilities": {"add": ["CAP_NET_ADMIN"]}}}]});
        let own = make(spec, &by_uid(7)).expect("made");
        assert_eq!(user(&own), Some(10));
        assert_eq!(own.capabilities.expect("asked for").add_capabilities, ["NET_ADMIN"]);
    }

    #[test]
    fn run_as_non_root_refuses_root_and_users_that_are_only_names() {
        let spec =
            json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]});
        assert_eq!(make(spec.clone(), &by_uid(0)).err(), Some(Error::RunsAsRoot));
        assert_eq!(make(spec.clone(), &Image::default()).err(), Some(Error::RunsAsRoot));
        let named = Image { username: "www".into(), ..Image::default() };
        assert_eq!(
            make(spec.clone(), &named).err(),
            Some(Error::UnknownUser { user: "www".into() })
        );
        assert!(make(spec, &by_uid(1)).is_ok());
    }

    #[test]
    fn only_unprivileged_containers_have_masked_paths() {
        let plain = make(json!({"containers": [{"name": "c"}]}), &by_uid(0)).expect("made");
        assert!(plain.masked_paths.contains(&"/proc/kcore".to_owned()));
        let spec = json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]});
        let privileged = make(spec, &by_uid(0)).expect("made");
        assert!(privileged.privileged && privileged.masked_paths.is_empty());
    }
}
