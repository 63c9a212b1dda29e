//! Volumes: folders on the node that a pod's containers see.
//!
//! [`setup`] is safe to repeat, and repeating it is how configuration in volumes is kept up to date.

pub mod atomic;
mod claim;
mod host;
mod payload;
mod teardown;
pub mod token;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bowline_api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use nix::mount::{MsFlags, mount};

pub use teardown::teardown;

use crate::context::Context;
use crate::pod::view;
use crate::source::objects::Unknown;

/// Volumes whose content the API server could not tell are asked for again after this.
const AWAY_RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// A volume can't be made; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{act} {}", path.display())]
    Io { act: &'static str, path: PathBuf, source: io::Error },
    #[error("mount a tmpfs on {}", path.display())]
    Tmpfs { path: PathBuf, source: nix::Error },
    #[error("write the files")]
    Write(#[from] atomic::Error),
    #[error(transparent)]
    Unknown(#[from] Unknown),
    #[error("{kind} {name:?} not found")]
    Missing { kind: &'static str, name: String },
    #[error("{kind} {name:?} has no key {key:?}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("the file for {path:?}")]
    Field { path: String, source: crate::make::field::Error },
    #[error("a token for service account {account:?}: {message}")]
    Token { account: String, message: String },
    #[error("hostPath {} is not a {wanted}", path.display())]
    HostPath { path: PathBuf, wanted: String },
    #[error("claim {name:?}: {message}")]
    Claim { name: String, message: String },
    #[error(
        "this kind of volume is not supported by this kubelet; emptyDir, hostPath, configMap, secret, projected, downwardAPI and claims of hostPath or local volumes are"
    )]
    Unsupported,
}

/// An error with the name of its volume.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?}")]
pub struct VolumeError {
    pub volume: String,
    pub source: Error,
}

/// The volumes of a pod that are there.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Path on the node, by the volume's name.
    pub paths: BTreeMap<String, String>,
    /// When a token must be renewed.
    pub renew_at: Option<Timestamp>,
}

/// Makes all volumes of `pod`, or brings their files up to date.
pub async fn setup(ctx: &Context, pod: &Pod) -> Result<Ready, VolumeError> {
    let mut ready = Ready::default();
    for volume in view::spec(pod).volumes.iter().flatten() {
        let fail = |source| VolumeError { volume: volume.name.clone(), source };
        let path = one(ctx, pod, volume, &mut ready.renew_at).await.map_err(fail)?;
        ready.paths.insert(volume.name.clone(), path.display().to_string());
    }
    Ok(ready)
}

/// The group that owns a pod's volumes.
fn fs_group(pod: &Pod) -> Option<u32> {
    let group = view::spec(pod).security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn dir(ctx: &Context, pod: &Pod, kind: &str, name: &str) -> PathBuf {
    ctx.pod_dir(view::uid(pod)).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

fn io_error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { act, path, source }
}

async fn one(
    ctx: &Context,
    pod: &Pod,
    volume: &Volume,
    renew_at: &mut Option<Timestamp>,
) -> Result<PathBuf, Error> {
    let name = &volume.name;
    if let Some(source) = &volume.empty_dir {
        return empty_dir(&dir(ctx, pod, "empty-dir", name), source, fs_group(pod));
    }
    if let Some(source) = &volume.host_path {
        return host::ensure(source);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claim::resolve(ctx, pod, &claim.claim_name).await;
    }
    if volume.ephemeral.is_some() {
        return claim::resolve(ctx, pod, &format!("{}-{name}", view::name(pod))).await;
    }
    let (kind, in_memory) = match volume {
        Volume { config_map: Some(_), .. } => ("configmap", false),
        Volume { secret: Some(_), .. } => ("secret", true),
        Volume { projected: Some(_), .. } => ("projected", true),
        Volume { downward_api: Some(_), .. } => ("downward-api", true),
        _ => return Err(Error::Unsupported),
    };
    let path = dir(ctx, pod, kind, name);
    let made = match payload::of(ctx, pod, volume).await {
        // The API server is away, and what it said last is good enough to go on with.
        Err(Error::Unknown(_) | Error::Token { .. }) if path.join(atomic::DATA).exists() => {
            *renew_at = Timestamp::now().checked_add(AWAY_RETRY).ok();
            return Ok(path);
        }
        made => made?,
    };
    if let Some(at) = made.renew_at {
        *renew_at = Some(renew_at.map_or(at, |old| old.min(at)));
    }
    let group = fs_group(pod);
    let target = path.clone();
    let write = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&target).map_err(io_error("create", &target))?;
        if in_memory {
            tmpfs(&target, None)?;
        }
        atomic::write(&target, &made.files, group)?;
        Ok::<_, Error>(())
    });
    match write.await {
        Ok(written) => written?,
        Err(e) => return Err(io_error("write", &path)(io::Error::other(e))),
    }
    Ok(path)
}

fn empty_dir(
    path: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path).map_err(io_error("create", path))?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok());
        tmpfs(path, limit.map(Quantity::units).filter(|bytes| *bytes > 0))?;
    }
    let mut mode = 0o777;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(io_error("give", path))?;
        mode = 0o2777;
    }
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(io_error("chmod", path))?;
    Ok(path.to_owned())
}

/// Mounts a tmpfs of at most `limit` bytes, unless one is there.
fn tmpfs(path: &Path, limit: Option<i64>) -> Result<(), Error> {
    if teardown::is_mount_point(path) {
        return Ok(());
    }
    let options = limit.map_or_else(|| "mode=0755".to_owned(), |b| format!("mode=0777,size={b}"));
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|source| Error::Tmpfs { path: path.to_owned(), source })
}

/// Makes what a subPath names inside a volume, and returns where it really is: never outside.
pub fn sub_path(volume: &Path, path: &str) -> Result<PathBuf, Error> {
    let wanted = volume.join(path);
    if std::fs::symlink_metadata(&wanted).is_err() {
        std::fs::create_dir_all(&wanted).map_err(io_error("create", &wanted))?;
    }
    let real = wanted.canonicalize().map_err(io_error("resolve", &wanted))?;
    let root = volume.canonicalize().map_err(io_error("resolve", volume))?;
    if real.starts_with(&root) {
        return Ok(real);
    }
    Err(io_error("stay in the volume with", &wanted)(io::Error::from(
        io::ErrorKind::PermissionDenied,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_never_leaves_its_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = sub_path(dir.path(), "a/b").expect("made");
        assert!(made.is_dir() && made.ends_with("a/b"));
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("linked");
        assert!(sub_path(dir.path(), "out").is_err());
        assert!(sub_path(dir.path(), "out/passwd").is_err());
    }
}
