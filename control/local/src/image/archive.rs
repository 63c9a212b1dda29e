//! What images an archive holds, without importing it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use super::normalized;

/// Larger than any index; a tar that claims more is not ours.
const INDEX_BYTES: u64 = 4 << 20;

/// An image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its full reference.
    pub(crate) reference: String,
    /// Its manifest's digest; docker's archives don't say.
    pub(crate) digest: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Manifest>,
}

#[derive(Deserialize)]
struct Manifest {
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// The images of an OCI (`index.json`) or docker (`manifest.json`) archive. An archive that has
/// both, as docker writes it since version 25, is read by its index.
pub(crate) fn named(archive: &Path) -> io::Result<Vec<Named>> {
    let mut tar = tar::Archive::new(File::open(archive)?);
    let mut docker = Vec::new();
    for entry in tar.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        if path == Path::new("index.json") {
            let index: Index = serde_json::from_reader(entry.take(INDEX_BYTES))?;
            let images: Vec<_> = index.manifests.into_iter().filter_map(of_manifest).collect();
            if !images.is_empty() {
                return Ok(images);
            }
        } else if path == Path::new("manifest.json") {
            let images: Vec<DockerImage> = serde_json::from_reader(entry.take(INDEX_BYTES))?;
            let tags = images.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default());
            docker = tags.map(|tag| Named { reference: normalized(&tag), digest: None }).collect();
        }
    }
    Ok(docker)
}

fn of_manifest(manifest: Manifest) -> Option<Named> {
    let reference = manifest.annotations.get("io.containerd.image.name")?;
    Some(Named { reference: normalized(reference), digest: Some(manifest.digest) })
}
