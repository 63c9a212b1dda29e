//! The one thread that changes the database.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::log::Stale;
use super::{Marks, Options, log};
use crate::{Event, Expect, Operation, Record, Revision, Sink, StoreError};

/// Commits that share one fsync.
const GROUP: usize = 256;
/// Stale rows removed along with one group, so that trimming never holds writers up for long.
const TRIM: usize = 512;
/// Bytes written between two wakes of the checkpointer.
const CHECKPOINT_BYTES: u64 = 4 << 20;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Command {
    Commit { operations: Vec<Operation>, reply: Reply<Vec<Revision>> },
    Subscribe { after: Revision, sink: Box<dyn Sink>, reply: Reply<Revision> },
}

pub(super) struct Writer {
    connection: Connection,
    options: Options,
    marks: Arc<Marks>,
    wake_checkpointer: SyncSender<()>,
    revision: Revision,
    compacted: Revision,
    stale: VecDeque<Stale>,
    stale_bytes: u64,
    unchecked_bytes: u64,
    sinks: Vec<Box<dyn Sink>>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        options: Options,
        marks: Arc<Marks>,
        wake_checkpointer: SyncSender<()>,
    ) -> rusqlite::Result<Self> {
        let revision = log::newest_revision(&connection)?;
        let compacted = log::mark(&connection, "compacted")?;
        let stale: VecDeque<Stale> = log::stale_rows(&connection)?.into();
        marks.revision.store(revision, Ordering::Release);
        marks.compacted.store(compacted, Ordering::Release);
        let stale_bytes = stale.iter().map(|row| row.bytes).sum();
        Ok(Self {
            connection,
            options,
            marks,
            wake_checkpointer,
            revision,
            compacted,
            stale,
            stale_bytes,
            unchecked_bytes: 0,
            sinks: Vec::new(),
        })
    }

    /// Serves commands until every sender is gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut group = Vec::with_capacity(GROUP);
        while queue.blocking_recv_many(&mut group, GROUP) > 0 {
            let mut commits = Vec::with_capacity(group.len());
            for command in group.drain(..) {
                match command {
                    Command::Commit { operations, reply } => commits.push((operations, reply)),
                    Command::Subscribe { after, sink, reply } => {
                        // Order matters: what was asked before must be in the history.
                        self.commit_group(&mut commits);
                        // A caller that went away has no use for the answer.
                        let _gone = reply.send(self.subscribe(after, sink));
                    }
                }
            }
            self.commit_group(&mut commits);
        }
    }

    fn commit_group(&mut self, commits: &mut Vec<(Vec<Operation>, Reply<Vec<Revision>>)>) {
        if commits.is_empty() {
            return;
        }
        let mut events = Vec::new();
        match self.write_group(commits, &mut events) {
            Ok(outcomes) => {
                self.marks.revision.store(self.revision, Ordering::Release);
                self.marks.compacted.store(self.compacted, Ordering::Release);
                self.publish(&events);
                for ((_, reply), outcome) in commits.drain(..).zip(outcomes) {
                    let _gone = reply.send(outcome);
                }
                self.wake_checkpointer_if_due(&events);
            }
            Err(error) => self.fail_group(commits, &log::failed(error)),
        }
    }

    /// One SQLite transaction for all; a commit whose expectation fails writes nothing in it.
    fn write_group(
        &mut self,
        commits: &[(Vec<Operation>, Reply<Vec<Revision>>)],
        events: &mut Vec<Event>,
    ) -> rusqlite::Result<Vec<Result<Vec<Revision>, StoreError>>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut outcomes = Vec::with_capacity(commits.len());
        for (operations, _) in commits {
            self.connection.execute_batch("SAVEPOINT one")?;
            let (mark, revision, stale) = (events.len(), self.revision, self.stale.len());
            let outcome = self.write(operations, events)?;
            if outcome.is_err() {
                self.connection.execute_batch("ROLLBACK TO one")?;
                events.truncate(mark);
                self.revision = revision;
                self.forget_stale(stale);
            }
            self.connection.execute_batch("RELEASE one")?;
            outcomes.push(outcome);
        }
        self.trim()?;
        self.connection.execute_batch("COMMIT")?;
        Ok(outcomes)
    }

    fn write(
        &mut self,
        operations: &[Operation],
        events: &mut Vec<Event>,
    ) -> rusqlite::Result<Result<Vec<Revision>, StoreError>> {
        let mut revisions = Vec::with_capacity(operations.len());
        for operation in operations {
            let before = log::newest(&self.connection, operation.key())?;
            let found = before.as_ref().map(|record| record.modified);
            let holds = match operation.expect() {
                Expect::Any => true,
                Expect::Absent => found.is_none(),
                Expect::At(revision) => found == Some(revision),
            };
            if !holds {
                let (key, expected) = (Arc::clone(operation.key()), operation.expect());
                return Ok(Err(StoreError::Conflict { key, expected, found }));
            }
            if let Some(event) = change(operation, before.as_ref(), self.revision + 1) {
                log::append(&self.connection, &event)?;
                self.revision += 1;
                self.note_stale(&event, before.as_ref());
                events.push(event);
            }
            revisions.push(self.revision);
        }
        Ok(Ok(revisions))
    }

    fn note_stale(&mut self, event: &Event, before: Option<&Record>) {
        let since = event.revision();
        if let Some(record) = before {
            self.push_stale(Stale {
                revision: record.modified,
                since,
                bytes: record.value.len() as u64,
            });
        }
        if let Event::Delete(record) = event {
            self.push_stale(Stale { revision: since, since, bytes: record.value.len() as u64 });
        }
    }

    fn push_stale(&mut self, row: Stale) {
        self.stale_bytes += row.bytes;
        self.stale.push_back(row);
    }

    fn forget_stale(&mut self, keep: usize) {
        for row in self.stale.drain(keep..) {
            self.stale_bytes -= row.bytes;
        }
    }

    /// Removes the history that is over the bounds, a little at a time.
    fn trim(&mut self) -> rusqlite::Result<()> {
        let horizon = self.revision.saturating_sub(self.options.history_rows);
        let mut compacted = self.compacted;
        for _ in 0..TRIM {
            let Some(&row) = self.stale.front() else { break };
            let over = row.since <= horizon || self.stale_bytes > self.options.history_bytes;
            // All rows of one change go together: half of them gone would show a wrong past.
            if !over && row.since > compacted {
                break;
            }
            log::remove(&self.connection, row.revision)?;
            compacted = compacted.max(row.since);
            self.stale.pop_front();
            self.stale_bytes -= row.bytes;
        }
        if compacted > self.compacted {
            log::set_mark(&self.connection, "compacted", compacted)?;
            log::set_mark(&self.connection, "newest", self.revision)?;
            self.compacted = compacted;
        }
        Ok(())
    }

    /// Nothing of the group is in the database (or, after a failed COMMIT, nobody knows): what is
    /// in memory is read again.
    fn fail_group(
        &mut self,
        commits: &mut Vec<(Vec<Operation>, Reply<Vec<Revision>>)>,
        error: &StoreError,
    ) {
        tracing::error!(%error, "a write to the store failed");
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the failed write could not be rolled back");
        }
        let reread = log::newest_revision(&self.connection)
            .and_then(|revision| Ok((revision, log::stale_rows(&self.connection)?)))
            .and_then(|(revision, stale)| {
                Ok((revision, stale, log::mark(&self.connection, "compacted")?))
            });
        if let Ok((revision, stale, compacted)) = reread {
            let missed = self.marks.revision.load(Ordering::Acquire);
            self.revision = revision;
            self.compacted = compacted;
            self.stale_bytes = stale.iter().map(|row| row.bytes).sum();
            self.stale = stale.into();
            self.marks.revision.store(revision, Ordering::Release);
            // A COMMIT that reported failure may have happened: the sinks must not miss it.
            if let Ok(events) = log::changes(&self.connection, missed) {
                self.publish(&events);
            }
        }
        for (_, reply) in commits.drain(..) {
            let _gone = reply.send(Err(error.clone()));
        }
    }

    fn publish(&mut self, events: &[Event]) {
        if !events.is_empty() {
            self.sinks.retain_mut(|sink| sink.apply(events));
        }
    }

    fn wake_checkpointer_if_due(&mut self, events: &[Event]) {
        // A page a change and one for the index is the least that the WAL grows by.
        let bytes = events.iter().map(|event| event.record().value.len() as u64 + 8192);
        self.unchecked_bytes += bytes.sum::<u64>();
        if self.unchecked_bytes > CHECKPOINT_BYTES {
            self.unchecked_bytes = 0;
            // Full means that it is awake already.
            let _awake = self.wake_checkpointer.try_send(());
        }
    }

    fn subscribe(
        &mut self,
        after: Revision,
        mut sink: Box<dyn Sink>,
    ) -> Result<Revision, StoreError> {
        if after > self.revision {
            return Err(StoreError::Future { wanted: after, newest: self.revision });
        }
        if after < self.compacted {
            return Err(StoreError::Compacted { wanted: after, oldest: self.compacted });
        }
        let mut reached = after;
        loop {
            let events = log::changes(&self.connection, reached).map_err(log::failed)?;
            let Some(last) = events.last() else { break };
            reached = last.revision();
            if !sink.apply(&events) {
                return Ok(reached);
            }
        }
        self.sinks.push(sink);
        Ok(self.revision)
    }
}

/// What an operation does to a key that is as expected.
fn change(operation: &Operation, before: Option<&Record>, revision: Revision) -> Option<Event> {
    match operation {
        Operation::Put { key, value, .. } => Some(Event::Put(Record {
            key: Arc::clone(key),
            value: value.clone(),
            created: before.map_or(revision, |record| record.created),
            modified: revision,
        })),
        Operation::Delete { .. } => {
            before.map(|record| Event::Delete(Record { modified: revision, ..record.clone() }))
        }
    }
}
