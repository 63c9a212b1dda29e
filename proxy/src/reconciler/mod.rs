//! Brings the maps to what the table says: level-triggered, idempotent, one round at a time.
//!
//! A round first applies every changed row (each up to its flip, which is one store), then deletes
//! what the rows no longer have. What a flip or a deletion made unreachable waits in a quarantine;
//! [`Reconciler::settle`], called when there is time for it, waits for one grace period for all of
//! it. A row that fails keeps its place in the table with the error as its status, and is tried
//! again with growing pauses; the other rows go on.
//!
//! ```text
//! Pending --applied, cleaned--> Done
//!    |  \--an operation failed--> Error --(pause)--> tried again
//! deleted: the row's state moves to `leaving`, and is removed as often as it takes
//! ```
//!
//! Nothing that an earlier agent left is deleted before [`Reconciler::prune`].

mod apply;
mod expansion;
mod installed;
mod node;
mod pools;
mod quarantine;
mod restore;
mod retry;
#[cfg(test)]
mod tests;
mod vips;

use std::collections::HashMap;
use std::time::Instant;

use crate::maps::{Dump, MapError, Maps};
use crate::model::ServicePortName;
use crate::table::{Change, Revision, Status};
use crate::writer::{ServicePort, ServiceTable};
use apply::{ApplyError, Kernel};
use installed::Installed;
use node::NodeState;
use restore::Restored;
use retry::Retries;

pub use node::NodeRows;

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    pub applied: usize,
    pub failed: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Reconciler {
    kernel: Kernel,
    node: NodeState,
    installed: HashMap<ServicePortName, Installed>,
    restored: Option<Restored>,
    /// Deleted rows and pruned leftovers on their way out of the maps.
    leaving: Vec<Installed>,
    retries: Retries<Task>,
    seen: Revision,
}

/// What can be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Task {
    Row(ServicePortName),
    Shared,
}

impl Reconciler {
    /// Takes over what is in the maps, nothing of which is touched before a row or
    /// [`Reconciler::prune`] asks for it.
    pub fn restore(dump: &Dump) -> Self {
        let mut new = Self::default();
        new.node.restore(dump);
        new.restored = Some(Restored::from_dump(dump, &mut new.kernel));
        new
    }

    /// How many service ports of an earlier agent nobody has claimed yet.
    pub fn unclaimed(&self) -> usize {
        self.restored.as_ref().map_or(0, Restored::len)
    }

    /// What the maps shall say of the node itself; done in the next round.
    pub fn set_node(&mut self, rows: NodeRows) {
        self.node.set(rows);
    }

    /// One round: all rows that changed since the last one, and those whose retry is due.
    pub fn reconcile(
        &mut self,
        table: &mut ServiceTable,
        maps: &mut dyn Maps,
        now: Instant,
    ) -> Round {
        let work = self.collect(table, now);
        let mut round = Round::default();
        let mut failures = HashMap::new();
        for (name, _) in &work {
            if let Some(row) = table.get(name)
                && let Err(error) = self.apply(maps, name, &row.value)
            {
                failures.insert(name.clone(), error);
            }
        }
        for (name, _) in &work {
            // Whoever waits for another's frontend has all else in place: two may wait for each
            // other.
            if failures.get(name).is_none_or(ApplyError::is_taken)
                && let Some(row) = table.get(name)
                && let Some(installed) = self.installed.get_mut(name)
                && let Err(error) = self.kernel.clean(maps, name, &row.value, installed)
            {
                failures.insert(name.clone(), error);
            }
        }
        self.leave(maps, now);
        self.retry_moved(table, maps, &mut failures);
        for (name, revision) in work {
            let task = Task::Row(name.clone());
            match failures.remove(&name) {
                Some(error) => {
                    round.failed += 1;
                    tracing::warn!(service = %name, %error, "could not update a service; will retry");
                    table.set_status(&name, revision, Status::Error(error.to_string()));
                    self.retries.failed(task, now);
                }
                None => {
                    round.applied += 1;
                    table.set_status(&name, revision, Status::Done);
                    self.retries.succeeded(&task);
                }
            }
        }
        self.seen = table.revision();
        self.share(maps, now);
        round
    }

    /// Deletes all that an earlier agent left and no row has claimed. To be called once every source
    /// has synced and the rows were reconciled at least once.
    pub fn prune(&mut self) -> usize {
        let Some(restored) = self.restored.take() else { return 0 };
        let before = self.leaving.len();
        self.leaving.extend(restored.into_unclaimed());
        self.leaving.len() - before
    }

    /// Waits for a grace period (blocks for about 15 ms) and gives back what waited for it.
    pub fn settle(&mut self, maps: &mut dyn Maps) -> Result<(), MapError> {
        self.kernel.quarantine.release(maps, &mut self.kernel.pools)
    }

    /// How many things wait for [`Reconciler::settle`].
    pub fn quarantined(&self) -> usize {
        self.kernel.quarantine.len()
    }

    /// When [`Reconciler::reconcile`] has something to do even if nothing changes.
    pub fn next_retry(&self) -> Option<Instant> {
        self.retries.next()
    }

    /// How many rows or shared tables failed and wait for their retry.
    pub fn failing(&self) -> usize {
        self.retries.len()
    }

    /// The present rows to be worked on; the gone ones move to `leaving`.
    fn collect(
        &mut self,
        table: &mut ServiceTable,
        now: Instant,
    ) -> Vec<(ServicePortName, Revision)> {
        let mut work = Vec::new();
        let mut gone = Vec::new();
        for change in table.changes_since(self.seen) {
            match change {
                Change::Present(name, row) => work.push((name.clone(), row.revision)),
                Change::Gone(name, revision) => gone.push((name.clone(), revision)),
            }
        }
        for (name, revision) in gone {
            self.retries.succeeded(&Task::Row(name.clone()));
            self.leaving.extend(self.installed.remove(&name));
            table.forget(&name, revision);
        }
        for task in self.retries.due(now) {
            let Task::Row(name) = task else { continue };
            match table.get(&name) {
                Some(row) if row.revision <= self.seen => work.push((name, row.revision)),
                Some(_) => {}
                None => self.retries.succeeded(&Task::Row(name)),
            }
        }
        work
    }

    fn apply(
        &mut self,
        maps: &mut dyn Maps,
        name: &ServicePortName,
        row: &ServicePort,
    ) -> Result<(), ApplyError> {
        if !self.installed.contains_key(name) {
            let keys = expansion::frontends(name, row).map(|(key, _)| key);
            let claimed = self.restored.as_mut().and_then(|restored| restored.claim(keys));
            let installed = match claimed {
                Some(installed) => installed,
                None => {
                    let id = self.kernel.pools.ids.take();
                    let id = id.ok_or(ApplyError::Exhausted { what: "service ids" })?;
                    Installed { id, ..Installed::default() }
                }
            };
            self.installed.insert(name.clone(), installed);
        }
        let installed = self.installed.get_mut(name).expect("it was inserted above");
        self.kernel.apply(maps, name, row, installed)
    }

    /// Removes what leaves; what fails stays for the next try.
    fn leave(&mut self, maps: &mut dyn Maps, now: Instant) {
        let kernel = &mut self.kernel;
        let retries = &mut self.retries;
        self.leaving.retain_mut(|installed| match kernel.remove(maps, installed) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(id = installed.id, %error, "could not remove a service; will retry");
                retries.failed(Task::Shared, now);
                true
            }
        });
    }

    /// A frontend that moved from one service port to another could be inserted only after the other
    /// row was cleaned: by now it is, and its clients should not wait for the next try.
    fn retry_moved(
        &mut self,
        table: &ServiceTable,
        maps: &mut dyn Maps,
        failures: &mut HashMap<ServicePortName, ApplyError>,
    ) {
        failures.retain(|name, error| {
            if !error.is_taken() {
                return true;
            }
            let Some(row) = table.get(name) else { return true };
            let again = self.apply(maps, name, &row.value).and_then(|()| {
                match self.installed.get_mut(name) {
                    Some(installed) => self.kernel.clean(maps, name, &row.value, installed),
                    None => Ok(()),
                }
            });
            match again {
                Ok(()) => false,
                Err(new) => {
                    *error = new;
                    true
                }
            }
        });
    }

    /// The rows that no service port owns alone.
    fn share(&mut self, maps: &mut dyn Maps, now: Instant) {
        let prune = self.restored.is_none();
        let vips = self.kernel.vips.sync(maps, prune);
        let node = self.node.sync(maps);
        for error in [vips, node].into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "could not update the node's addresses; will retry");
            self.retries.failed(Task::Shared, now);
        }
        if self.leaving.is_empty()
            && self.node.is_clean()
            && (self.kernel.vips.is_clean() || !prune)
        {
            self.retries.succeeded(&Task::Shared);
        }
    }
}
