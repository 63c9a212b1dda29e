//! The OpenAPI documents that clients read: v2 as JSON and as gnostic protobuf, v3 as JSON.

use bytes::Bytes;

use crate::Gvk;

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

/// A document, kept compressed.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body for `Content-Encoding: gzip`.
    pub gzip: Bytes,
    /// Hex digest of the uncompressed body, for `ETag` and the v3 index's `hash`.
    pub etag: String,
}

impl Document {
    /// The body without content encoding.
    pub fn identity(&self) -> Bytes {
        self.gzip.clone()
    }
}

/// All documents of one server. Each is made at first use.
pub struct OpenApi {
    resources: Vec<Resource>,
}

impl OpenApi {
    pub fn new(resources: Vec<Resource>) -> Self {
        Self { resources }
    }

    /// `/openapi/v2` for `application/json`.
    pub fn v2_json(&self) -> Document {
        let _ = &self.resources;
        Document { gzip: Bytes::new(), etag: String::new() }
    }

    /// `/openapi/v2` for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
    pub fn v2_protobuf(&self) -> Document {
        Document { gzip: Bytes::new(), etag: String::new() }
    }

    /// `/openapi/v3`: paths to each group version's document.
    pub fn v3_index(&self) -> Bytes {
        Bytes::new()
    }

    /// `/openapi/v3/{path}` where path is `api/v1` or `apis/apps/v1`.
    pub fn v3(&self, path: &str) -> Option<Document> {
        let _ = path;
        None
    }
}
