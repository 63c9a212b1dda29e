//! Pods of the API server, kept on disk: a kubelet that starts while the API server is away knows
//! what it has to look after.
//!
//! The copies may be old; the first list from the API server replaces them.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::files;
use crate::pod::view;

const FILE: &str = "pod.json";

/// Keeps a copy of `pod` in its folder below `pods`, which must be there; only its owner may read it.
pub fn keep(pods: &Path, pod: &Pod) -> io::Result<()> {
    use std::io::Write;
    let dir = pods.join(view::uid(pod));
    let next = dir.join(".pod.json.next");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(pod)?)?;
    std::fs::rename(&next, path(&dir))
}

/// All copies that can be read and belong to `node`.
pub fn read_all(pods: &Path, node: &str) -> Vec<Arc<Pod>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        let Ok(raw) = std::fs::read(path(&entry.path())) else { continue };
        let Ok(pod) = serde_json::from_slice::<Pod>(&raw) else { continue };
        let ours = view::spec(&pod).node_name.as_deref() == Some(node);
        if ours && !files::is_static(&pod) && entry.file_name().to_str() == Some(view::uid(&pod)) {
            all.push(Arc::new(pod));
        }
    }
    all
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_kept_is_read_and_what_is_broken_is_left_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u1"}, "spec": {"nodeName": "n", "containers": []},
        }))
        .expect("a pod");
        assert!(keep(dir.path(), &pod).is_err(), "a pod without a folder has ended");
        std::fs::create_dir(dir.path().join("u1")).expect("made");
        keep(dir.path(), &pod).expect("kept");
        std::fs::create_dir(dir.path().join("u2")).expect("made");
        std::fs::write(dir.path().join("u2/pod.json"), "{").expect("written");
        let read = read_all(dir.path(), "n");
        assert_eq!(read.iter().map(|p| view::uid(p)).collect::<Vec<_>>(), ["u1"]);
        assert!(read_all(dir.path(), "other").is_empty());
    }
}
