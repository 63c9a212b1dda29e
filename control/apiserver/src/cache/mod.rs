//! The watch cache: the whole state in memory, each object encoded once and shared by all readers.
//!
//! The store feeds it (it is a [`Sink`]) before it acknowledges a commit, so that a read from here
//! is never older than any acknowledged write. One lock covers all resources: a list and the
//! revision that it is said to be of belong together.
//!
//! Bounds: each resource keeps its last [`HISTORY`] changes (at most [`HISTORY_BYTES`], and none that
//! is older than [`HISTORY_AGE`]) for watches to start from; each watcher has [`WATCH_BUFFER`] undelivered changes, then it is cut off and its
//! client starts anew.

mod entry;
mod watcher;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_schema::Gvk;
use bowline_store::{Event, Record, Revision, Sink, Store, StoreError};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

pub(crate) use entry::Entry;
pub(crate) use watcher::{Change, ChangeKind, Watcher};

use crate::kinds::Kinds;

/// Changes that each resource remembers.
const HISTORY: usize = 2048;
/// Bytes of objects that each resource's history may hold.
const HISTORY_BYTES: usize = 4 << 20;
/// Who was away for longer lists anew.
const HISTORY_AGE: Duration = Duration::from_secs(120);
/// Changes that may wait for one watcher.
pub(crate) const WATCH_BUFFER: usize = 2048;

/// See the module's documentation.
pub(crate) struct Cache {
    state: RwLock<State>,
    revision: watch::Sender<Revision>,
    facts: HashMap<Arc<str>, Facts>,
}

/// What is read out of a resource's objects once, for selectors.
#[derive(Clone)]
struct Facts {
    gvk: Gvk,
    fields: Vec<&'static str>,
}

#[derive(Default)]
struct State {
    resources: HashMap<Arc<str>, Resource>,
    revision: Revision,
    /// Watches can start after this revision where a resource has no gap of its own.
    oldest: Revision,
}

#[derive(Default)]
struct Resource {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    history: VecDeque<(Instant, Arc<Change>)>,
    history_bytes: usize,
    /// The newest change that the history no longer has.
    forgotten: Revision,
    /// The revision of its newest change.
    changed: Revision,
    watchers: Vec<Watching>,
}

struct Watching {
    prefix: String,
    queue: mpsc::Sender<Arc<Change>>,
}

/// Entries of a list and the revision that they are the state of.
pub(crate) struct Snapshot {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: Revision,
    /// Whether the limit left entries out.
    pub(crate) more: bool,
}

/// Why a watch can't start where it was asked to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WatchError {
    TooOld { oldest: Revision },
    Future { newest: Revision },
}

impl Cache {
    /// Reads the store's state and history and follows it from then on.
    pub(crate) async fn start(store: &dyn Store, kinds: &Kinds) -> Result<Arc<Self>, StoreError> {
        let facts = kinds.all().iter().map(|kind| {
            let facts = Facts { gvk: kind.storage.clone(), fields: kind.fields.clone() };
            (Arc::clone(&kind.prefix), facts)
        });
        let cache = Arc::new(Self {
            state: RwLock::default(),
            revision: watch::Sender::new(0),
            facts: facts.collect(),
        });
        let oldest = store.compacted();
        let query = bowline_store::Query { at: Some(oldest), ..Default::default() };
        let page = store.list(query).await?;
        {
            let mut state = cache.state.write();
            state.oldest = oldest;
            state.revision = oldest;
            for record in &page.records {
                let entry = Arc::new(cache.entry(record));
                if let Some(resource) = state.resource_of(&record.key) {
                    resource.changed = resource.changed.max(record.modified);
                    resource.entries.insert(Arc::clone(&record.key), entry);
                }
            }
        }
        store.subscribe(oldest, Box::new(Feed(Arc::clone(&cache)))).await?;
        Ok(cache)
    }

    fn entry(&self, record: &Record) -> Entry {
        let facts = resource_prefix(&record.key).and_then(|prefix| self.facts.get(prefix));
        Entry::new(record, facts.map(|f| (&f.gvk, f.fields.as_slice())))
    }

    pub(crate) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let state = self.state.read();
        state.resources.get(resource_prefix(key)?)?.entries.get(key).cloned()
    }

    /// Entries under a prefix in the order of keys, with keys after `after`, for which `keep` says
    /// yes.
    pub(crate) fn list(
        &self,
        prefix: &str,
        limit: Option<usize>,
        keep: impl Fn(&Entry) -> bool,
    ) -> Snapshot {
        let state = self.state.read();
        let revision = state.revision;
        let resource = resource_prefix(prefix).and_then(|p| state.resources.get(p));
        let Some(resource) = resource else {
            return Snapshot { entries: Vec::new(), revision, more: false };
        };
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let wanted = resource
            .entries
            .range::<str, _>(range)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
            .filter(|entry| keep(entry));
        let mut entries: Vec<Arc<Entry>> =
            wanted.take(limit.map_or(usize::MAX, |l| l + 1)).cloned().collect();
        let more = limit.is_some_and(|limit| entries.len() > limit);
        if let Some(limit) = limit {
            entries.truncate(limit);
        }
        Snapshot { entries, revision, more }
    }

    /// All entries under a prefix.
    pub(crate) fn all(&self, prefix: &str) -> Vec<Arc<Entry>> {
        self.list(prefix, None, |_| true).entries
    }

    /// The revision of a resource's newest change: who derives something from it sees when to anew.
    pub(crate) fn changed(&self, prefix: &str) -> Revision {
        self.state.read().resources.get(prefix).map_or(0, |resource| resource.changed)
    }

    /// Changes under a prefix after a revision.
    pub(crate) fn watch(
        self: &Arc<Self>,
        prefix: &str,
        after: Revision,
    ) -> Result<Watcher, WatchError> {
        let mut state = self.state.write();
        if after > state.revision {
            return Err(WatchError::Future { newest: state.revision });
        }
        let oldest = state.oldest;
        let Some(resource) = state.resource_of(prefix) else {
            return Err(WatchError::TooOld { oldest: Revision::MAX });
        };
        let oldest = resource.forgotten.max(oldest);
        if after < oldest {
            return Err(WatchError::TooOld { oldest });
        }
        let past: VecDeque<Arc<Change>> = resource
            .history
            .iter()
            .map(|(_, change)| change)
            .filter(|change| change.revision > after && change.key.starts_with(prefix))
            .cloned()
            .collect();
        Ok(self.follow(resource, prefix, past, after))
    }

    /// The entries under a prefix, and all changes after them.
    pub(crate) fn list_and_watch(self: &Arc<Self>, prefix: &str) -> (Snapshot, Watcher) {
        let mut state = self.state.write();
        let revision = state.revision;
        let mut spare = Resource::default();
        let resource = state.resource_of(prefix).unwrap_or(&mut spare);
        let range = (Bound::Included(prefix), Bound::Unbounded);
        let entries = resource
            .entries
            .range::<str, _>(range)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| Arc::clone(entry))
            .collect();
        let watcher = self.follow(resource, prefix, VecDeque::new(), revision);
        (Snapshot { entries, revision, more: false }, watcher)
    }

    fn follow(
        self: &Arc<Self>,
        resource: &mut Resource,
        prefix: &str,
        past: VecDeque<Arc<Change>>,
        after: Revision,
    ) -> Watcher {
        let (queue, changes) = mpsc::channel(WATCH_BUFFER);
        resource.watchers.retain(|watching| !watching.queue.is_closed());
        resource.watchers.push(Watching { prefix: prefix.to_owned(), queue });
        Watcher::new(Arc::clone(self), past, changes, after)
    }

    /// Waits until the cache has reached a revision.
    pub(crate) async fn reach(&self, revision: Revision) {
        let mut reached = self.revision.subscribe();
        // It fails only when the cache is gone, and then nobody waits.
        let _gone = reached.wait_for(|now| *now >= revision).await;
    }
}

impl State {
    /// The resource of a key or prefix, made if it is not there; `None` for a key of another shape.
    fn resource_of(&mut self, key: &str) -> Option<&mut Resource> {
        let prefix = resource_prefix(key)?;
        if !self.resources.contains_key(prefix) {
            self.resources.insert(prefix.into(), Resource::default());
        }
        self.resources.get_mut(prefix)
    }
}

impl Resource {
    fn apply(&mut self, change: Arc<Change>, now: Instant) {
        self.changed = change.revision;
        match change.kind {
            ChangeKind::Put => {
                self.entries.insert(Arc::clone(&change.key), Arc::clone(&change.entry))
            }
            ChangeKind::Delete => self.entries.remove(&change.key),
        };
        // Dropping the sender ends the watch of a client that does not keep up.
        self.watchers.retain(|watching| {
            !change.key.starts_with(&watching.prefix)
                || watching.queue.try_send(Arc::clone(&change)).is_ok()
        });
        self.history_bytes += change.entry.bytes.len();
        self.history.push_back((now, change));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, old)) = self.history.front()
            && (self.history.len() > HISTORY
                || self.history_bytes > HISTORY_BYTES
                || now.duration_since(*at) > HISTORY_AGE)
        {
            self.history_bytes -= old.entry.bytes.len();
            self.forgotten = old.revision;
            self.history.pop_front();
        }
    }
}

/// `/registry/<group>/<resource>/` of a key.
fn resource_prefix(key: &str) -> Option<&str> {
    let mut slashes = key.match_indices('/').map(|(at, _)| at);
    slashes.nth(3).map(|at| &key[..=at])
}

struct Feed(Arc<Cache>);

impl Sink for Feed {
    fn apply(&mut self, events: &[Event]) -> bool {
        // Reading the objects takes the longest and needs no lock.
        let entries: Vec<Arc<Entry>> =
            events.iter().map(|event| Arc::new(self.0.entry(event.record()))).collect();
        let now = Instant::now();
        let mut state = self.0.state.write();
        for (event, entry) in events.iter().zip(entries) {
            let record = event.record();
            state.revision = record.modified;
            let Some(resource) = state.resource_of(&record.key) else { continue };
            let kind = match event {
                Event::Put(_) => ChangeKind::Put,
                Event::Delete(_) => ChangeKind::Delete,
            };
            let previous = resource.entries.get(&record.key).cloned();
            let (key, revision) = (Arc::clone(&record.key), record.modified);
            resource.apply(Arc::new(Change { kind, key, revision, entry, previous }), now);
        }
        state.resources.values_mut().for_each(|resource| resource.forget(now));
        let revision = state.revision;
        drop(state);
        self.0.revision.send_replace(revision);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: Revision) -> Arc<Change> {
        let key: Arc<str> = "/registry/core/pods/default/a".into();
        let value = bytes::Bytes::from_static(b"{}");
        let record = Record { key: Arc::clone(&key), value, created: 1, modified: revision };
        let entry = Arc::new(Entry::new(&record, None));
        Arc::new(Change { kind: ChangeKind::Put, key, revision, entry, previous: None })
    }

    #[test]
    fn history_is_bounded_by_number_and_age() {
        let (mut resource, start) = (Resource::default(), Instant::now());
        for revision in 1..=HISTORY as u64 + 5 {
            resource.apply(change(revision), start);
        }
        assert_eq!((resource.history.len(), resource.forgotten), (HISTORY, 5));
        resource.forget(start + HISTORY_AGE);
        assert_eq!(resource.history.len(), HISTORY);
        resource.forget(start + HISTORY_AGE + Duration::from_millis(1));
        assert_eq!((resource.history.len(), resource.history_bytes), (0, 0));
        assert_eq!(resource.forgotten, HISTORY as u64 + 5, "an older watch must list anew");
    }
}
