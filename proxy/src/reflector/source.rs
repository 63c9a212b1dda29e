//! One kind's list and watch, for as long as the agent runs.
//!
//! Contract with the sink: after each [`Batch`] it has what the apiserver had at some revision, and
//! revisions never go back, unless a second list confirmed that they did. Nothing is lost while the
//! apiserver is away: the watch goes on from the last revision, or a new list is compared with what
//! is known.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use serde::Deserialize;

use super::gate::{Gate, Known, Listed};
use super::types::{Meta, Object};
use crate::model::ObjectName;

/// Objects in one page of a list: what is parsed at a time bounds the memory of the start.
const PAGE: usize = 500;
/// The apiserver ends a watch after this long, so that a dead connection is noticed at last.
const WATCH_SECONDS: u64 = 290;
/// A watch that stays silent for longer is given up by us.
const WATCH_SILENCE: Duration = Duration::from_secs(WATCH_SECONDS + 15);
/// Events that go to the sink together, if they are there already: no event waits for others.
const BATCH: usize = 512;
/// First and longest pause before a failed request is made again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How long after a suspicious list the second one is read.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// Changes, in order.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub set: Vec<T>,
    pub gone: Vec<ObjectName>,
    /// With this batch the whole present state has been told at least once.
    pub synced: bool,
}

/// Takes the batches of a source.
pub(super) trait Sink<T>: Send {
    fn take(&mut self, batch: Batch<T>) -> impl Future<Output = ()> + Send;

    /// An object's weight for the [`Gate`] (endpoints of a slice).
    fn weight(&self, _object: &T) -> usize {
        0
    }
}

#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("can't build the request {path}")]
    Request { path: String, source: http::Error },
    #[error("the apiserver did not answer")]
    Api(#[from] kube::Error),
    #[error("the watch was silent for {} s", WATCH_SILENCE.as_secs())]
    Silent,
    #[error("the revision to watch from is gone")]
    Expired,
}

/// Runs until it is dropped.
pub(super) async fn run<T: Object, S: Sink<T>>(client: Client, mut sink: S, inherited: usize) {
    let mut source = Source::<T> {
        client,
        known: HashMap::new(),
        seen: 0,
        revision: None,
        gate: Gate::new(inherited),
        marker: std::marker::PhantomData,
    };
    let mut pause = RETRY_FIRST;
    loop {
        match source.follow(&mut sink).await {
            Ok(()) => pause = RETRY_FIRST,
            Err(SourceError::Expired) => {
                tracing::debug!(kind = T::KIND, "the watch is behind; listing anew");
                source.revision = None;
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(kind = T::KIND, %error, cause, "will retry in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LAST);
            }
        }
    }
}

struct Source<T> {
    client: Client,
    known: HashMap<ObjectName, Known>,
    /// The highest revision seen.
    seen: u64,
    /// Where the watch goes on; None: list first.
    revision: Option<String>,
    gate: Gate,
    marker: std::marker::PhantomData<fn() -> T>,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    r#continue: Option<String>,
}

impl<T: Object> Source<T> {
    /// Lists if need be, then watches once, until the apiserver ends the watch.
    async fn follow<S: Sink<T>>(&mut self, sink: &mut S) -> Result<(), SourceError> {
        let revision = match self.revision.clone() {
            Some(revision) => revision,
            None => self.relist(sink).await?,
        };
        self.watch(revision, sink).await
    }

    async fn relist<S: Sink<T>>(&mut self, sink: &mut S) -> Result<String, SourceError> {
        loop {
            let (objects, revision) = self.list().await?;
            let weigh = |object: &T| Known {
                revision: parse_revision(object.meta()),
                weight: sink.weight(object),
            };
            let listed: HashMap<ObjectName, Known> =
                objects.iter().map(|o| (super::convert::name_of(o), weigh(o))).collect();
            let number = revision.parse().unwrap_or(0);
            let list = Listed { revision: number, objects: &listed };
            if let Err(suspicion) = self.gate.admit(&self.known, self.seen, &list) {
                tracing::warn!(kind = T::KIND, %suspicion, "will list again before believing it");
                tokio::time::sleep(CONFIRM_AFTER).await;
                continue;
            }
            let changed = |object: &T| {
                let old = self.known.get(&super::convert::name_of(object));
                old.is_none_or(|old| {
                    old.revision == 0 || old.revision != parse_revision(object.meta())
                })
            };
            let set = objects.into_iter().filter(changed).collect();
            let gone = |name: &&ObjectName| !listed.contains_key(*name);
            let gone = self.known.keys().filter(gone).cloned().collect();
            self.known = listed;
            self.seen = number;
            self.revision = Some(revision.clone());
            sink.take(Batch { set, gone, synced: true }).await;
            return Ok(revision);
        }
    }

    async fn list(&self) -> Result<(Vec<T>, String), SourceError> {
        let mut objects = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut query = format!("limit={PAGE}");
            if let Some(token) = &next {
                query.push_str("&continue=");
                query.push_str(&escape(token));
            }
            let list: List<T> = match self.client.request(request::<T>(&query)?).await {
                Ok(list) => list,
                // The snapshot of the first page is gone: begin again.
                Err(error) if is_expired(&error) && next.is_some() => {
                    objects.clear();
                    next = None;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            objects.extend(list.items.into_iter().flatten());
            next = list.metadata.r#continue.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok((objects, list.metadata.resource_version));
            }
        }
    }

    async fn watch<S: Sink<T>>(
        &mut self,
        revision: String,
        sink: &mut S,
    ) -> Result<(), SourceError> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}\
             &resourceVersion={}",
            escape(&revision)
        );
        let events = self.client.request_events::<T>(request::<T>(&query)?).await;
        let events = events.map_err(expired_or)?;
        let mut events = std::pin::pin!(events.ready_chunks(BATCH));
        loop {
            let next = tokio::time::timeout(WATCH_SILENCE, events.next());
            let Some(chunk) = next.await.map_err(|_| SourceError::Silent)? else { return Ok(()) };
            let mut batch = Batch { set: Vec::new(), gone: Vec::new(), synced: false };
            let mut failed = Ok(());
            for event in chunk {
                failed = event.map_err(expired_or).and_then(|e| self.event(e, &mut batch, sink));
                if failed.is_err() {
                    break;
                }
            }
            if !batch.set.is_empty() || !batch.gone.is_empty() {
                sink.take(batch).await;
            }
            failed?;
        }
    }

    fn event<S: Sink<T>>(
        &mut self,
        event: WatchEvent<T>,
        batch: &mut Batch<T>,
        sink: &S,
    ) -> Result<(), SourceError> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.advance(&object.meta().resource_version);
                let name = super::convert::name_of(&object);
                let revision = parse_revision(object.meta());
                self.known.insert(name.clone(), Known { revision, weight: sink.weight(&object) });
                batch.gone.retain(|gone| *gone != name);
                batch.set.push(object);
            }
            WatchEvent::Deleted(object) => {
                self.advance(&object.meta().resource_version);
                let name = super::convert::name_of(&object);
                self.known.remove(&name);
                batch.set.retain(|set| super::convert::name_of(set) != name);
                batch.gone.push(name);
            }
            WatchEvent::Bookmark(bookmark) => self.advance(&bookmark.metadata.resource_version),
            WatchEvent::Error(status) => {
                return Err(expired_or(kube::Error::Api(status)));
            }
        }
        Ok(())
    }

    fn advance(&mut self, revision: &str) {
        if !revision.is_empty() {
            self.revision = Some(revision.to_owned());
            self.seen = self.seen.max(revision.parse().unwrap_or(0));
        }
    }
}

fn request<T: Object>(query: &str) -> Result<Request<Vec<u8>>, SourceError> {
    let selector = if T::SELECTOR.is_empty() { "" } else { "&labelSelector=" };
    let path = format!("{}?{query}{selector}{}", T::PATH, T::SELECTOR);
    let failed = |source| SourceError::Request { path: path.clone(), source };
    Request::get(&path).body(Vec::new()).map_err(failed)
}

fn parse_revision(meta: &Meta) -> u64 {
    meta.resource_version.parse().unwrap_or(0)
}

/// Percent-encodes a value of a query.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let encode = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(encode).collect()
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

fn expired_or(error: kube::Error) -> SourceError {
    if is_expired(&error) { SourceError::Expired } else { error.into() }
}
