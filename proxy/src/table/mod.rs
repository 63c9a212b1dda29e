//! A table of desired rows: every change has a revision, every row the status of its realisation.
//!
//! Writers only say what should be; the reconciler asks for what changed since the revision that it
//! has seen, and reports each row's fate. A report about a row that changed meanwhile is dropped, so
//! that a status always speaks of the row's current value.

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;

/// A point in the table's history; 0 is before the first change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How far a row's current value has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not tried yet.
    Pending,
    /// The kernel has it.
    Done,
    /// The last try failed with this; another follows.
    Error(String),
}

/// A row and what the table knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<V> {
    pub value: V,
    pub revision: Revision,
    pub status: Status,
}

/// One entry of [`Table::changes_since`]: the latest state of a key that changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a, K, V> {
    Present(&'a K, &'a Row<V>),
    /// The row was deleted at this revision.
    Gone(&'a K, Revision),
}

/// See the module's documentation. Deleted rows leave their key behind until [`Table::forget`].
#[derive(Debug)]
pub struct Table<K, V> {
    revision: Revision,
    rows: HashMap<K, Row<V>>,
    gone: HashMap<K, Revision>,
    /// Each key's latest revision only.
    log: BTreeMap<Revision, K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            revision: Revision(0),
            rows: HashMap::new(),
            gone: HashMap::new(),
            log: BTreeMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: PartialEq> Table<K, V> {
    /// Sets a row. An equal value changes nothing, its status included: true if it changed.
    pub fn upsert(&mut self, key: K, value: V) -> bool {
        if self.rows.get(&key).is_some_and(|row| row.value == value) {
            return false;
        }
        let revision = self.advance(&key);
        self.rows.insert(key, Row { value, revision, status: Status::Pending });
        true
    }

    /// Deletes a row: true if there was one.
    pub fn delete<Q: ?Sized + Hash + Eq>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let Some((key, row)) = self.rows.remove_entry(key) else { return false };
        self.log.remove(&row.revision);
        let revision = self.next();
        self.log.insert(revision, key.clone());
        self.gone.insert(key, revision);
        true
    }

    /// All keys that changed after `revision`, each once, oldest change first.
    pub fn changes_since(&self, revision: Revision) -> impl Iterator<Item = Change<'_, K, V>> {
        let after = Revision(revision.0 + 1);
        self.log.range(after..).map(|(revision, key)| match self.rows.get(key) {
            Some(row) => Change::Present(key, row),
            None => Change::Gone(key, *revision),
        })
    }

    /// Reports what became of `key` at `revision`; false (and dropped) if the row is another by now.
    pub fn set_status(&mut self, key: &K, revision: Revision, status: Status) -> bool {
        match self.rows.get_mut(key) {
            Some(row) if row.revision == revision => {
                row.status = status;
                true
            }
            _ => false,
        }
    }

    /// Drops what is left of a deleted row once its deletion is done; nothing if it came back.
    pub fn forget(&mut self, key: &K, revision: Revision) {
        if self.gone.get(key) == Some(&revision) {
            self.gone.remove(key);
            self.log.remove(&revision);
        }
    }

    pub fn get(&self, key: &K) -> Option<&Row<V>> {
        self.rows.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &Row<V>)> {
        self.rows.iter()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many rows are deleted but not yet forgotten.
    pub fn deletions_pending(&self) -> usize {
        self.gone.len()
    }

    fn next(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    /// Moves `key`'s entry in the log to a new revision.
    fn advance(&mut self, key: &K) -> Revision {
        let old = self.rows.get(key).map(|row| row.revision).or_else(|| self.gone.remove(key));
        if let Some(old) = old {
            self.log.remove(&old);
        }
        let revision = self.next();
        self.log.insert(revision, key.clone());
        revision
    }
}
