//! The `bpf(2)` and `membarrier(2)` system calls that aya 0.14 does not make: comparing pins,
//! replacing programs in any link, mapped arrays, batched lookups, a grace period.
//!
//! This is the crate's edge to the kernel: beside it only [`mapping`] is unsafe.

#![expect(unsafe_code, reason = "system calls take raw memory")]

pub mod mapping;

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bowline_abi::Plain;

const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// Insert or replace.
pub const ANY: u64 = 0;
/// Insert only.
pub const NO_EXIST: u64 = 1;

/// Kernel attach types of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getpeername4 = 29,
    Getpeername6 = 30,
    SockRelease = 34,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// What the kernel says about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// `BPF_MAP_TYPE_`.
    pub kind: u32,
    /// Identifies the map while it lives.
    pub id: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// `BPF_F_`.
    pub flags: u32,
}

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The program in it now.
    pub program: u32,
    /// A tcx link's interface; 0 when the interface has gone, or for other links.
    pub ifindex: u32,
    /// A cgroup link's cgroup (inode); 0 when the cgroup has gone, or for other links.
    pub cgroup: u64,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: attr is a live repr(C) value of the given size, laid out as `union bpf_attr` is for
    // this command; the kernel reads it, and writes at most that size back.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_fd(result: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(result as RawFd) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[repr(C)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pin.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(OBJ_GET, &mut ObjAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 }).map(new_fd)
}

/// Pins an object. The path must not exist.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let fd = fd.as_raw_fd() as u32;
    bpf(OBJ_PIN, &mut ObjAttr { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    let mut words = [0_u32; N];
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd() as u32,
        len: (4 * N) as u32,
        info: words.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO, &mut attr)?;
    Ok(words)
}

/// Describes a map.
pub fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let [kind, id, key_size, value_size, max_entries, flags] = info::<6>(fd)?;
    Ok(MapInfo { kind, id, key_size, value_size, max_entries, flags })
}

/// A loaded program's id.
pub fn program_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    info::<2>(fd).map(|[_, id]| id)
}

/// Describes a link.
pub fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    const LINK_TYPE_CGROUP: u32 = 3;
    const LINK_TYPE_TCX: u32 = 11;
    // type, id, prog_id, padding, then: cgroup { u64 cgroup_id, .. } or tcx { u32 ifindex, .. }
    let words = info::<8>(fd)?;
    let tcx = words[0] == LINK_TYPE_TCX;
    let cgroup = words[0] == LINK_TYPE_CGROUP;
    Ok(LinkInfo {
        program: words[2],
        ifindex: if tcx { words[4] } else { 0 },
        cgroup: if cgroup { u64::from(words[4]) | u64::from(words[5]) << 32 } else { 0 },
    })
}

#[repr(C)]
struct ElementAttr {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn new<K: Plain>(fd: BorrowedFd<'_>, key: &K, value: u64, flags: u64) -> Self {
        let key = std::ptr::from_ref(key) as u64;
        Self { fd: fd.as_raw_fd() as u32, pad: 0, key, value, flags }
    }
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes one entry. The caller has checked that K and V have the map's sizes.
pub fn update<K: Plain, V: Plain>(
    fd: BorrowedFd<'_>,
    key: &K,
    value: &V,
    flags: u64,
) -> io::Result<()> {
    let value = std::ptr::from_ref(value) as u64;
    bpf(MAP_UPDATE, &mut ElementAttr::new(fd, key, value, flags)).map(drop)
}

/// Reads one entry. The caller has checked that K and V have the map's sizes.
pub fn lookup<K: Plain, V: Plain>(fd: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let address = value.as_mut_ptr() as u64;
    let found = absent_is_none(bpf(MAP_LOOKUP, &mut ElementAttr::new(fd, key, address, 0)))?;
    // SAFETY: zeroed bytes are a valid Plain, and so is whatever the kernel wrote over them.
    Ok(found.map(|_| unsafe { value.assume_init() }))
}

/// Reads a per-CPU entry: one value per possible CPU. V's size is a multiple of 8.
pub fn lookup_per_cpu<V: Plain>(fd: BorrowedFd<'_>, key: u32, cpus: usize) -> io::Result<Vec<V>> {
    const { assert!(size_of::<V>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") }
    let mut values = Vec::<V>::with_capacity(cpus);
    let address = values.as_mut_ptr() as u64;
    bpf(MAP_LOOKUP, &mut ElementAttr::new(fd, &key, address, 0))?;
    // SAFETY: the kernel has written one value for each of the possible CPUs.
    unsafe { values.set_len(cpus) };
    Ok(values)
}

/// Deletes one entry; whether it was there.
pub fn delete<K: Plain>(fd: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    absent_is_none(bpf(MAP_DELETE, &mut ElementAttr::new(fd, key, 0, 0))).map(|o| o.is_some())
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The entries that one batch takes, at first and at most.
const BATCH: usize = 4096;
const MAX_BATCH: usize = 1 << 20;

/// Calls `each` with every entry: of an array in order, of a hash in none. Entries written during
/// the call may be missed or seen twice. `each` returns whether to go on.
pub fn for_each<K: Plain, V: Plain>(
    fd: BorrowedFd<'_>,
    mut each: impl FnMut(&K, &V) -> bool,
) -> io::Result<()> {
    for_each_bytes(fd, size_of::<K>(), size_of::<V>(), |key, value| {
        // SAFETY: the slices have K's and V's sizes, and any bytes are a valid Plain.
        let (key, value) = unsafe {
            (key.as_ptr().cast::<K>().read_unaligned(), value.as_ptr().cast::<V>().read_unaligned())
        };
        each(&key, &value)
    })
}

/// [`for_each`] with the bytes of the map's own key and value size.
pub fn for_each_bytes(
    fd: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    mut each: impl FnMut(&[u8], &[u8]) -> bool,
) -> io::Result<()> {
    let mut capacity = BATCH;
    // An array's position is an index, a hash's a bucket: both are a word.
    let mut position = None::<u32>;
    loop {
        let mut keys = vec![0_u8; key_size * capacity];
        let mut values = vec![0_u8; value_size * capacity];
        let mut next = 0_u32;
        let mut attr = BatchAttr {
            in_batch: position.as_ref().map_or(0, |position| std::ptr::from_ref(position) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: capacity as u32,
            map_fd: fd.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let end = match bpf(MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && capacity < MAX_BATCH => {
                capacity *= 4; // one hash bucket holds more than the batch
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = attr.count as usize;
        let mut entries = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
        if !entries.by_ref().take(count).all(|(key, value)| each(key, value)) || end {
            return Ok(());
        }
        position = Some(next);
    }
}

#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// Attaches a program to a cgroup (target: its descriptor) or, for tcx, to an interface (target:
/// its index), by a link that lives while it is open or pinned.
pub fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        program: program.as_raw_fd() as u32,
        target,
        attach_type: attach_type as u32,
        flags: 0,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    bpf(LINK_CREATE, &mut attr).map(new_fd)
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces the program in a link, atomically.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    bpf(LINK_UPDATE, &mut LinkUpdateAttr { link, program, flags: 0, old_program: 0 }).map(drop)
}

/// Detaches a link from what it is attached to, whoever else holds it.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut fd = link.as_raw_fd() as u32;
    bpf(LINK_DETACH, &mut fd).map(drop)
}

#[repr(C)]
struct TestRunAttr {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a packet program once on `packet`; its verdict and the packet afterwards. `context` is a
/// `struct __sk_buff` of which only the fields that the kernel allows are set, or empty.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0_u8; packet.len() + 512];
    let mut attr = TestRunAttr {
        program: program.as_raw_fd() as u32,
        retval: 0,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        duration: 0,
        ctx_size_in: context.len() as u32,
        ctx_size_out: 0,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ctx_out: 0,
        flags: 0,
        cpu: 0,
        batch_size: 0,
        pad: 0,
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Returns when every program run that began before the call has ended: an RCU grace period.
pub fn membarrier() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier takes no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Monotonic nanoseconds, the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and written by the call; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
