//! Removing what a pod had on the node's disk, mounts first: nothing is deleted through a mount.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::{Error, io_error};

/// Unmounts everything below `dir` and removes it. Done already is done.
pub fn teardown(dir: &Path) -> Result<(), Error> {
    for point in mounts_below(dir).into_iter().rev() {
        let lazy = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        if let Err(error) = umount2(&point, lazy) {
            return Err(io_error("unmount", &point)(io::Error::from(error)));
        }
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", dir)(e)),
        _ => Ok(()),
    }
}

/// Is a file system mounted exactly here?
pub(super) fn is_mount_point(path: &Path) -> bool {
    mounts_below(path).iter().any(|p| p == path)
}

/// Mount points at or below `dir`, in the order in which they were mounted.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.map(PathBuf::from).filter(|p| p.starts_with(dir)).collect()
}

/// The kernel writes blanks and backslashes in paths as octal numbers.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |t, (from, to)| t.replace(from, to))
}
