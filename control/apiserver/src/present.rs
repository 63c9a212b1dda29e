//! Objects in the form that the client takes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_schema::table;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::convert;
use crate::kinds::Kind;
use crate::negotiate::Form;
use crate::reply::{self, BodyError, JSON, Reply};

/// Bytes of a list that are handed over at once.
const CHUNK: usize = 64 << 10;

/// The `metadata` of a list.
#[derive(Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: u64,
    pub(crate) more: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    pub(crate) fn value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.more {
            meta["continue"] = json!(token);
        }
        if let Some(count) = self.remaining {
            meta["remainingItemCount"] = json!(count);
        }
        meta
    }
}

/// One object as clients of this version see it.
pub(crate) fn object(kind: &Kind, form: Form, mut stored: Value) -> Value {
    match form {
        Form::Object => {
            convert::from_storage(kind, &mut stored);
            stored
        }
        Form::PartialMetadata => partial(&stored),
        Form::Table(include) => {
            let now = jiff::Timestamp::now().as_second();
            let revision = stored.pointer("/metadata/resourceVersion").cloned();
            let meta = json!({"resourceVersion": revision.unwrap_or_default()});
            convert::from_storage(kind, &mut stored);
            table::table(&kind.gvk(), [&stored], &meta, include, true, now)
        }
    }
}

/// An answer with one cached object; the usual form needs no reading of it.
pub(crate) fn entry(kind: &Kind, form: Form, code: u16, entry: &Entry) -> Reply {
    if form == Form::Object && !kind.converts() {
        return reply::bytes(code, JSON, entry.bytes.clone());
    }
    reply::json(code, &object(kind, form, entry.value()))
}

pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A whole list.
pub(crate) fn list(kind: &Kind, form: Form, entries: Vec<Arc<Entry>>, meta: &ListMeta) -> Reply {
    match form {
        Form::Object if kind.converts() => {
            let texts = entries
                .iter()
                .map(|entry| Bytes::from(object(kind, form, entry.value()).to_string()));
            streamed(&kind.api_version(), &format!("{}List", kind.kind), texts.collect(), meta)
        }
        Form::Object => {
            let texts = entries.iter().map(|entry| entry.bytes.clone()).collect();
            streamed(&kind.api_version(), &format!("{}List", kind.kind), texts, meta)
        }
        Form::PartialMetadata => {
            let texts =
                entries.iter().map(|e| Bytes::from(partial(&e.value()).to_string())).collect();
            streamed("meta.k8s.io/v1", "PartialObjectMetadataList", texts, meta)
        }
        Form::Table(include) => {
            let now = jiff::Timestamp::now().as_second();
            let objects: Vec<Value> =
                entries.iter().map(|e| object(kind, Form::Object, e.value())).collect();
            let table = table::table(&kind.gvk(), &objects, &meta.value(), include, true, now);
            reply::json(200, &table)
        }
    }
}

fn streamed(api_version: &str, kind: &str, texts: VecDeque<Bytes>, meta: &ListMeta) -> Reply {
    let head = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{},\"items\":[",
        meta.value()
    );
    let commas = texts.len().saturating_sub(1);
    let left = head.len() + texts.iter().map(Bytes::len).sum::<usize>() + commas + 2;
    let body = ListBody { pending: BytesMut::from(head.as_bytes()), texts, started: false, left };
    let mut reply = Response::new(body.boxed_unsync());
    let headers = reply.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    reply
}

/// A list that is joined while it is sent, so that no second copy of all objects exists.
struct ListBody {
    pending: BytesMut,
    texts: VecDeque<Bytes>,
    started: bool,
    left: usize,
}

impl HttpBody for ListBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        while self.pending.len() < CHUNK
            && let Some(text) = self.texts.pop_front()
        {
            if self.started {
                self.pending.extend_from_slice(b",");
            }
            self.started = true;
            self.pending.extend_from_slice(&text);
        }
        if self.texts.is_empty() {
            self.pending.extend_from_slice(b"]}");
        }
        let chunk = self.pending.split().freeze();
        self.left = self.left.saturating_sub(chunk.len());
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}
