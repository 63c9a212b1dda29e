//! Proof that the socket hooks see sockets of other cgroups: attaching to the wrong root is silent
//! otherwise, and services would work for the agent alone.

#![expect(unsafe_code, reason = "a child between fork and exit may make bare system calls only")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bowline_abi::{Address, VIP_CLUSTER_IP};

use super::LoadError;
use crate::maps::{BpfMaps, Maps};

/// An address for documentation, which nobody uses: a cluster IP without ports for a moment.
const TEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// The child could do its part, and the connect was refused as it must be.
const REFUSED: i32 = 0;
const CONNECTED: i32 = 1;
const NOT_MOVED: i32 = 2;

/// Connects from a new cgroup below `parent`; the hooks, attached to `root`, must refuse it.
pub(super) fn connect_from_another_cgroup(
    maps: &mut BpfMaps,
    root: &Path,
    parent: &Path,
) -> Result<(), LoadError> {
    let failed = |act| move |source| LoadError::SelfTest { act, source };
    let tried = parent.join(format!("bowline-selftest-{}", std::process::id()));
    fs::create_dir(&tried).map_err(failed("make a cgroup"))?;
    let _remove = RemoveCgroup(&tried);
    let address = Address::from(TEST_ADDRESS);
    let other = io::Error::other;
    maps.insert_vip(address, VIP_CLUSTER_IP)
        .map_err(|e| failed("write a service address")(other(e)))?;
    let outcome = in_cgroup(&tried);
    maps.delete_vip(address).map_err(|e| failed("delete a service address")(other(e)))?;
    match outcome.map_err(failed("start a process"))? {
        REFUSED => Ok(()),
        NOT_MOVED => Err(failed("move a process into a new cgroup")(io::Error::other("refused"))),
        _ => Err(LoadError::WrongCgroupRoot { root: root.to_path_buf(), tried: tried.clone() }),
    }
}

struct RemoveCgroup<'a>(&'a PathBuf);

impl Drop for RemoveCgroup<'_> {
    fn drop(&mut self) {
        // It can stay busy for a moment after its last process.
        for _ in 0..50 {
            match fs::remove_dir(self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::yield_now();
                }
                _ => return,
            }
        }
    }
}

/// Runs the child; its exit code.
fn in_cgroup(cgroup: &Path) -> io::Result<i32> {
    let procs = CString::new(cgroup.join("cgroup.procs").as_os_str().as_bytes())?;
    // SAFETY: the child makes only system calls on memory made before the fork, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = move_and_connect(&procs);
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for our own child, into a live integer.
            while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { NOT_MOVED })
        }
    }
}

/// The child's part: no allocation, no locks.
fn move_and_connect(procs: &CString) -> i32 {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 9_u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(TEST_ADDRESS.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: each call is given live memory of the stated size; UDP connect sends nothing.
    unsafe {
        let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
            return NOT_MOVED;
        }
        // A socket belongs to the cgroup in which it is made.
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let result = libc::connect(socket, (&raw const address).cast(), size);
        if result < 0 && *libc::__errno_location() == libc::ECONNREFUSED {
            REFUSED
        } else {
            CONNECTED
        }
    }
}

/// The cookie of this process's network namespace, for `Settings::netns_cookie`.
pub fn netns_cookie() -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into a live integer of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut size,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// asm-generic/socket.h; libc does not name it.
const SO_NETNS_COOKIE: libc::c_int = 71;
