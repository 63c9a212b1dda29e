//! Static pods: manifests in a folder, run without the API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::api::Change;
use crate::pod::view;

/// How often the folder is read; the kernel tells of changes in between where it can.
const PERIOD: Duration = Duration::from_secs(1);
/// Larger files are no manifests.
const MAX_SIZE: u64 = 1 << 20;

/// Annotations by which static pods and their mirrors are known.
pub const SOURCE: &str = "kubernetes.io/config.source";
pub const HASH: &str = "kubernetes.io/config.hash";
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Sends the pods of `dir`, and what has gone, until `shutdown`.
pub async fn watch(
    dir: PathBuf,
    node: String,
    to: mpsc::Sender<Change>,
    shutdown: CancellationToken,
) {
    let mut known: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    let mut first = true;
    loop {
        let (path, node) = (dir.clone(), node.clone());
        let read = tokio::task::spawn_blocking(move || read_all(&path, &node)).await;
        let found = read.unwrap_or_default();
        let gone: Vec<_> = known.keys().filter(|uid| !found.contains_key(*uid)).cloned().collect();
        let new: Vec<_> = found.iter().filter(|(uid, _)| !known.contains_key(*uid)).collect();
        let changes = gone
            .into_iter()
            .map(Change::Gone)
            .chain(new.into_iter().map(|(_, pod)| Change::Applied(Arc::clone(pod))))
            .chain(first.then_some(Change::Synced));
        for change in changes {
            if to.send(change).await.is_err() {
                return;
            }
        }
        known = found;
        first = false;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Every valid manifest by its UID; a bad one is told of and left out.
fn read_all(dir: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !entry.metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_SIZE) {
            continue;
        }
        match std::fs::read_to_string(&path)
            .map_err(|e| e.to_string())
            .and_then(|t| parse(&t, node))
        {
            Ok(pod) => drop(pods.insert(view::uid(&pod).to_owned(), Arc::new(pod))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "this manifest is no pod; it is left out");
            }
        }
    }
    pods
}

/// The pod of a manifest, with the names and marks of a static one. Its UID is a hash of its text,
/// so a changed manifest is another pod.
fn parse(text: &str, node: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    let digest = Sha256::digest(format!("{node}\0{text}").as_bytes());
    let hash: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let name =
        pod.metadata.name.take().filter(|n| !n.is_empty()).ok_or("metadata.name is missing")?;
    let spec = pod.spec.as_mut().ok_or("spec is missing")?;
    if spec.containers.is_empty() {
        return Err("spec.containers is empty".to_owned());
    }
    spec.node_name = Some(node.to_owned());
    spec.enable_service_links.get_or_insert(true);
    // A static pod stays when its node has any trouble.
    let tolerate = k8s_openapi::api::core::v1::Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Default::default()
    };
    spec.tolerations.get_or_insert_default().push(tolerate);
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    annotations.insert(HASH.to_owned(), hash);
    Ok(pod)
}

/// Does this kubelet run the pod from a file?
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some("file") && annotation(pod, MIRROR).is_none()
}

/// Is it the API server's picture of a static pod?
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n\
                            spec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn a_changed_manifest_is_another_pod() {
        let one = parse(MANIFEST, "n1").expect("a pod");
        let two = parse(&MANIFEST.replace("image: i", "image: j"), "n1").expect("a pod");
        assert_eq!(view::name(&one), "p-n1");
        assert_ne!(view::uid(&one), view::uid(&two));
        assert!(is_static(&one) && !is_mirror(&one));
    }

    #[test]
    fn a_bad_manifest_is_left_out_and_the_others_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("good.yaml"), MANIFEST).expect("written");
        std::fs::write(dir.path().join("bad.yaml"), "{").expect("written");
        std::fs::write(dir.path().join(".hidden.yaml"), MANIFEST).expect("written");
        assert_eq!(read_all(dir.path(), "n1").len(), 1);
    }
}
