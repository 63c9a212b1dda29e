//! The OpenAPI documents that clients read: v2 as JSON and as gnostic protobuf, v3 as JSON.
//!
//! Made from k8s-openapi's schemas, `types/facts.txt` and the list of served resources, each at first use,
//! in some tens of milliseconds, and kept compressed.

mod gnostic;
mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::Gvk;
use crate::types::kinds::{self, Source};
use schemas::{Dialect, Maker};

/// One served resource; the apiserver makes the list from its kind table.
#[derive(Clone, Debug)]
pub struct Resource {
    pub gvk: Gvk,
    /// `deployments`
    pub plural: String,
    pub namespaced: bool,
    /// Of `get list watch create update patch delete deletecollection`.
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
}

/// `pods/log`, `deployments/scale`, ...
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    /// The kind of its body: `autoscaling/v1 Scale` for `scale`, the resource's own for `status`.
    pub gvk: Gvk,
    pub verbs: Vec<&'static str>,
}

impl Resource {
    /// `api/v1` or `apis/apps/v1`
    fn group_version_path(&self) -> String {
        if self.gvk.group.is_empty() {
            format!("api/{}", self.gvk.version)
        } else {
            format!("apis/{}/{}", self.gvk.group, self.gvk.version)
        }
    }
}

/// A document, kept compressed.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body for `Content-Encoding: gzip`.
    pub gzip: Bytes,
    /// Hex digest of the uncompressed body, for `ETag`.
    pub etag: String,
}

impl Document {
    /// The body without content encoding.
    pub fn identity(&self) -> Bytes {
        let mut body = Vec::new();
        // What `Sink` compressed can be read back.
        let _ = GzDecoder::new(&self.gzip[..]).read_to_end(&mut body);
        body.into()
    }
}

/// A document under way: compressed as it is written.
struct Sink {
    encoder: GzEncoder<Vec<u8>>,
    hasher: DefaultHasher,
}

impl Sink {
    fn new() -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Self { encoder, hasher: DefaultHasher::new() }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        // Writing to a Vec can't fail.
        let _ = self.encoder.write_all(bytes);
    }

    /// One entry of a JSON object.
    fn entry(&mut self, first: &mut bool, name: &str, value: &Value) {
        if !std::mem::replace(first, false) {
            self.write(b",");
        }
        self.write(format!("{name:?}:{value}").as_bytes());
    }

    fn finish(self) -> Document {
        let gzip = self.encoder.finish().unwrap_or_default();
        Document { gzip: gzip.into(), etag: format!("{:016X}", self.hasher.finish()) }
    }
}

/// All documents of one server. Each is made at first use.
pub struct OpenApi {
    resources: Vec<Resource>,
    v2_json: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    v3: Mutex<BTreeMap<String, Document>>,
}

impl OpenApi {
    pub fn new(resources: Vec<Resource>) -> Self {
        Self {
            resources,
            v2_json: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
            v3: Mutex::new(BTreeMap::new()),
        }
    }

    /// `/openapi/v2` for `application/json`.
    pub fn v2_json(&self) -> Document {
        self.v2_json.get_or_init(|| v2_json(&self.resources)).clone()
    }

    /// `/openapi/v2` for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
    pub fn v2_protobuf(&self) -> Document {
        self.v2_protobuf.get_or_init(|| v2_protobuf(&self.resources)).clone()
    }

    /// `/openapi/v3`: the path of each group version's document.
    pub fn v3_index(&self) -> Bytes {
        let paths: Map<String, Value> = self
            .group_versions()
            .into_iter()
            .map(|(path, resources)| {
                let hash = fingerprint(&resources);
                let url = format!("/openapi/v3/{path}?hash={hash}");
                (path, json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths}).to_string().into()
    }

    /// `/openapi/v3/{path}` where path is `api/v1` or `apis/apps/v1`; `None` if nothing is served there.
    pub fn v3(&self, path: &str) -> Option<Document> {
        let mut documents = self.v3.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = documents.get(path) {
            return Some(document.clone());
        }
        let resources = self.group_versions().remove(path)?;
        let document = v3_json(&resources);
        documents.insert(path.to_owned(), document.clone());
        Some(document)
    }

    fn group_versions(&self) -> BTreeMap<String, Vec<&Resource>> {
        let mut groups: BTreeMap<String, Vec<&Resource>> = BTreeMap::new();
        for resource in &self.resources {
            groups.entry(resource.group_version_path()).or_default().push(resource);
        }
        groups
    }
}

fn head() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.35.0"}})
}

/// Every definition is served, whether or not a path leads to it.
fn all_sources() -> Vec<Source> {
    kinds::all().into_iter().map(|kind| kind.source).chain(kinds::common()).collect()
}

fn v2_json(resources: &[Resource]) -> Document {
    let mut sink = Sink::new();
    let head = head();
    sink.write(format!("{{\"swagger\":{},\"info\":{}", head["swagger"], head["info"]).as_bytes());
    sink.write(b",\"paths\":{");
    let (names, mut first) = (paths::names(), true);
    for resource in resources {
        for (path, item) in paths::resource(resource, &names, Dialect::V2) {
            sink.entry(&mut first, &path, &item);
        }
    }
    sink.write(b"},\"definitions\":{");
    first = true;
    Maker::new(Dialect::V2)
        .definitions(all_sources(), |name, schema| sink.entry(&mut first, name, schema));
    sink.write(b"}}");
    sink.finish()
}

fn v2_protobuf(resources: &[Resource]) -> Document {
    let mut sink = Sink::new();
    sink.write(&gnostic::head(&head()));
    let names = paths::names();
    for resource in resources {
        for (path, item) in paths::resource(resource, &names, Dialect::V2) {
            sink.write(&gnostic::path(&path, &item));
        }
    }
    Maker::new(Dialect::V2).definitions(all_sources(), |name, schema| {
        sink.write(&gnostic::definition(name, schema));
    });
    sink.finish()
}

fn v3_json(resources: &[&Resource]) -> Document {
    let mut sink = Sink::new();
    sink.write(format!("{{\"openapi\":\"3.0.0\",\"info\":{}", head()["info"]).as_bytes());
    sink.write(b",\"paths\":{");
    let (names, mut first) = (paths::names(), true);
    for resource in resources {
        for (path, item) in paths::resource(resource, &names, Dialect::V3) {
            sink.entry(&mut first, &path, &item);
        }
    }
    let wanted: Vec<&Gvk> = resources
        .iter()
        .flat_map(|r| r.subresources.iter().map(|s| &s.gvk).chain([&r.gvk]))
        .collect();
    let kinds = kinds::all().into_iter().filter(|kind| wanted.contains(&&kind.gvk));
    let sources: Vec<Source> = kinds.map(|kind| kind.source).chain(kinds::common()).collect();
    sink.write(b"},\"components\":{\"schemas\":{");
    first = true;
    Maker::new(Dialect::V3)
        .definitions(sources, |name, schema| sink.entry(&mut first, name, schema));
    sink.write(b"}}}");
    sink.finish()
}

/// Changes whenever a group version's document may change: clients cache documents by it on disk.
fn fingerprint(resources: &[&Resource]) -> String {
    const MAKERS: [&[u8]; 4] = [
        include_bytes!("../types/facts.txt"),
        include_bytes!("../types/kinds.rs"),
        include_bytes!("paths.rs"),
        include_bytes!("schemas.rs"),
    ];
    let mut hasher = DefaultHasher::new();
    MAKERS.iter().for_each(|maker| hasher.write(maker));
    hasher.write(format!("{resources:?}").as_bytes());
    format!("{:016X}", hasher.finish())
}

#[cfg(test)]
mod tests;
