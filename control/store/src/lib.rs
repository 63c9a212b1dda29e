//! Where the cluster's state lives: keys and values with revisions.
//!
//! One [`Store`] holds a flat, ordered set of keys. Every change gets the next [`Revision`];
//! revisions are never reused and never decrease, also across restarts. An acknowledged
//! [`Store::commit`] survives the death of the process and a loss of power. The embedded
//! implementation is [`sqlite`].
//!
//! What a reader may rely on:
//! - [`Store::list`] at a revision and then [`Store::subscribe`] after it gives every change once,
//!   in order.
//! - A sink has been given a commit's events before that commit is acknowledged, so state built
//!   from a sink is never older than what any writer was told.
//! - Old revisions are trimmed: a revision before the last trim is answered
//!   [`StoreError::Compacted`].

pub mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// Counts changes: the first change of a new store is 1.
pub type Revision = u64;

/// A key's state at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision at which the key was created (since its last deletion).
    pub created: Revision,
    /// The revision of its last change.
    pub modified: Revision,
}

/// What must hold of a key for a transaction to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last changed at this revision.
    At(Revision),
}

/// One step of a transaction.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Sets the key.
    Put { key: Arc<str>, value: Bytes, expect: Expect },
    /// Removes the key. Without the key there is nothing to do: no revision is used up.
    Delete { key: Arc<str>, expect: Expect },
}

impl Operation {
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => *expect,
        }
    }
}

/// What one change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was created (`created == modified`) or changed.
    Put(Record),
    /// A key was removed. `value` and `created` are those of its last state, `modified` is the
    /// revision of the removal.
    Delete(Record),
}

impl Event {
    pub fn record(&self) -> &Record {
        match self {
            Self::Put(record) | Self::Delete(record) => record,
        }
    }

    pub fn revision(&self) -> Revision {
        self.record().modified
    }
}

/// Which keys to list.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Keys that start with this.
    pub prefix: String,
    /// Only keys greater than this one.
    pub after: Option<String>,
    /// At most so many records.
    pub limit: Option<usize>,
    /// The state at this revision; the newest without it.
    pub at: Option<Revision>,
}

/// An answer to a [`Query`], in the order of keys.
#[derive(Debug, Clone)]
pub struct Page {
    pub records: Vec<Record>,
    /// The revision that the records show the state of.
    pub revision: Revision,
    /// Whether the limit left records out.
    pub more: bool,
}

/// Receives changes.
pub trait Sink: Send + 'static {
    /// Takes the events of one or more commits, in order; `false` ends the subscription. It runs in
    /// the writer's way: it must not block or wait.
    fn apply(&mut self, events: &[Event]) -> bool;
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An [`Expect`] did not hold; nothing was changed.
    #[error("{key} is not as expected ({expected:?}): it is {}", describe(.found))]
    Conflict {
        key: Arc<str>,
        expected: Expect,
        /// The revision of the key's last change, or `None` if it does not exist.
        found: Option<Revision>,
    },
    /// The revision asked for has been trimmed.
    #[error("revision {wanted} is gone; the oldest one kept is {oldest}")]
    Compacted { wanted: Revision, oldest: Revision },
    /// The revision asked for does not exist yet.
    #[error("revision {wanted} is in the future; the newest is {newest}")]
    Future { wanted: Revision, newest: Revision },
    /// The disk or the database failed; whether the change happened is not known.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

fn describe(found: &Option<Revision>) -> String {
    match found {
        Some(revision) => format!("at revision {revision}"),
        None => "absent".to_owned(),
    }
}

/// The store's contract; see the module's documentation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies all operations or none, and returns the revision of each (for a
    /// [`Operation::Delete`] of an absent key, the store's revision at that moment). The operations
    /// see one another's effects in order.
    async fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Revision>, StoreError>;

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError>;

    async fn list(&self, query: Query) -> Result<Page, StoreError>;

    /// Gives `sink` every change after revision `after`, history first, and returns the newest
    /// revision that it has been given.
    async fn subscribe(&self, after: Revision, sink: Box<dyn Sink>)
    -> Result<Revision, StoreError>;

    /// The revision of the newest change.
    fn revision(&self) -> Revision;

    /// The newest revision that was trimmed: listing at it still works, and subscribing after it.
    fn compacted(&self) -> Revision;
}
