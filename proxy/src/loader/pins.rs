//! The directory of pins.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::layout;
use super::{LoadError, pins_below, sys, uplink};
use crate::maps::OpenError;

/// Makes the directories of this layout version, which must be on a bpf file system.
pub(super) fn prepare(directory: &Path) -> Result<(), LoadError> {
    let pins = pins_below(directory);
    for path in [pins.as_path(), &pins.join("links"), &pins.join("programs")] {
        fs::create_dir_all(path).map_err(LoadError::file("make the directory", path))?;
    }
    match nix::sys::statfs::statfs(&pins) {
        Ok(stat) if stat.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC => Ok(()),
        _ => {
            // Nothing of ours may stay on an ordinary file system.
            for path in [&pins.join("links"), &pins.join("programs"), &pins] {
                let _ = fs::remove_dir(path);
            }
            let _ = fs::remove_dir(directory);
            Err(LoadError::NoBpfFs { path: directory.to_path_buf() })
        }
    }
}

/// Compares all maps that are pinned with what this version expects.
pub(super) fn compare(pins: &Path) -> Result<(), LoadError> {
    for definition in layout::ALL {
        match layout::open(pins, definition) {
            Ok(_) => {}
            Err(OpenError::Missing { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes the dataplane away: detaches all programs and removes all pins of every layout version
/// below `directory`. Established connections through the socket hooks go on; what is translated
/// packet by packet stops. Succeeds when there is nothing.
pub fn unload(directory: &Path) -> Result<(), LoadError> {
    let versions = match fs::read_dir(directory) {
        Ok(versions) => versions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(LoadError::File { act: "list", path: directory.to_path_buf(), source });
        }
    };
    for version in versions.flatten() {
        uplink::detach_all(&version.path());
        detach_links(&version.path().join("links"));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::file("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

fn detach_links(links: &Path) {
    for link in fs::read_dir(links).into_iter().flatten().flatten() {
        // A link whose target has gone can't be detached, and need not be.
        if let Ok(fd) = sys::open_pin(&link.path()) {
            let _ = sys::detach_link(fd.as_fd());
        }
    }
}

/// Removes a pin, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
