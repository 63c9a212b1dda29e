//! Applies what lies in the manifests folder, and again when it changes.
//!
//! Each `*.yaml`, `*.yml` or `*.json` file may hold many objects. They are applied in the order of
//! file names and documents by server-side apply as the manager `bowline-manifests`. A file that
//! fails is logged and tried again, without holding up the others; a file that goes leaves its
//! objects where they are (delete them with kubectl).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const MANAGER: &str = "bowline-manifests";
/// How soon a changed file is seen.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// How soon a file that failed is tried again, doubled up to [`SCAN_EVERY`]; at the start of a
/// cluster the apiserver may refuse what it will take a moment later.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Why a manifest could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("can't read it")]
    Read(#[from] io::Error),
    #[error("not YAML or JSON")]
    Parse(#[from] serde_yaml::Error),
    #[error("an object lacks apiVersion, kind or metadata.name")]
    Incomplete,
    #[error("{kind} {name}")]
    Apply { kind: String, name: String, source: Box<kube::Error> },
}

/// What tells that a file changed, without reading it.
type Stamp = (SystemTime, u64);

/// Runs until `shutdown`.
pub async fn run(client: Client, folder: PathBuf, shutdown: CancellationToken) {
    let mut applied: BTreeMap<PathBuf, Stamp> = BTreeMap::new();
    let mut last_error: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut retry = RETRY_FIRST;
    loop {
        let mut failed = false;
        for (path, stamp) in files(&folder) {
            if applied.get(&path) == Some(&stamp) {
                continue;
            }
            match apply_file(&client, &path).await {
                Ok(objects) => {
                    info!(file = %path.display(), objects, "applied a manifest");
                    last_error.remove(&path);
                    applied.insert(path, stamp);
                }
                Err(error) => {
                    let text = format!("{:#}", anyhow::Error::from(error));
                    // Once for each new trouble, not at every try.
                    if last_error.insert(path.clone(), text.clone()).as_ref() != Some(&text) {
                        warn!(file = %path.display(), "can't apply a manifest, trying on: {text}");
                    }
                    failed = true;
                }
            }
        }
        let pause = if failed { retry } else { SCAN_EVERY };
        retry = if failed { (retry * 2).min(SCAN_EVERY) } else { RETRY_FIRST };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Stamp> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let manifest = |path: &Path| {
        path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml" || kind == "json")
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| manifest(path))
        .filter_map(|path| {
            let meta = fs::metadata(&path).ok()?;
            Some((path, (meta.modified().ok()?, meta.len())))
        })
        .collect()
}

/// Applies every object of a file, in order; the number of objects.
pub async fn apply_file(client: &Client, path: &Path) -> Result<usize, ApplyError> {
    let objects = parse(&tokio::fs::read_to_string(path).await?)?;
    for object in &objects {
        apply(client, object).await?;
    }
    Ok(objects.len())
}

/// The objects of a stream of YAML documents, `List`s opened.
fn parse(text: &str) -> Result<Vec<DynamicObject>, ApplyError> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document)?;
        if value.is_null() {
            continue;
        }
        let items = match value.get("items").and_then(|items| items.as_array()) {
            Some(items) => items.clone(),
            None => vec![value],
        };
        for item in items {
            let object: DynamicObject =
                serde_json::from_value(item).map_err(|_| ApplyError::Incomplete)?;
            if object.types.is_none() || object.metadata.name.is_none() {
                return Err(ApplyError::Incomplete);
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

async fn apply(client: &Client, object: &DynamicObject) -> Result<(), ApplyError> {
    let types = object.types.as_ref().ok_or(ApplyError::Incomplete)?;
    let name = object.metadata.name.as_deref().ok_or(ApplyError::Incomplete)?;
    let failed = |source| ApplyError::Apply {
        kind: types.kind.clone(),
        name: name.to_owned(),
        source: Box::new(source),
    };
    let gvk = GroupVersionKind::try_from(types).map_err(|_| ApplyError::Incomplete)?;
    let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await.map_err(failed)?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(object)).await.map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_many_documents_lists_and_empty_ones() {
        let text = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
        let names: Vec<_> = parse(text).unwrap().into_iter().map(|o| o.metadata.name).collect();
        assert_eq!(names, [Some("a".to_owned()), Some("b".to_owned())]);
    }

    #[test]
    fn an_object_without_a_name_is_refused() {
        let error = parse("apiVersion: v1\nkind: Namespace\nmetadata: {}\n").unwrap_err();
        assert!(matches!(error, ApplyError::Incomplete));
    }

    #[test]
    fn only_manifests_are_read_and_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "notes.txt", "c.yaml.tmp"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found: Vec<_> =
            files(folder.path()).into_keys().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(found, ["a.json", "b.yaml"]);
    }
}
