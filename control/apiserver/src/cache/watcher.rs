//! One client's view of the changes.

use std::collections::VecDeque;
use std::sync::Arc;

use bowline_store::Revision;
use tokio::sync::mpsc;

use super::{Cache, Entry};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Put,
    Delete,
}

/// One change of one object, shared by all watchers and the history.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) key: Arc<str>,
    pub(crate) revision: Revision,
    /// The new state; for a removal the last one, with the removal's revision.
    pub(crate) entry: Arc<Entry>,
    /// The state before, if there was one: a selector may have matched it.
    pub(crate) previous: Option<Arc<Entry>>,
}

/// Delivers each change once, in order.
pub(crate) struct Watcher {
    cache: Arc<Cache>,
    past: VecDeque<Arc<Change>>,
    changes: mpsc::Receiver<Arc<Change>>,
    reached: Revision,
}

impl Watcher {
    pub(super) fn new(
        cache: Arc<Cache>,
        past: VecDeque<Arc<Change>>,
        changes: mpsc::Receiver<Arc<Change>>,
        after: Revision,
    ) -> Self {
        Self { cache, past, changes, reached: after }
    }

    /// The next change; `None` when the watcher was cut off. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Option<Arc<Change>> {
        let change = match self.past.pop_front() {
            Some(change) => change,
            None => self.changes.recv().await?,
        };
        self.reached = change.revision;
        Some(change)
    }

    /// The next change that is there already.
    pub(crate) fn next_ready(&mut self) -> Option<Arc<Change>> {
        let change = self.past.pop_front().or_else(|| self.changes.try_recv().ok())?;
        self.reached = change.revision;
        Some(change)
    }

    /// A revision up to which this watcher has delivered everything, if nothing waits in it. The
    /// cache's revision is read first: whatever it covers was queued before it was told.
    pub(crate) fn idle_at(&mut self) -> Option<Revision> {
        let revision = self.cache.revision();
        let idle = self.past.is_empty() && self.changes.is_empty();
        idle.then(|| revision.max(self.reached))
    }
}
