//! The embedded store: one SQLite file.
//!
//! ```text
//! commit() --bounded queue--> writer thread: up to 256 transactions in one, with one fsync
//!                               |-> sinks (before the acknowledgement) -> acknowledgements
//!                               '-> wakes the checkpointer thread when the WAL has grown
//! get(), list() --> a reader connection each (WAL: readers and writer never wait)
//! ```
//!
//! One table, `log`: a row for each change. The newest row of a key is its state. Rows that a later
//! one replaced are history, kept for [`Options::history_rows`] revisions and
//! [`Options::history_bytes`]. `sqlite3 state.db` reads it, and `.backup` backs it up while the
//! server runs.

mod checkpoint;
mod log;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{Operation, Page, Query, Record, Revision, Sink, Store, StoreError};

/// Commits that may wait for the writer; further callers wait in [`Store::commit`].
const QUEUE: usize = 4096;
/// Connections kept open for reads.
const READERS: usize = 4;

/// How much history is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Revisions back from the newest.
    pub history_rows: u64,
    /// Bytes of replaced values.
    pub history_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_rows: 10_000, history_bytes: 32 << 20 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
    #[error("{} is in use by another server; stop that one first", path.display())]
    InUse { path: PathBuf },
    #[error("cannot open the database {}; if it is damaged, restore a backup", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
}

/// A store in a file. Dropping it waits for the writer to finish what was queued.
pub struct Sqlite {
    path: PathBuf,
    commands: Option<mpsc::Sender<writer::Command>>,
    readers: Mutex<Vec<Connection>>,
    marks: Arc<Marks>,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
}

/// What the writer has reached; written by it alone.
#[derive(Debug, Default)]
struct Marks {
    revision: AtomicU64,
    compacted: AtomicU64,
}

/// Opens, or creates, the database at `path`. The folder must exist.
pub fn open(path: &Path, options: Options) -> Result<Sqlite, OpenError> {
    let lock = lock(path)?;
    let failed = |source| OpenError::Open { path: path.to_owned(), source };
    let connection = log::connect(path).map_err(failed)?;
    log::create(&connection).map_err(failed)?;
    let marks = Arc::new(Marks::default());
    let (commands, queue) = mpsc::channel(QUEUE);
    let (wake, woken) = std::sync::mpsc::sync_channel(1);
    let writer = writer::Writer::new(connection, options, Arc::clone(&marks), wake);
    let writer = writer.map_err(failed)?;
    let checkpointer = checkpoint::Checkpointer::new(path).map_err(failed)?;
    let threads = vec![
        std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(queue)),
        std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || checkpointer.run(&woken)),
    ];
    let threads: Result<Vec<_>, _> = threads.into_iter().collect();
    let threads = threads.map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
    Ok(Sqlite {
        path: path.to_owned(),
        commands: Some(commands),
        readers: Mutex::default(),
        marks,
        threads,
        _lock: lock,
    })
}

/// Two servers on one file would give out the same revisions.
fn lock(path: &Path) -> Result<File, OpenError> {
    let path = path.with_extension("lock");
    let create = |source| OpenError::Create { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(create)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path }),
        Err(TryLockError::Error(source)) => Err(OpenError::Create { path: path.clone(), source }),
    }
}

impl Sqlite {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> writer::Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(StoreError::Closed)?;
        commands.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a read on a connection of its own, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let idle = self.readers.lock().pop();
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = match idle {
                Some(connection) => connection,
                None => log::connect(&path).map_err(log::failed)?,
            };
            job(&connection).map(|answer| (answer, connection))
        });
        let (answer, connection) =
            done.await.map_err(|e| StoreError::Failed(format!("a read did not finish: {e}")))??;
        let mut readers = self.readers.lock();
        if readers.len() < READERS {
            readers.push(connection);
        }
        Ok(answer)
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Revision>, StoreError> {
        self.ask(|reply| writer::Command::Commit { operations, reply }).await
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| log::newest(connection, &key).map_err(log::failed)).await
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        self.read(move |connection| log::list(connection, &query)).await
    }

    async fn subscribe(
        &self,
        after: Revision,
        sink: Box<dyn Sink>,
    ) -> Result<Revision, StoreError> {
        self.ask(|reply| writer::Command::Subscribe { after, sink, reply }).await
    }

    fn revision(&self) -> Revision {
        self.marks.revision.load(Ordering::Acquire)
    }

    fn compacted(&self) -> Revision {
        self.marks.compacted.load(Ordering::Acquire)
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.commands = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
    }
}
