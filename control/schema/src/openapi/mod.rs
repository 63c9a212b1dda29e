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
use crate::types::kinds;
use schemas::Dialect;

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
    fn new(body: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to a Vec can't fail.
        let gzip = encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default();
        Self { gzip: gzip.into(), etag: digest([body]) }
    }

    /// The body without content encoding.
    pub fn identity(&self) -> Bytes {
        let mut body = Vec::new();
        // What `new` compressed can be read back.
        let _ = GzDecoder::new(&self.gzip[..]).read_to_end(&mut body);
        body.into()
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        hasher.write(part);
    }
    format!("{:016X}", hasher.finish())
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
        self.v2_json.get_or_init(|| Document::new(self.v2().to_string().as_bytes())).clone()
    }

    /// `/openapi/v2` for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
    pub fn v2_protobuf(&self) -> Document {
        self.v2_protobuf.get_or_init(|| Document::new(&gnostic::document(&self.v2()))).clone()
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
        let body = v3_body(&resources).to_string();
        let document = Document::new(body.as_bytes());
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

    fn v2(&self) -> Value {
        let resources: Vec<&Resource> = self.resources.iter().collect();
        let names = Names::of(kinds::raw());
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.35.0"},
            "paths": paths::v2(&resources, &names),
            "definitions": schemas::definitions(&names, Dialect::V2),
        })
    }
}

/// Changes whenever a group version's document may change: clients cache documents by it on disk.
fn fingerprint(resources: &[&Resource]) -> String {
    const MAKERS: [&[u8]; 4] = [
        include_bytes!("../types/facts.txt"),
        include_bytes!("../types/kinds.rs"),
        include_bytes!("paths.rs"),
        include_bytes!("schemas.rs"),
    ];
    let list = format!("{resources:?}");
    digest(MAKERS.into_iter().chain([list.as_bytes()]))
}

fn v3_body(resources: &[&Resource]) -> Value {
    let names = Names::of(kinds::raw());
    let paths = paths::v3(resources, &names);
    let mut all = schemas::definitions(&names, Dialect::V3);
    let mut wanted: Vec<String> = Vec::new();
    references(&Value::Object(paths.clone()), &mut wanted);
    let mut schemas = Map::new();
    while let Some(name) = wanted.pop() {
        if let Some(schema) = all.remove(&name) {
            references(&schema, &mut wanted);
            schemas.insert(name, schema);
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.35.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// Collects the names of all definitions that a value refers to.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                out.extend(target.rsplit('/').next().map(str::to_owned));
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

/// The raw schemas, and which definition a kind has.
struct Names {
    raw: kinds::Raw,
    by_kind: BTreeMap<Gvk, String>,
}

impl Names {
    fn of(raw: kinds::Raw) -> Self {
        let by_kind = raw.kinds.iter().cloned().collect();
        Self { raw, by_kind }
    }

    /// The definition of a kind, or of its list (`PodList`).
    fn definition(&self, gvk: &Gvk) -> Option<&str> {
        self.by_kind.get(gvk).map(String::as_str)
    }
}

#[cfg(test)]
mod tests;
