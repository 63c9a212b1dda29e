//! Moves the WAL's content into the database file, on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use rusqlite::Connection;

use super::log;

/// A WAL above this is copied back and started anew even if the writer must wait for it: it bounds
/// the WAL's size under a load that never pauses.
const WAL_LIMIT_BYTES: u64 = 16 << 20;

pub(super) struct Checkpointer {
    connection: Connection,
    wal: PathBuf,
}

impl Checkpointer {
    pub(super) fn new(path: &Path) -> rusqlite::Result<Self> {
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        Ok(Self { connection: log::connect(path)?, wal: wal.into() })
    }

    /// Works at each signal until the writer is gone.
    pub(super) fn run(self, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            self.checkpoint();
        }
        // Leaves one self-contained file behind.
        self.pragma("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn checkpoint(&self) {
        self.pragma("PRAGMA wal_checkpoint(PASSIVE)");
        let size = std::fs::metadata(&self.wal).map_or(0, |meta| meta.len());
        if size > WAL_LIMIT_BYTES {
            // What is left to copy is little after the passive pass, so the writer waits shortly.
            self.pragma("PRAGMA wal_checkpoint(TRUNCATE)");
        }
    }

    fn pragma(&self, sql: &str) {
        if let Err(error) = self.connection.query_row(sql, [], |_| Ok(())) {
            tracing::warn!(%error, "a checkpoint of the store failed; it is tried again");
        }
    }
}
