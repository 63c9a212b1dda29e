//! Finding and awaiting a node's processes from the host.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::{INIT_LEAF, Layout};
use crate::sys;

/// PID 1 of the node that owns the cgroup, as the host numbers it.
///
/// It is told by what it is, not by a pid file that may be stale: a process of the node's init
/// group that its own pid namespace, one below ours, numbers 1. (A container's first process is
/// two below.)
pub(crate) fn find_init(layout: &Layout, cgroup: &str) -> Option<i32> {
    let procs = layout.v2().join(cgroup).join(INIT_LEAF).join("cgroup.procs");
    let procs = fs::read_to_string(procs).ok()?;
    procs.lines().filter_map(|line| line.parse().ok()).find(|&pid| node_pid(pid) == Some(1))
}

/// A descriptor for PID 1 of the node, `None` when the node is down.
pub(crate) fn open_init(layout: &Layout, cgroup: &str) -> Option<OwnedFd> {
    let pid = find_init(layout, cgroup)?;
    let pidfd = sys::pidfd_open(pid).ok()?;
    // Still the same process after it was opened: else the pid was given to another meanwhile.
    (find_init(layout, cgroup) == Some(pid)).then_some(pidfd)
}

/// What a node's pid namespace calls one of its processes; `None` for a process that is in no
/// node or deeper in one.
pub(crate) fn node_pid(pid: i32) -> Option<i32> {
    parse_node_pid(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_node_pid(status: &str) -> Option<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let mut pids = line.split_whitespace().skip(1);
    let pid = pids.next()?.parse().ok()?;
    pids.next().is_none().then_some(pid)
}

/// Resident bytes of a process; 0 when it is gone.
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Waits until the process has died; [`io::ErrorKind::TimedOut`] if it does not.
pub(crate) fn wait_for_death(pidfd: &OwnedFd, limit: Duration) -> io::Result<()> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, limit)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Does one act for each item at the same time (a thread each: items are nodes, so few) and
/// returns the results in the items' order, or the first error once all have ended.
pub(crate) fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    act: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let act = &act;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || act(item))).collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let results: Vec<_> = results.collect();
        results.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_one_namespace_down_has_a_node_pid() {
        assert_eq!(parse_node_pid("Name:\tx\nNSpid:\t4242\t1\n"), Some(1));
        assert_eq!(parse_node_pid("NSpid:\t4242\n"), None, "the host's own process");
        assert_eq!(parse_node_pid("NSpid:\t4242\t17\t1\n"), None, "a container's process");
    }

    #[test]
    fn an_error_of_one_item_waits_for_the_others() {
        let done = std::sync::atomic::AtomicUsize::new(0);
        let result = in_parallel(&[1, 2, 3], |&item| {
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if item == 1 { Err("one failed") } else { Ok(item) }
        });
        assert_eq!(result, Err("one failed"));
        assert_eq!(done.into_inner(), 3);
    }
}
