//! A directory of manifests as the source: to try a zone without a cluster, and for tests.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

use super::Source;
use crate::{
    model::{Change, Event},
    objects::{EndpointSlice, Service},
};

/// How often the directory is looked at for changed files.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `*.yaml`, `*.yml` and `*.json` files with Services, EndpointSlices and lists of them; other
/// kinds are passed over. A change of any file is noticed by its time or size.
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    pub fn new(path: PathBuf) -> Self {
        Directory { path }
    }
}

type Stamp = Vec<(PathBuf, SystemTime, u64)>;

impl Source for Directory {
    fn changes(self: Box<Self>) -> BoxStream<'static, Change> {
        let path = self.path;
        stream::unfold(None::<Stamp>, move |known| {
            let path = path.clone();
            async move {
                let stamp = loop {
                    match stamp(&path) {
                        Ok(stamp) if known.as_ref() != Some(&stamp) => break stamp,
                        Ok(_) => {}
                        // That it can't be read does not say that nothing is in it.
                        Err(error) => {
                            warn!(path = %path.display(), %error, "can't read the directory");
                        }
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                };
                let (services, slices) = read(&stamp);
                let changes = [
                    Change::Services(Event::Replace(services)),
                    Change::Slices(Event::Replace(slices)),
                ];
                Some((stream::iter(changes), Some(stamp)))
            }
        })
        .flatten()
        .boxed()
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let mut files = vec![];
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) {
            let metadata = entry.metadata()?;
            files.push((path, metadata.modified()?, metadata.len()));
        }
    }
    files.sort();
    Ok(files)
}

fn read(stamp: &Stamp) -> (Vec<Service>, Vec<EndpointSlice>) {
    let mut all = (vec![], vec![]);
    for (path, ..) in stamp {
        match fs::read_to_string(path) {
            Err(error) => warn!(path = %path.display(), %error, "can't read the manifest"),
            Ok(text) => {
                let (services, slices) = parse(&text);
                all.0.extend(services);
                all.1.extend(slices);
            }
        }
    }
    all
}

/// The Services and EndpointSlices of a YAML or JSON text of any number of documents and lists. What
/// doesn't decode is left out, and logged.
pub fn parse(text: &str) -> (Vec<Service>, Vec<EndpointSlice>) {
    let (mut services, mut slices) = (vec![], vec![]);
    for document in serde_yaml::Deserializer::from_str(text) {
        match Value::deserialize(document) {
            Ok(value) => sort(value, &mut services, &mut slices),
            Err(error) => {
                warn!(%error, "a manifest does not decode");
                // The rest of a text that is no YAML can't be told apart.
                break;
            }
        }
    }
    (services, slices)
}

fn sort(value: Value, services: &mut Vec<Service>, slices: &mut Vec<EndpointSlice>) {
    let failed = |error: serde_json::Error| {
        warn!(%error, "an object in a manifest does not decode");
    };
    match value["kind"].as_str() {
        Some("Service") => match serde_json::from_value(value) {
            Ok(service) => services.push(service),
            Err(error) => failed(error),
        },
        Some("EndpointSlice") => match serde_json::from_value(value) {
            Ok(slice) => slices.push(slice),
            Err(error) => failed(error),
        },
        Some(kind) if kind.ends_with("List") => {
            if let Some(items) = value["items"].as_array() {
                for item in items {
                    sort(item.clone(), services, slices);
                }
            }
        }
        _ => {}
    }
}
