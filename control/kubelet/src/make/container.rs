//! One container, as the runtime is asked to make it.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::expand::expand;
use super::sandbox::pod_labels;
use super::{resources, security};
use crate::cri::v1::{
    ContainerConfig, ContainerMetadata, Image, ImageSpec, KeyValue, LinuxContainerConfig, Mount,
    MountPropagation,
};
use crate::pod::view;
use crate::runtime::labels;

/// Where a container leaves its last words unless it says otherwise.
pub const TERMINATION_PATH: &str = "/dev/termination-log";

/// A container can't be made as it is specified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Security(#[from] security::Error),
    #[error("volume {name:?} of mount {path} does not exist in the pod")]
    NoVolume { name: String, path: String },
    #[error("subPath {text:?} of mount {path} must be relative and without \"..\"")]
    SubPath { text: String, path: String },
}

/// What is known when a container is made.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    pub image: &'a Image,
    pub env: Vec<(String, String)>,
    /// Paths of the pod's volumes on the node, by name.
    pub volumes: &'a BTreeMap<String, String>,
    /// Mounts of files that the kubelet manages.
    pub managed: Vec<Mount>,
    pub seccomp_root: &'a str,
    pub node_memory: u64,
    pub lowest_oom: i64,
}

/// One mount of a volume, with the file or folder inside the volume that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    pub volume: String,
    pub path: String,
}

/// Path of the container's log below the pod's log folder.
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

/// Makes the configuration, and tells the paths inside volumes that must exist.
pub fn config(i: &Inputs<'_>) -> Result<(ContainerConfig, Vec<SubPath>), Error> {
    let c = i.container;
    let lookup = |name: &str| i.env.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let words = |all: &Option<Vec<String>>| -> Vec<String> {
        all.iter().flatten().map(|w| expand(w, lookup)).collect()
    };
    let (mut mounts, sub_paths) = mounts(i, lookup)?;
    mounts.extend(i.managed.iter().cloned());
    let mut labels = pod_labels(i.pod);
    labels.insert(labels::CONTAINER_NAME.to_owned(), c.name.clone());
    let env = i.env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() });
    let made = ContainerConfig {
        metadata: Some(ContainerMetadata { name: c.name.clone(), attempt: i.attempt }),
        image: Some(ImageSpec {
            image: i.image.id.clone(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: words(&c.command),
        args: words(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: env.collect(),
        mounts,
        labels,
        annotations: annotations(i),
        log_path: log_path(&c.name, i.attempt),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::of_container(i.pod, c, i.node_memory, i.lowest_oom)),
            security_context: Some(security::of_container(i.pod, c, i.image, i.seccomp_root)?),
        }),
    };
    Ok((made, sub_paths))
}

fn annotations(i: &Inputs<'_>) -> HashMap<String, String> {
    let c = i.container;
    let path = c.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH);
    let policy = c.termination_message_policy.as_deref().unwrap_or("File");
    let grace = view::spec(i.pod).termination_grace_period_seconds.unwrap_or(view::DEFAULT_GRACE);
    HashMap::from([
        (labels::HASH.to_owned(), view::hash(c)),
        (labels::RESTART_COUNT.to_owned(), i.attempt.to_string()),
        (labels::TERMINATION_PATH.to_owned(), path.to_owned()),
        (labels::TERMINATION_POLICY.to_owned(), policy.to_owned()),
        (labels::GRACE_PERIOD.to_owned(), grace.to_string()),
    ])
}

fn mounts(
    i: &Inputs<'_>,
    lookup: impl Fn(&str) -> Option<String> + Copy,
) -> Result<(Vec<Mount>, Vec<SubPath>), Error> {
    let (mut mounts, mut sub_paths) = (Vec::new(), Vec::new());
    for m in i.container.volume_mounts.iter().flatten() {
        let missing = || Error::NoVolume { name: m.name.clone(), path: m.mount_path.clone() };
        let mut host_path = i.volumes.get(&m.name).ok_or_else(missing)?.clone();
        let expr = m.sub_path_expr.as_deref().map(|e| expand(e, lookup));
        let sub = expr.or_else(|| m.sub_path.clone()).filter(|s| !s.is_empty());
        if let Some(sub) = sub {
            if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
                return Err(Error::SubPath { text: sub, path: m.mount_path.clone() });
            }
            host_path = format!("{host_path}/{sub}");
            sub_paths.push(SubPath { volume: m.name.clone(), path: sub });
        }
        let propagation = match m.mount_propagation.as_deref() {
            Some("Bidirectional") => MountPropagation::Bidirectional,
            Some("HostToContainer") => MountPropagation::HostToContainer,
            _ => MountPropagation::Private,
        };
        // A relative path is below the root folder, as with every runtime.
        let container_path = if m.mount_path.starts_with('/') {
            m.mount_path.clone()
        } else {
            format!("/{}", m.mount_path)
        };
        mounts.push(Mount {
            container_path,
            host_path,
            readonly: m.read_only == Some(true),
            propagation: propagation.into(),
            ..Mount::default()
        });
    }
    Ok((mounts, sub_paths))
}
