//! Links, addresses and routes (rtnetlink(7)) in the namespace in which the [`Links`] was opened.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, CREATE, EXCLUSIVE, Message, Socket, u32_at};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_GATEWAY: u16 = 5;

const UP: u32 = 1;
const INET: u8 = 2;
const TABLE_MAIN: u8 = 254;
const PROTO_BOOT: u8 = 3;
const SCOPE_UNIVERSE: u8 = 0;
const UNICAST: u8 = 1;

/// The far end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a str,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) mac: [u8; 6],
}

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Links(Socket);

impl Links {
    /// In the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Socket::open(SockProtocol::NetlinkRoute).map(Self)
    }

    /// Whether a link of that name exists, and its index.
    pub(crate) fn index(&mut self, name: &str) -> io::Result<Option<u32>> {
        let ask = Message::new(GET_LINK, ACK, &interface(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.0.query(ask) {
            Ok(bodies) => Ok(bodies.first().and_then(|body| u32_at(body, 4))),
            Err(error) if is(&error, Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let bridge = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &interface(0, UP, UP))
            .text(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
        unless_there(self.0.act(bridge))
    }

    /// A veth pair: `name` here, up and part of the bridge `master` if one is given; the peer in
    /// its own namespace, down.
    pub(crate) fn add_veth(
        &mut self,
        name: &str,
        master: Option<u32>,
        peer: Peer<'_>,
    ) -> io::Result<()> {
        let netns = peer.netns.as_raw_fd().cast_unsigned();
        let mut veth = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &interface(0, UP, UP))
            .text(IFLA_IFNAME, name);
        if let Some(master) = master {
            veth = veth.number(IFLA_MASTER, master);
        }
        let veth = veth.nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |far| {
                    far.raw(&interface(0, 0, 0))
                        .text(IFLA_IFNAME, peer.name)
                        .attribute(IFLA_ADDRESS, &peer.mac)
                        .number(IFLA_NET_NS_FD, netns)
                })
            })
        });
        self.0.act(veth)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.0.act(Message::new(NEW_LINK, ACK, &interface(index, UP, UP)))
    }

    /// Also takes a veth's peer away. Nothing to do when there is no such link.
    pub(crate) fn delete(&mut self, name: &str) -> io::Result<()> {
        let delete = Message::new(DEL_LINK, ACK, &interface(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.0.act(delete) {
            Err(error) if is(&error, Errno::ENODEV) => Ok(()),
            result => result,
        }
    }

    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> io::Result<()> {
        let mut fixed = [INET, prefix, 0, SCOPE_UNIVERSE, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let add = Message::new(NEW_ADDRESS, ACK | CREATE | EXCLUSIVE, &fixed)
            .attribute(IFA_LOCAL, &address.octets())
            .attribute(IFA_ADDRESS, &address.octets());
        unless_there(self.0.act(add))
    }

    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let (no_prefix, no_tos) = (0, 0);
        let fixed = [
            INET,
            no_prefix,
            no_prefix,
            no_tos,
            TABLE_MAIN,
            PROTO_BOOT,
            SCOPE_UNIVERSE,
            UNICAST,
            0,
            0,
            0,
            0,
        ];
        let add = Message::new(NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &fixed)
            .attribute(RTA_GATEWAY, &gateway.octets());
        unless_there(self.0.act(add))
    }
}

/// The same address always has the same MAC, so that neighbours need not learn a node anew when it
/// comes back from a crash. `02` marks it as locally administered.
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xb0, a, b, c, d]
}

/// `ifinfomsg`.
fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn unless_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is(&error, Errno::EEXIST) => Ok(()),
        result => result,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
