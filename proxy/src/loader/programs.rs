//! The embedded object: its maps pinned, its socket hooks in their links, its packet programs
//! pinned for whoever attaches an uplink.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::programs::{CgroupSock, CgroupSockAddr, ProgramFd, SchedClassifier};
use aya::{Ebpf, EbpfLoader};

use super::layout;
use super::sys::{self, AttachType};
use super::{LoadError, pins};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bowline-ebpf"));

/// Runs when a socket is closed.
const RELEASE: &str = "release";

/// The socket hooks' programs, and where each is attached.
pub(super) const SOCKET_HOOKS: [(&str, AttachType); 9] = [
    // What shows the service's address again comes first: a socket that is led to a backend
    // between two attachments is never shown the backend.
    ("getpeername4", AttachType::Getpeername4),
    ("getpeername6", AttachType::Getpeername6),
    ("recvmsg4", AttachType::Recvmsg4),
    ("recvmsg6", AttachType::Recvmsg6),
    // And what forgets comes before what remembers.
    (RELEASE, AttachType::SockRelease),
    ("sendmsg4", AttachType::Sendmsg4),
    ("sendmsg6", AttachType::Sendmsg6),
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
];

/// The packet programs.
pub(super) const PACKET_PROGRAMS: [&str; 2] = ["uplink_ingress", "uplink_egress"];

/// All programs, by name.
pub const PROGRAM_NAMES: [&str; 11] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    RELEASE,
    "uplink_ingress",
    "uplink_egress",
];

/// Loads all programs, attaches or replaces the socket hooks, and pins the packet programs.
pub(super) fn load_and_attach(pins: &Path, cgroup_root: &Path) -> Result<(), LoadError> {
    let cgroup =
        File::open(cgroup_root).map_err(LoadError::file("open the cgroup root", cgroup_root))?;
    let mut object = load_object(pins)?;
    for program in PACKET_PROGRAMS {
        pin_packet_program(&mut object, program, pins)?;
    }
    for (program, attach_type) in SOCKET_HOOKS {
        let fd = load_hook(&mut object, program)?.as_fd();
        let target = Cgroup { file: &cgroup, path: cgroup_root };
        attach_hook(fd, program, attach_type, &target, &pins.join("links").join(program))?;
    }
    Ok(())
}

fn load_hook<'a>(object: &'a mut Ebpf, program: &'static str) -> Result<&'a ProgramFd, LoadError> {
    if program == RELEASE {
        let hook: &mut CgroupSock = typed(object, program)?;
        hook.load().map_err(refused(program))?;
        return hook.fd().map_err(refused(program));
    }
    let hook: &mut CgroupSockAddr = typed(object, program)?;
    hook.load().map_err(refused(program))?;
    hook.fd().map_err(refused(program))
}

fn load_object(pins: &Path) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // No relocation needs the kernel's own type information: reading it takes megabytes.
    loader.btf(None);
    for definition in layout::ALL {
        loader.map_pin_path(definition.name, pins.join(definition.name));
    }
    loader.load(OBJECT).map_err(|source| LoadError::Object { source: Box::new(source) })
}

fn typed<'a, P>(object: &'a mut Ebpf, program: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let found = object.program_mut(program).ok_or(LoadError::MissingFeature {
        feature: "program of that name in the embedded object",
        remedy: "build bowline-proxy again",
    })?;
    found.try_into().map_err(refused(program))
}

fn refused(program: &'static str) -> impl FnOnce(aya::programs::ProgramError) -> LoadError {
    move |source| LoadError::Program { program, source: Box::new(source) }
}

fn pin_packet_program(
    object: &mut Ebpf,
    program: &'static str,
    directory: &Path,
) -> Result<(), LoadError> {
    let classifier: &mut SchedClassifier = typed(object, program)?;
    classifier.load().map_err(refused(program))?;
    let fd = classifier.fd().map_err(refused(program))?;
    let path = directory.join("programs").join(program);
    pins::remove(&path)?;
    sys::pin(fd.as_fd(), &path).map_err(LoadError::file("pin", &path))
}

struct Cgroup<'a> {
    file: &'a File,
    path: &'a Path,
}

/// Puts a program into the link pinned at `pin`, or into a new one.
fn attach_hook(
    fd: BorrowedFd<'_>,
    program: &'static str,
    attach_type: AttachType,
    cgroup: &Cgroup<'_>,
    pin: &Path,
) -> Result<(), LoadError> {
    let failed =
        |source| LoadError::Attach { program, target: cgroup.path.display().to_string(), source };
    if replace(fd, cgroup, pin).map_err(failed)? {
        return Ok(());
    }
    let link = sys::create_link(fd, cgroup.file.as_raw_fd() as u32, attach_type).map_err(failed)?;
    pins::remove(pin)?;
    sys::pin(link.as_fd(), pin).map_err(LoadError::file("pin", pin))
}

/// Replaces the program in a pinned link on the same cgroup; whether there is one.
fn replace(fd: BorrowedFd<'_>, cgroup: &Cgroup<'_>, pin: &Path) -> io::Result<bool> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // A cgroup's id is its directory's inode.
    if sys::link_info(link.as_fd())?.cgroup != cgroup.file.metadata()?.ino() {
        return Ok(false);
    }
    sys::update_link(link.as_fd(), fd).map(|()| true)
}
