//! A hash or trie map as typed rows.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bowline_abi::Plain;

use super::{MapError, OpenError};
use crate::loader::layout::{self, Definition};
use crate::loader::sys;

/// A map of K to V.
#[derive(Debug)]
pub(super) struct Rows<K, V> {
    definition: &'static Definition,
    fd: OwnedFd,
    /// A row was deleted since the last grace period: the next insert could take its memory while
    /// a program still reads it as the old row.
    deleted: bool,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain + PartialEq> Rows<K, V> {
    pub(super) fn open(
        directory: &Path,
        definition: &'static Definition,
    ) -> Result<Self, OpenError> {
        let fd = layout::open(directory, definition)?;
        Ok(Self { definition, fd, deleted: false, types: PhantomData })
    }

    /// Inserts a row; an equal one is success.
    pub(super) fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.settle()?;
        let map = self.definition.name;
        match sys::update(self.fd.as_fd(), key, value, sys::NO_EXIST) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => match self.get(key)? {
                Some(old) if old == *value => Ok(()),
                _ => Err(MapError::Exists { map }),
            },
            result => result.map_err(|error| self.failed("insert", error)),
        }
    }

    /// Inserts a row, or changes it: delete, grace, insert would leave a gap, and these rows' values
    /// are one word or are re-checked by who reads them.
    pub(super) fn replace(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.settle()?;
        match self.get(key)? {
            Some(old) if old == *value => return Ok(()),
            // The kernel frees the old row; a new one frees nothing, so the next insert need not wait.
            old => self.deleted |= old.is_some(),
        }
        sys::update(self.fd.as_fd(), key, value, sys::ANY)
            .map_err(|error| self.failed("insert", error))
    }

    pub(super) fn delete(&mut self, key: &K) -> Result<(), MapError> {
        let was_there =
            sys::delete(self.fd.as_fd(), key).map_err(|error| self.failed("delete", error))?;
        self.deleted |= was_there;
        Ok(())
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        sys::lookup(self.fd.as_fd(), key).map_err(|error| self.failed("look up", error))
    }

    pub(super) fn for_each(&self, each: impl FnMut(&K, &V) -> bool) -> Result<(), MapError> {
        sys::for_each(self.fd.as_fd(), each).map_err(|error| self.failed("list", error))
    }

    pub(super) fn all(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut rows = Vec::new();
        self.for_each(|key, value| {
            rows.push((*key, *value));
            true
        })?;
        Ok(rows)
    }

    /// A grace period has passed that began after the last deletion.
    pub(super) fn settled(&mut self) {
        self.deleted = false;
    }

    /// Waits until no program reads a deleted row any more.
    fn settle(&mut self) -> Result<(), MapError> {
        if std::mem::take(&mut self.deleted) {
            sys::membarrier().map_err(|error| self.failed("wait for a grace period", error))?;
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> MapError {
        let (map, capacity) = (self.definition.name, self.definition.max_entries);
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => MapError::Full { map, capacity },
            _ => MapError::Kernel { map, operation, source },
        }
    }
}

impl<K, V> AsFd for Rows<K, V> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
