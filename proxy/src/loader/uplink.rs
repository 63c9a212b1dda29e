//! The packet programs on the node's uplinks: by TCX where the kernel has it (6.6), else by clsact.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcHandle, qdisc_add_clsact,
};

use super::programs::PACKET_PROGRAMS;
use super::sys::{self, AttachType};
use super::{LoadError, pins};

/// How an uplink's programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkKind {
    /// By links, which are pinned.
    Tcx,
    /// By filters of a clsact qdisc, which stay until they are deleted.
    Clsact,
}

/// The filters' place in the clsact qdisc, the same in every run, so that a run finds them.
const PRIORITY: u16 = 177;
const HANDLE: u32 = 0xb0;

/// ARPHRD_ETHER: the programs expect Ethernet headers.
const ETHERNET: &str = "1";

struct Direction {
    program: &'static str,
    tcx: AttachType,
    clsact: TcAttachType,
    pin: &'static str,
}

const DIRECTIONS: [Direction; 2] = [
    // Egress first: a reply must be translated back as soon as a request can be translated.
    Direction {
        program: PACKET_PROGRAMS[1],
        tcx: AttachType::TcxEgress,
        clsact: TcAttachType::Egress,
        pin: "egress",
    },
    Direction {
        program: PACKET_PROGRAMS[0],
        tcx: AttachType::TcxIngress,
        clsact: TcAttachType::Ingress,
        pin: "ingress",
    },
];

/// The Ethernet interfaces over which this network namespace reaches others: those of its default
/// routes, and where there is none, those of routes to whole networks (a pod's is to one address).
pub fn detect_uplinks() -> Vec<String> {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let mut names: BTreeSet<_> = default_routes(&v4, &v6).collect();
    if names.is_empty() {
        names.extend(network_routes(&v4));
    }
    names.into_iter().filter(|name| is_ethernet(name)).map(str::to_owned).collect()
}

/// The interfaces of default routes in the files of procfs. The kernel keeps an unreachable IPv6
/// one on `lo`.
fn default_routes<'a>(v4: &'a str, v6: &'a str) -> impl Iterator<Item = &'a str> {
    let v4 = v4.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination, mask) = (fields.next()?, fields.next()?, fields.nth(5)?);
        (destination == "00000000" && mask == "00000000").then_some(name)
    });
    let v6 = v6.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (destination, bits, name) = (fields.next()?, fields.next()?, fields.last()?);
        let default = bits == "00" && destination.bytes().all(|byte| byte == b'0');
        (default && name != "lo").then_some(name)
    });
    v4.chain(v6)
}

/// The interfaces of IPv4 routes to more than one address.
fn network_routes(v4: &str) -> impl Iterator<Item = &str> {
    v4.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, mask) = (fields.next()?, fields.nth(6)?);
        (mask != "FFFFFFFF").then_some(name)
    })
}

fn is_ethernet(name: &str) -> bool {
    let kind = fs::read_to_string(format!("/sys/class/net/{name}/type"));
    // /sys may be another network namespace's; then the interface is taken for Ethernet.
    kind.map_or(true, |kind| kind.trim() == ETHERNET)
}

/// Attaches both programs to an interface, or replaces those that are there.
pub(super) fn attach(pins: &Path, interface: &str) -> Result<UplinkKind, LoadError> {
    let index = nix::net::if_::if_nametoindex(interface).map_err(|errno| LoadError::Attach {
        program: PACKET_PROGRAMS[0],
        target: interface.to_owned(),
        source: errno.into(),
    })?;
    let mut kind = UplinkKind::Tcx;
    for direction in &DIRECTIONS {
        kind = attach_direction(pins, interface, index, direction)?;
    }
    Ok(kind)
}

fn attach_direction(
    directory: &Path,
    interface: &str,
    index: u32,
    direction: &Direction,
) -> Result<UplinkKind, LoadError> {
    let failed = |source| LoadError::Attach {
        program: direction.program,
        target: interface.to_owned(),
        source,
    };
    let program_pin = directory.join("programs").join(direction.program);
    let program = sys::open_pin(&program_pin).map_err(LoadError::file("open", &program_pin))?;
    let pin = directory.join("links").join(format!("{}-{index}", direction.pin));
    if replace_tcx(&program, index, &pin).map_err(failed)? {
        return Ok(UplinkKind::Tcx);
    }
    match sys::create_link(program.as_fd(), index, direction.tcx) {
        Ok(link) => {
            pins::remove(&pin)?;
            sys::pin(link.as_fd(), &pin).map_err(LoadError::file("pin", &pin))?;
            Ok(UplinkKind::Tcx)
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            attach_clsact(&program_pin, interface, direction).map_err(failed)?;
            note_clsact(directory, interface)?;
            Ok(UplinkKind::Clsact)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Replaces the program in a pinned link on the same interface; whether there is one.
fn replace_tcx(program: &OwnedFd, index: u32, pin: &Path) -> io::Result<bool> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // An interface that went has left its link empty, and another may have its index now.
    if sys::link_info(link.as_fd())?.ifindex != index {
        return Ok(false);
    }
    sys::update_link(link.as_fd(), program.as_fd()).map(|()| true)
}

fn attach_clsact(program_pin: &Path, interface: &str, direction: &Direction) -> io::Result<()> {
    // It may be there already; if it is not, attaching fails and says so.
    let _ = qdisc_add_clsact(interface);
    let mut program = SchedClassifier::from_pin(program_pin).map_err(io::Error::other)?;
    let handle = TcHandle::from(HANDLE);
    let there = SchedClassifierLink::attached(interface, direction.clsact, PRIORITY, handle, None)?;
    let link = match program.attach_to_link(there) {
        Ok(link) => link,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle, classid: None };
            program
                .attach_with_options(interface, direction.clsact, TcAttachOptions::Netlink(options))
                .map_err(io::Error::other)?
        }
    };
    // Dropping the link would delete the filter, which must outlive this process.
    std::mem::forget(program.take_link(link).map_err(io::Error::other)?);
    Ok(())
}

/// A directory named after the interface's index says that it has filters to be deleted.
fn note_clsact(directory: &Path, interface: &str) -> Result<(), LoadError> {
    let index = nix::net::if_::if_nametoindex(interface).unwrap_or(0);
    let note = clsact_notes(directory).join(index.to_string());
    fs::create_dir_all(&note).map_err(LoadError::file("make the directory", &note))
}

fn clsact_notes(directory: &Path) -> PathBuf {
    directory.join("clsact")
}

/// Deletes the filters of every interface that has been attached by clsact. TCX links are
/// detached with the other links.
pub(super) fn detach_all(directory: &Path) {
    for note in fs::read_dir(clsact_notes(directory)).into_iter().flatten().flatten() {
        let index = note.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let name = index.and_then(|index| nix::net::if_::if_indextoname(index).ok());
        let Some(name) = name.as_deref().and_then(|name| name.to_str().ok()) else { continue };
        for direction in &DIRECTIONS {
            let handle = TcHandle::from(HANDLE);
            let link =
                SchedClassifierLink::attached(name, direction.clsact, PRIORITY, handle, None);
            // Dropping the link deletes the filter.
            drop(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{default_routes, network_routes};

    const V4: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
        eth0\t00000000\t0132A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth1\t0032A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        veth7\t0501F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
    const V6: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
        fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth2\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
        00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";

    #[test]
    fn default_routes_of_both_families_name_the_uplinks() {
        assert_eq!(default_routes(V4, V6).collect::<Vec<_>>(), ["eth0", "eth2"]);
    }

    #[test]
    fn a_pods_route_names_no_uplink() {
        assert_eq!(network_routes(V4).collect::<Vec<_>>(), ["eth0", "eth1"]);
    }
}
