//! Files that are whole or absent: written beside, synced, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Mode of files that hold a key, a token or a credential.
pub const SECRET: u32 = 0o600;
/// Mode of files that anyone on the machine may read.
pub const PUBLIC: u32 = 0o644;

/// Replaces `path` with `bytes` so that a reader, or a crash at any instruction, sees either the
/// old content or the new, and power loss after the return loses nothing.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    fs::create_dir_all(parent)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = parent.join(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(parent)?.sync_all()
}
