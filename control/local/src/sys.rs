//! The kernel edge: the few calls that have no safe wrapper. All `unsafe` of this crate is here.
#![expect(unsafe_code, reason = "system calls that nix does not wrap, fork, and pre_exec")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{ForkResult, Pid, fork};
use tokio::io::unix::AsyncFd;

fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn fd_or_errno(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached copy of the mounts at and below `source`, to be put somewhere by [`move_mount`].
/// It stays usable however the mount namespace changes meanwhile.
pub(crate) fn open_tree(source: &Path) -> io::Result<OwnedFd> {
    let source = path(source)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
    // SAFETY: `source` is a NUL-terminated string that outlives the call.
    fd_or_errno(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags)
    })
}

/// Puts a tree of [`open_tree`] at `target`.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = path(target)?;
    // SAFETY: both strings are NUL-terminated and outlive the call; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor for a process that can't come to mean another one; readable when it has died.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the kernel checks the pid.
    fd_or_errno(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A pidfd that the present tokio runtime watches.
pub(crate) fn watch_process(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = pidfd_open(pid)?;
    // SAFETY: an OwnedFd is one open descriptor, the same one until it is dropped.
    unsafe { AsyncFd::register(pidfd) }.map_err(io::Error::from)
}

/// Kills the process behind a pidfd, and never another.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means "as kill(2)"; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forks, in a process that has one thread: after `unshare(CLONE_NEWPID)` only a new process is in
/// the new namespace. `None` in the child.
pub(crate) fn fork_single_threaded() -> io::Result<Option<Pid>> {
    // SAFETY: the caller has one thread (node-init starts none before this), so no lock can be
    // held by a thread that the child lacks.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Makes `command`, once forked, join every cgroup of `cgroups` (open `cgroup.procs` files) and
/// then the given namespaces of the process behind `pidfd`, before it runs.
pub(crate) fn join_before_exec(command: &mut Command, cgroups: Vec<OwnedFd>, pidfd: OwnedFd) {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    let join = move || {
        for procs in &cgroups {
            nix::unistd::write(procs, b"0")?;
        }
        setns(pidfd.as_fd(), namespaces)?;
        nix::unistd::chdir(c"/")?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls on descriptors that were
    // opened before; it neither allocates nor takes locks.
    unsafe { command.pre_exec(join) };
}

/// Deals with every descriptor above standard error, as `flags` of close_range(2) say.
///
/// What runs on after the command that started it must not hold what that command was given: a
/// lock would stay taken, a pipe would never end.
fn above_standard_error(flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: both callers do this where no code owns such a descriptor and goes on to use it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) };
    // Before Linux 5.9 there is no such call, and the descriptors stay.
    match io::Error::last_os_error() {
        error if result < 0 && error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

/// Closes what this process was given beyond its standard streams; before it opens anything.
pub(crate) fn close_inherited() -> io::Result<()> {
    above_standard_error(0)
}

/// Makes `command`, once forked, join the cgroup of an open `cgroup.procs` file and lead a session,
/// with no descriptors but its standard streams, and with huge pages, which the agent itself goes
/// without but a container may want.
pub(crate) fn lead_session_in(command: &mut Command, cgroup: Option<OwnedFd>) {
    let lead = move || {
        above_standard_error(libc::CLOSE_RANGE_CLOEXEC)?;
        nix::sys::prctl::set_thp_disable(false)?;
        if let Some(procs) = &cgroup {
            nix::unistd::write(procs, b"0")?;
        }
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        nix::unistd::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls; it neither allocates nor
    // takes locks.
    unsafe { command.pre_exec(lead) };
}
