//! Network namespaces: held open by a file, entered for the length of a closure.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

use super::LinkError;
use crate::state;

/// A network namespace that stays alive while this is held.
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    pub fn open(path: &Path) -> Result<Self, LinkError> {
        let file = File::open(path)
            .map_err(|error| LinkError::new("open the network namespace", path.display(), error))?;
        if !state::is_netns(path) {
            let error = io::Error::new(io::ErrorKind::NotFound, "it is not a network namespace");
            return Err(LinkError::new("open the network namespace", path.display(), error));
        }
        Ok(Netns { file, path: path.to_owned() })
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `inside` with the calling thread in this namespace, and goes back.
    ///
    /// Panics if the way back fails: a thread in the wrong namespace must do nothing more.
    pub fn enter<T>(&self, inside: impl FnOnce() -> T) -> Result<T, LinkError> {
        let failed = |error| LinkError::new("enter", self.path.display(), error);
        let home = Home { file: File::open("/proc/thread-self/ns/net").map_err(failed)? };
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
        let result = inside();
        drop(home);
        Ok(result)
    }
}

/// Brings the thread back when dropped, whatever happened inside.
struct Home {
    file: File,
}

impl Drop for Home {
    fn drop(&mut self) {
        setns(&self.file, CloneFlags::CLONE_NEWNET).expect("a namespace held open can be entered");
    }
}
