//! The one table and its queries.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Event, Page, Query, Record, Revision, StoreError};

/// How long a connection waits for another one's lock (only the checkpointer's are ever in the
/// way).
const BUSY: Duration = Duration::from_secs(30);
/// Rows read at once when history is replayed.
const REPLAY_CHUNK: usize = 512;

/// A connection with the settings that durability rests on: in WAL mode a transaction is one fsync
/// of the WAL with `synchronous=FULL`.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Checkpoints have a thread of their own, out of the writer's way.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    Ok(connection)
}

pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS log (
             revision INTEGER PRIMARY KEY,
             key TEXT NOT NULL,
             created INTEGER NOT NULL,
             deleted INTEGER NOT NULL,
             value BLOB NOT NULL
         );
         CREATE UNIQUE INDEX IF NOT EXISTS log_by_key ON log (key, revision, deleted);
         CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, revision INTEGER NOT NULL);
         INSERT OR IGNORE INTO marks VALUES ('compacted', 0), ('newest', 0);",
    )
}

pub(super) fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// A revision that was kept aside, so that it never goes back when the newest rows are trimmed.
pub(super) fn mark(connection: &Connection, name: &str) -> rusqlite::Result<Revision> {
    connection
        .prepare_cached("SELECT revision FROM marks WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
}

pub(super) fn set_mark(
    connection: &Connection,
    name: &str,
    revision: Revision,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE marks SET revision = ?2 WHERE name = ?1")?
        .execute(params![name, revision])?;
    Ok(())
}

/// The newest revision that any row or mark knows.
pub(super) fn newest_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let rows: Revision = connection
        .prepare_cached("SELECT ifnull(max(revision), 0) FROM log")?
        .query_row([], |row| row.get(0))?;
    Ok(rows.max(mark(connection, "newest")?))
}

/// A key's state, read without its value's being copied around more than once.
pub(super) fn newest(connection: &Connection, key: &str) -> rusqlite::Result<Option<Record>> {
    let row = connection
        .prepare_cached(
            "SELECT revision, key, created, deleted, value FROM log
             WHERE key = ?1 ORDER BY revision DESC LIMIT 1",
        )?
        .query_row([key], event)
        .optional()?;
    Ok(match row {
        Some(Event::Put(record)) => Some(record),
        _ => None,
    })
}

pub(super) fn append(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let record = event.record();
    let deleted = matches!(event, Event::Delete(_));
    connection
        .prepare_cached(
            "INSERT INTO log (revision, key, created, deleted, value) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![record.modified, &*record.key, record.created, deleted, &*record.value])?;
    Ok(())
}

pub(super) fn list(connection: &Connection, query: &Query) -> Result<Page, StoreError> {
    // One read transaction, so that the marks and the rows are of one moment.
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    let newest = newest_revision(&transaction).map_err(failed)?;
    let oldest = mark(&transaction, "compacted").map_err(failed)?;
    let revision = query.at.unwrap_or(newest);
    if revision > newest {
        return Err(StoreError::Future { wanted: revision, newest });
    }
    if revision < oldest {
        return Err(StoreError::Compacted { wanted: revision, oldest });
    }
    let mut records = read_page(&transaction, query, revision).map_err(failed)?;
    let more = query.limit.is_some_and(|limit| records.len() > limit);
    if let Some(limit) = query.limit {
        records.truncate(limit);
    }
    Ok(Page { records, revision, more })
}

fn read_page(
    connection: &Connection,
    query: &Query,
    revision: Revision,
) -> rusqlite::Result<Vec<Record>> {
    // With a bare max() SQLite takes the other columns from the same row.
    let mut statement = connection.prepare_cached(
        "SELECT max(revision), key, created, deleted, value FROM log
         WHERE key >= ?1 AND key < ?2 AND key > ?3 AND revision <= ?4
         GROUP BY key HAVING deleted = 0 ORDER BY key LIMIT ?5",
    )?;
    let limit = query.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1);
    let after = query.after.as_deref().unwrap_or("");
    let rows = statement.query_map(
        params![query.prefix, prefix_end(&query.prefix), after, revision, limit],
        |row| event(row).map(|event| event.record().clone()),
    )?;
    rows.collect()
}

/// The first string after all that start with `prefix`. Keys are UTF-8, whose bytes are never 0xff,
/// so the highest code point ends every range.
fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{10ffff}")
}

/// Changes after a revision, oldest first, at most [`REPLAY_CHUNK`].
pub(super) fn changes(connection: &Connection, after: Revision) -> rusqlite::Result<Vec<Event>> {
    let mut statement = connection.prepare_cached(
        "SELECT revision, key, created, deleted, value FROM log
         WHERE revision > ?1 ORDER BY revision LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, REPLAY_CHUNK], event)?;
    rows.collect()
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let key: Arc<str> = row.get_ref(1)?.as_str()?.into();
    let value = Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?);
    let record = Record { key, value, created: row.get(2)?, modified: row.get(0)? };
    Ok(if row.get(3)? { Event::Delete(record) } else { Event::Put(record) })
}

/// A row that is no key's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) revision: Revision,
    /// The change that made it stale: a removal makes its own row stale at once.
    pub(super) since: Revision,
    pub(super) bytes: u64,
}

/// All stale rows, in the order in which they became so.
pub(super) fn stale_rows(connection: &Connection) -> rusqlite::Result<Vec<Stale>> {
    let mut statement = connection.prepare(
        "SELECT revision, deleted, length(value),
                lead(revision) OVER (PARTITION BY key ORDER BY revision) FROM log",
    )?;
    let rows = statement.query_map([], |row| {
        let (revision, deleted, bytes): (Revision, bool, u64) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let next: Option<Revision> = row.get(3)?;
        let since = if deleted { Some(revision) } else { next };
        Ok(since.map(|since| Stale { revision, since, bytes }))
    })?;
    let mut stale: Vec<Stale> = rows.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    stale.sort_by_key(|row| row.since);
    Ok(stale)
}

pub(super) fn remove(connection: &Connection, revision: Revision) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM log WHERE revision = ?1")?.execute([revision])?;
    Ok(())
}
