//! Network namespaces kept by a file, as `ip netns` keeps them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};

const FOLDER: &str = "/run/netns";

/// What statfs(2) says of a namespace's file (`NSFS_MAGIC`).
const NSFS: FsType = FsType(0x6e73_6673);

/// More mounts on one file than any accident stacks up.
const MAX_STACKED: usize = 16;

/// Where the namespace of that name is kept.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// All names that start with `prefix`.
pub(crate) fn named(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Opens the namespace, which is made if it does not exist.
pub(crate) fn ensure(name: &str) -> io::Result<File> {
    let path = path(name);
    if let Some(netns) = open(&path)? {
        return Ok(netns);
    }
    fs::create_dir_all(FOLDER)?;
    File::create(&path)?;
    let target = path.clone();
    // A thread of its own: it leaves the caller's namespace for good.
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let source = Path::new("/proc/thread-self/ns/net");
        mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })?;
    open(&path)?.ok_or_else(|| io::Error::other("the new network namespace is not there"))
}

/// `None` when there is no such file, or a plain file that a killed `up` left.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok((fstatfs(&file)?.filesystem_type() == NSFS).then_some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lets go of the namespace: the kernel removes it and its links when nobody uses it any more.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    for _ in 0..MAX_STACKED {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not mounted, or not there.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Ours if we made it; refused while somebody else's namespace or mount is there.
    let _ = fs::remove_dir(FOLDER);
    Ok(())
}

/// Runs `act` inside the namespace, on a thread of its own.
pub(crate) fn inside<T: Send + 'static>(
    netns: &File,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let netns = netns.try_clone()?;
    on_thread(move || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        act()
    })
}

fn on_thread<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(act)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a netns thread panicked")))
}
