//! Files that change all at once: configuration in a volume.
//!
//! ```text
//! volume/
//!   key       -> ..data/key              users read this
//!   ..data    -> ..2026_11_20_12_00_00.1 renamed over in one step
//!   ..2026_11_20_12_00_00.1/key          one whole version
//! ```
//!
//! A reader that opens `..data` once sees one version; one that opens files by name sees each file
//! whole. Unchanged payload changes nothing on disk, so watchers of the files are not woken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

/// The link to the current version.
pub(super) const DATA: &str = "..data";
/// Its next value, before it is renamed.
const DATA_NEXT: &str = "..data_tmp";

/// One file: its content, permission bits and owner group (unchanged when absent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
}

/// Files by their relative path.
pub type Payload = BTreeMap<String, File>;

/// Why a payload could not be written; the version before stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path:?} is not a plain relative path")]
    Path { path: String },
    #[error("{act} {}", path.display())]
    Io { act: &'static str, path: PathBuf, source: io::Error },
}

fn io_error(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { act, path, source }
}

/// Makes `dir` show exactly `payload`. Files are given to `group` where one is named. Returns
/// whether anything changed.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<bool, Error> {
    for path in payload.keys() {
        check(path)?;
    }
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)
    {
        link_top(dir, payload)?;
        return Ok(false);
    }
    let version = new_version(dir)?;
    let filled = fill(&version, payload, group).and_then(|()| point(dir, &version));
    if filled.is_err() {
        let _ = fs::remove_dir_all(&version);
    }
    filled?;
    link_top(dir, payload)?;
    unlink_stale(dir, payload)?;
    remove_versions_except(dir, &version);
    Ok(true)
}

fn check(path: &str) -> Result<(), Error> {
    let plain = !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if plain { Ok(()) } else { Err(Error::Path { path: path.to_owned() }) }
}

fn new_version(dir: &Path) -> Result<PathBuf, Error> {
    loop {
        // To the nanosecond: who still reads an old version by its name must not find a new one there.
        let now = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f");
        let version = dir.join(format!("..{now}"));
        match fs::create_dir(&version) {
            Ok(()) => {
                set_mode(&version, 0o755)?;
                return Ok(version);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("create", &version)(e)),
        }
    }
}

fn fill(version: &Path, payload: &Payload, group: Option<u32>) -> Result<(), Error> {
    for (name, file) in payload {
        let path = version.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        fs::write(&path, &file.content).map_err(io_error("write", &path))?;
        // The mode set at creation is cut by the umask.
        set_mode(&path, file.mode)?;
        if group.is_some() {
            std::os::unix::fs::chown(&path, None, group).map_err(io_error("give", &path))?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("chmod", path))
}

/// The moment of change: one rename.
fn point(dir: &Path, version: &Path) -> Result<(), Error> {
    let next = dir.join(DATA_NEXT);
    let _ = fs::remove_file(&next);
    let name = version.file_name().unwrap_or_default();
    symlink(name, &next).map_err(io_error("link", &next))?;
    fs::rename(&next, dir.join(DATA)).map_err(io_error("rename", &next))
}

fn tops(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|p| p.split('/').next()).collect()
}

fn link_top(dir: &Path, payload: &Payload) -> Result<(), Error> {
    for top in tops(payload) {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link).map_err(io_error("link", &link))?;
        }
    }
    Ok(())
}

fn unlink_stale(dir: &Path, payload: &Payload) -> Result<(), Error> {
    let tops = tops(payload);
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(name.as_ref()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Old versions, also those that a crash left half written. What can't be removed is tried again
/// at the next change.
fn remove_versions_except(dir: &Path, current: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let version = entry.file_name().to_string_lossy().starts_with("..");
        if version && path != current && entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn same(version: &Path, payload: &Payload) -> bool {
    let mut found = 0;
    count_files(version, &mut found);
    found == payload.len()
        && payload.iter().all(|(name, file)| {
            let path = version.join(name);
            fs::read(&path).is_ok_and(|c| c == file.content)
                && fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o7777 == file.mode)
        })
}

fn count_files(dir: &Path, found: &mut usize) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(t) if t.is_dir() => count_files(&entry.path(), found),
            _ => *found += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |c: &str| File { content: c.as_bytes().to_vec(), mode: 0o640 };
        files.iter().map(|(name, c)| ((*name).to_owned(), file(c))).collect()
    }

    fn read(dir: &Path, name: &str) -> Option<String> {
        fs::read_to_string(dir.join(name)).ok()
    }

    #[test]
    fn a_change_replaces_all_files_and_removes_those_that_are_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        assert!(write(dir, &payload(&[("a", "1"), ("d/b", "2")]), None).expect("written"));
        assert_eq!(read(dir, "a").as_deref(), Some("1"));
        assert_eq!(read(dir, "d/b").as_deref(), Some("2"));
        assert!(write(dir, &payload(&[("a", "3"), ("c", "4")]), None).expect("written"));
        assert_eq!(read(dir, "a").as_deref(), Some("3"));
        assert_eq!(read(dir, "c").as_deref(), Some("4"));
        assert!(fs::symlink_metadata(dir.join("d")).is_err(), "d is gone");
        let versions = fs::read_dir(dir)
            .expect("listed")
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        assert_eq!(versions.count(), 1, "only the current version is left");
    }

    #[test]
    fn the_same_payload_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = payload(&[("a", "1")]);
        assert!(write(dir.path(), &files, None).expect("written"));
        let before = fs::read_link(dir.path().join(DATA)).expect("a version");
        assert!(!write(dir.path(), &files, None).expect("compared"));
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a version"), before);
        let mode = fs::metadata(dir.path().join("a")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_reader_never_sees_half_a_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let versions = [payload(&[("a", "1"), ("b", "1")]), payload(&[("a", "2"), ("b", "2")])];
        write(dir.path(), &versions[0], None).expect("written");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (done, dir) = (&done, dir.path());
            let reader = scope.spawn(move || {
                let mut reads = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(version) = fs::read_link(dir.join(DATA)) else {
                        panic!("..data is gone")
                    };
                    let (a, b) = (read(&dir.join(&version), "a"), read(&dir.join(&version), "b"));
                    if let (Some(a), Some(b)) = (a, b) {
                        assert_eq!(a, b, "one version is of one time");
                        reads += 1;
                    }
                }
                reads
            });
            for n in 0..300 {
                write(dir, &versions[n % 2], None).expect("written");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().expect("no half change was seen") > 0, "something was read");
        });
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for bad in ["../a", "/a", "a/../../b", "..data", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "x")]), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let left = dir.path().join("..2020_01_01_00_00_00.0");
        fs::create_dir(&left).expect("made");
        symlink("nowhere", dir.path().join(DATA_NEXT)).expect("linked");
        write(dir.path(), &payload(&[("a", "1")]), None).expect("written");
        assert!(!left.exists());
        assert_eq!(read(dir.path(), "a").as_deref(), Some("1"));
    }
}
