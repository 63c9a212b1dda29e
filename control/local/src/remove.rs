//! Takes a cluster off the machine, whatever is left of it.
//!
//! What to remove is known three times over: from the record, from the names (all of ours start
//! with `bowline-NAME`), and from the kernel, which ends everything in a node with its PID 1.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cgroup::{CgroupError, Layout};
use crate::net::lan::{self, LanError};
use crate::plan;
use crate::process::in_parallel;
use crate::progress::Progress;
use crate::record::{self, Phase, Record};
use crate::{machine, mountinfo};

/// Folders above a state folder that we made for the default place; left alone unless empty.
const OWN_PARENTS: [&str; 2] = ["/var/lib/bowline/local", "/var/lib/bowline"];

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A node's processes or cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// A setting of the machine.
    #[error("put the machine's settings back (ip_forward, cgroup controllers)")]
    Machine(#[source] io::Error),
    /// A mount below the state folder.
    #[error("unmount {0}")]
    Unmount(PathBuf, #[source] io::Error),
    /// The state folder.
    #[error("remove the folder {0}")]
    Folder(PathBuf, #[source] io::Error),
}

/// Removes processes first, then what they used, the record last.
pub(crate) fn everything(
    name: &str,
    state_dir: &Path,
    progress: &dyn Progress,
) -> Result<(), RemoveError> {
    let record = Record::read(state_dir).unwrap_or_else(|error| {
        progress.note(&format!("the cluster's record is not readable ({error}): going by names"));
        None
    });
    if let Some(record) = &record {
        let removing = Record { phase: Phase::Removing, ..record.clone() };
        removing.write().map_err(|error| RemoveError::Folder(state_dir.to_owned(), error))?;
    }
    let layout = Layout::read()?;
    let groups: Vec<_> = node_groups(name, record.as_ref(), &layout).into_iter().collect();
    progress.step("nodes");
    in_parallel(&groups, |group| layout.destroy(group))?;
    progress.step("network");
    lan::remove(name)?;
    machine::restore(&layout).map_err(RemoveError::Machine)?;
    progress.step("files");
    remove_state(name, state_dir, record.as_ref())
}

fn node_groups(name: &str, record: Option<&Record>, layout: &Layout) -> BTreeSet<String> {
    let prefix = format!("{}{name}-n", plan::PREFIX);
    let is_node = |group: &String| {
        let number = &group[prefix.len()..];
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut groups = layout.named(&prefix);
    groups.retain(is_node);
    let recorded = record.into_iter().flat_map(|record| &record.plan.nodes);
    groups.extend(recorded.map(|node| node.cgroup.clone()));
    groups
}

/// Only a folder that is ours: one with a record of this cluster, or the default place.
fn remove_state(name: &str, folder: &Path, record: Option<&Record>) -> Result<(), RemoveError> {
    let ours = record.is_some_and(|record| record.plan.name == name)
        || record::path(folder).exists()
        || folder == plan::default_state_dir(name);
    if ours {
        unmount_below(folder)?;
        remove_all(folder).map_err(|error| RemoveError::Folder(folder.to_owned(), error))?;
    } else {
        // An `up` that was killed before its record was whole: removed unless somebody else's.
        let _ = fs::remove_file(record::path(folder).with_extension("new"));
        let _ = fs::remove_dir(folder);
    }
    for parent in OWN_PARENTS {
        if folder.starts_with(parent) {
            // Refused unless empty.
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// The record goes last: as long as anything is there, the next `down` or `up` knows whose it is.
fn remove_all(folder: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            gone(fs::remove_dir_all(entry.path()))?;
        }
    }
    gone(fs::remove_dir_all(folder))
}

fn unmount_below(folder: &Path) -> Result<(), RemoveError> {
    let mounts = mountinfo::read().map_err(|e| RemoveError::Unmount(folder.to_owned(), e))?;
    for point in mountinfo::below(&mounts, folder) {
        match umount2(&point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(RemoveError::Unmount(point, error.into())),
        }
    }
    Ok(())
}

/// Puts a file system in memory on `folder`, unless one is there.
pub(crate) fn mount_memory(folder: &Path) -> io::Result<()> {
    if mountinfo::read()?.iter().any(|mount| mount.point == folder) {
        return Ok(());
    }
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    Ok(())
}
