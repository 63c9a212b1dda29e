//! watch: a stream of changes, one JSON object a line.
//!
//! ```text
//! from nowhere or 0      all objects as ADDED, then changes
//! sendInitialEvents      all objects as ADDED, a bookmark that says so (KEP-3157), then changes
//! from a revision        changes after it; 410 if they are not remembered any more
//! ```
//! The stream ends at `timeoutSeconds` (by default after half an hour to an hour), when the server
//! stops, or when the client does not keep up; it then watches again from the last revision that it
//! saw.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bowline_schema::table::{self, IncludeObject};
use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval};

use super::Call;
use super::selection::Selection;
use crate::cache::{Change, ChangeKind, Entry, WatchError, Watcher};
use crate::convert;
use crate::metrics::Open;
use crate::negotiate::Form;
use crate::object;
use crate::present;
use crate::reply::{BodyError, JSON, Reply};
use crate::status::{ApiError, ApiResult};

/// How often a client that takes bookmarks learns where it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A stream without `timeoutSeconds` lasts this long, and up to twice as long.
const DEFAULT_SECONDS: u64 = 1800;
/// How long a watch waits for a revision that this server has not reached.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

pub(super) async fn watch(call: &Call) -> ApiResult<Reply> {
    let form = call.form()?;
    let selection = Selection::of(call)?;
    let mut prefix = call.kind.prefix_in(&call.target.namespace);
    if let Some(name) = selection.name().filter(|name| !name.is_empty()) {
        // One object: no other one's changes need to be looked at. (A key that goes on is
        // filtered.)
        if !call.kind.namespaced || !call.target.namespace.is_empty() {
            prefix.push_str(name);
        }
    }
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let (initial, watcher) = start(call, &prefix).await?;
    let mut pending = VecDeque::new();
    let mut stream = Stream::new(call, form, selection, watcher, bookmarks);
    if let Some(snapshot) = initial {
        for entry in &snapshot.entries {
            if stream.selection.matches(entry) {
                pending.push_back(stream.line("ADDED", entry));
            }
        }
        if call.query.flag("sendInitialEvents") && bookmarks {
            pending.push_back(stream.bookmark(snapshot.revision, true));
        }
    }
    stream.pending = pending;
    let lines = futures::stream::unfold(stream, |mut stream| async move {
        let line = stream.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(line)), stream))
    });
    let mut reply = Response::new(StreamBody::new(lines).boxed_unsync());
    let headers = reply.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(reply)
}

/// The objects to begin with, if the client wants them, and what follows.
async fn start(call: &Call, prefix: &str) -> ApiResult<(Option<crate::cache::Snapshot>, Watcher)> {
    let cache = &call.app.cache;
    let given = call.query.get("resourceVersion").unwrap_or_default();
    let revision = match given {
        "" => 0,
        text => text
            .parse::<u64>()
            .map_err(|_| ApiError::bad_request(format!("invalid resource version \"{text}\"")))?,
    };
    let wants_all = if call.query.has("sendInitialEvents") {
        if call.query.get("resourceVersionMatch") != Some("NotOlderThan") {
            return Err(ApiError::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        call.query.flag("sendInitialEvents")
    } else {
        revision == 0
    };
    if revision > cache.revision() {
        // Told by another server, or by this one before its store was put back: wait shortly.
        let _late = tokio::time::timeout(FUTURE_WAIT, cache.reach(revision)).await;
    }
    if wants_all {
        if revision > cache.revision() {
            return Err(ApiError::future_version(revision, cache.revision()));
        }
        let (snapshot, watcher) = cache.list_and_watch(prefix);
        return Ok((Some(snapshot), watcher));
    }
    // Without initial events and without a revision, only what comes now is of interest.
    let revision = if revision == 0 { cache.revision() } else { revision };
    match cache.watch(prefix, revision) {
        Ok(watcher) => Ok((None, watcher)),
        Err(WatchError::Future { newest }) => Err(ApiError::future_version(revision, newest)),
        Err(WatchError::TooOld { oldest }) => {
            Err(ApiError::expired(format!("too old resource version: {revision} ({oldest})")))
        }
    }
}

/// One client's stream.
struct Stream {
    call: StreamCall,
    form: Form,
    selection: Selection,
    watcher: Watcher,
    pending: VecDeque<Bytes>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    /// A Table's columns go with the first event only.
    columns_sent: bool,
    ended: bool,
    _open: Open,
}

/// What a stream needs of its call, which does not outlive the answer's head.
struct StreamCall {
    kind: Arc<crate::kinds::Kind>,
    app: Arc<crate::app::App>,
}

impl Stream {
    fn new(
        call: &Call,
        form: Form,
        selection: Selection,
        watcher: Watcher,
        bookmarks: bool,
    ) -> Self {
        let seconds = call.query.number("timeoutSeconds").filter(|s| *s > 0).unwrap_or_else(|| {
            // Spread over time, so that not all clients come back at once.
            DEFAULT_SECONDS + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * DEFAULT_SECONDS / 255
        });
        let seconds = Duration::from_secs(seconds.min(24 * 3600));
        let bookmarks = bookmarks.then(|| {
            let mut interval =
                tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        });
        Self {
            call: StreamCall { kind: Arc::clone(&call.kind), app: Arc::clone(&call.app) },
            form,
            selection,
            watcher,
            pending: VecDeque::new(),
            bookmarks,
            deadline: Instant::now() + seconds,
            columns_sent: false,
            ended: false,
            _open: call.app.metrics.open(),
        }
    }

    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let shutdown = self.call.app.shutdown.clone();
            tokio::select! {
                change = self.watcher.next() => match change {
                    Some(change) => self.take(&change),
                    None => self.ended = true,
                },
                () = tick(self.bookmarks.as_mut()) => self.bookmark_if_idle(),
                () = tokio::time::sleep_until(self.deadline) => {
                    self.bookmark_if_idle();
                    self.ended = true;
                }
                () = shutdown.cancelled() => self.ended = true,
            }
            // What is there already goes into the same piece.
            while self.pending.len() < 64
                && let Some(change) = self.watcher.next_ready()
            {
                self.take(&change);
            }
            self.join_pending();
        }
    }

    fn join_pending(&mut self) {
        if self.pending.len() > 1 {
            let joined: Vec<u8> = self.pending.drain(..).flatten().collect();
            self.pending.push_back(joined.into());
        }
    }

    /// Translates a change into what it means for the selection.
    fn take(&mut self, change: &Change) {
        let now = change.kind == ChangeKind::Put && self.selection.matches(&change.entry);
        let before = change.previous.as_ref().is_some_and(|entry| self.selection.matches(entry));
        let line = match (before, now) {
            (false, true) => self.line("ADDED", &change.entry),
            (true, true) => self.line("MODIFIED", &change.entry),
            // The client is told of the object as it last matched, at the new revision.
            (true, false) => self.gone(change),
            (false, false) => return,
        };
        self.pending.push_back(line);
    }

    fn gone(&mut self, change: &Change) -> Bytes {
        match (&change.kind, &change.previous) {
            (ChangeKind::Put, Some(previous)) => {
                let mut object = previous.value();
                object::metadata(&mut object)
                    .insert("resourceVersion".into(), change.revision.to_string().into());
                self.event("DELETED", object)
            }
            _ => self.line("DELETED", &change.entry),
        }
    }

    fn line(&mut self, kind: &str, entry: &Entry) -> Bytes {
        if self.form == Form::Object && !self.call.kind.converts() {
            let mut line = Vec::with_capacity(entry.bytes.len() + 40);
            line.extend_from_slice(b"{\"type\":\"");
            line.extend_from_slice(kind.as_bytes());
            line.extend_from_slice(b"\",\"object\":");
            line.extend_from_slice(&entry.bytes);
            line.extend_from_slice(b"}\n");
            return line.into();
        }
        self.event(kind, entry.value())
    }

    fn event(&mut self, event: &str, mut stored: Value) -> Bytes {
        let kind = &self.call.kind;
        let object = match self.form {
            Form::Table(include) => {
                convert::from_storage(kind, &mut stored);
                self.table(&stored, include)
            }
            form => present::object(kind, form, stored),
        };
        text_line(&json!({"type": event, "object": object}))
    }

    fn table(&mut self, object: &Value, include: IncludeObject) -> Value {
        let meta = json!({
            "resourceVersion": object.pointer("/metadata/resourceVersion"),
        });
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let now = jiff::Timestamp::now().as_second();
        table::table(&self.call.kind.gvk(), [object], &meta, include, columns, now)
    }

    fn bookmark_if_idle(&mut self) {
        if self.bookmarks.is_some()
            && let Some(revision) = self.watcher.idle_at()
        {
            let line = self.bookmark(revision, false);
            self.pending.push_back(line);
        }
    }

    fn bookmark(&mut self, revision: u64, initial: bool) -> Bytes {
        let kind = &self.call.kind;
        let mut metadata = json!({"resourceVersion": revision.to_string(),
                                  "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata,
        });
        let object = match self.form {
            Form::Object => object,
            Form::PartialMetadata => present::partial(&object),
            Form::Table(include) => {
                let mut table = self.table(&object, include);
                table["rows"] = json!([{"cells": [], "object": present::partial(&object)}]);
                table
            }
        };
        text_line(&json!({"type": "BOOKMARK", "object": object}))
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn text_line(event: &Value) -> Bytes {
    let mut text = event.to_string();
    text.push('\n');
    text.into()
}
