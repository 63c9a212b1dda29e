//! What is kept about a cluster on disk, and the lock that keeps two commands from one cluster.
//!
//! The record is written before the first thing is made, so that `down` knows everything that may
//! exist. The lock is a file in `/run` named after the cluster alone, as are its links and cgroups,
//! whatever the state folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::plan::Plan;

/// Holds what concerns this boot of the machine only.
const RUN: &str = "/run/bowline-local";

/// How long one command waits for another on the same cluster.
const LOCK_WAIT: Duration = Duration::from_secs(60);

const LOCK_POLL: Duration = Duration::from_millis(20);

/// How far `up` or `down` came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    /// Something may be missing.
    Making,
    /// Everything was made.
    Up,
    /// `down` has begun: nothing of it is to be used again.
    Removing,
}

/// The content of `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    pub(crate) plan: Plan,
    /// Program and first arguments of a node's init.
    pub(crate) init: Vec<String>,
    /// The nodes' disks are in memory, as overlays can't be stacked on the state folder's own file
    /// system.
    pub(crate) volatile: bool,
}

impl Record {
    pub(crate) fn read(state_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(path(state_dir)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write(&self) -> io::Result<()> {
        write_whole(&path(&self.plan.state_dir), &serde_json::to_vec_pretty(self)?)
    }
}

/// Where the record is.
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster.json")
}

/// Whether a file is what a kill -9 leaves of the very first record.
pub(crate) fn is_unfinished(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "cluster.new")
}

/// Replaces a file: a reader sees the old or the new content, also after a kill -9.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

/// Held while a cluster is changed. A clone of the file given to a child holds it too.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for whoever holds it; [`io::ErrorKind::TimedOut`] when that takes too long.
    pub(crate) fn take(cluster: &str) -> io::Result<Self> {
        let path = Path::new(RUN).join(format!("{cluster}.lock"));
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            fs::create_dir_all(RUN)?;
            let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = match opened {
                // Its folder was removed by a `down` between the two calls.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match file.try_lock() {
                // A `down` that ended meanwhile has removed the file that we hold: not a lock.
                Ok(()) if is_same(&file, &path) => return Ok(Self { file, path }),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// For a child that is to hold the lock as long as it lives.
    pub(crate) fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Removes the lock's file, at the end of `down`.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        // Stays while other clusters have files there.
        let _ = fs::remove_dir(RUN);
        Ok(())
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(present)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (present.dev(), present.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_lock_outlives_its_first_holder() {
        let name = format!("locktest-{}", std::process::id());
        let Ok(lock) = Lock::take(&name) else {
            eprintln!("needs root: /run is not writable");
            return;
        };
        let (child, path) = (lock.share().expect("a clone"), lock.path.clone());
        drop(lock);
        let other = File::open(&path).expect("the lock's file");
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(child);
        assert!(other.try_lock().is_ok());
        drop(other);
        Lock::take(&name).and_then(Lock::remove).expect("removed");
        assert!(!path.exists());
    }
}
