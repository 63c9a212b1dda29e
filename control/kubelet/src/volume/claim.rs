//! Persistent volume claims whose volume is a path on this node.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;

use super::{Error, host, io_error};
use crate::context::Context;
use crate::pod::view;

/// The path of the volume that claim `name` is bound to.
pub(super) async fn resolve(ctx: &Context, pod: &Pod, name: &str) -> Result<PathBuf, Error> {
    let fail = |message: String| Error::Claim { name: name.to_owned(), message };
    let client = &ctx.config.client;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), view::namespace(pod));
    let claim = claims.get(name).await.map_err(|e| fail(e.to_string()))?;
    let volume = claim.spec.and_then(|s| s.volume_name).filter(|v| !v.is_empty());
    let volume = volume.ok_or_else(|| fail("not bound to a volume yet".to_owned()))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let spec =
        volumes.get(&volume).await.map_err(|e| fail(e.to_string()))?.spec.unwrap_or_default();
    if let Some(source) = &spec.host_path {
        return host::ensure(source);
    }
    let Some(local) = &spec.local else { return Err(Error::Unsupported) };
    let path = PathBuf::from(&local.path);
    std::fs::metadata(&path).map_err(io_error("find", &path))?;
    Ok(path)
}
