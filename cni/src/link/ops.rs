//! What the plugin asks of the kernel, one method each.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{LinkError, Mac, Netlink};

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: Option<Mac>,
    pub up: bool,
    pub loopback: bool,
    /// Whether packets can be sent: the kernel attaches a queue only some time after a link that is
    /// up has got its carrier, and until then drops everything.
    pub can_send: bool,
}

/// A veth pair: one end in the socket's namespace, the other in that of `peer_netns`.
pub struct VethSpec<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_netns: std::os::fd::RawFd,
    pub mtu: u32,
}

/// A route of the main table through one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteSpec {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    pub link: u32,
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The prefix length of a single host.
fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Netlink {
    /// The link of this name, or `None` if there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.get_link(message, name)
    }

    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message, &format!("number {index}"))
    }

    fn get_link(&mut self, ask: LinkMessage, what: &str) -> Result<Option<Link>, LinkError> {
        match self.get(Message::GetLink(ask)) {
            Ok(Message::NewLink(link)) => Ok(Some(read_link(&link))),
            Ok(_) => Ok(None),
            Err(error) if is_no_device(&error) => Ok(None),
            Err(error) => Err(LinkError::new("look up link", what, error)),
        }
    }

    pub fn links(&mut self) -> Result<Vec<Link>, LinkError> {
        let answers = self
            .dump(Message::GetLink(LinkMessage::default()))
            .map_err(|error| LinkError::new("list", "links", error))?;
        let links = answers.iter().filter_map(|answer| match answer {
            Message::NewLink(link) => Some(read_link(link)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Makes the pair in one request: there is no moment at which one end is in the wrong
    /// namespace, has another name or the kernel's own MAC. Both ends are down.
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), LinkError> {
        let end = |name: &str, mac: Mac| {
            let mut link = LinkMessage::default();
            link.attributes.extend([
                LinkAttribute::IfName(name.into()),
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::Mtu(spec.mtu),
            ]);
            link
        };
        let mut peer = end(spec.peer_name, spec.peer_mac);
        peer.attributes.push(LinkAttribute::NetNsFd(spec.peer_netns));
        let mut host = end(spec.name, spec.mac);
        host.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.change(Message::NewLink(host), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|error| LinkError::new("create the veth pair", spec.name, error))
    }

    /// Deletes a link (of a veth pair, both ends). One that isn't there is no error.
    pub fn delete_link(&mut self, name: &str) -> Result<(), LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.change(Message::DelLink(message), 0) {
            Err(error) if !is_no_device(&error) => Err(LinkError::new("delete link", name, error)),
            _ => Ok(()),
        }
    }

    pub fn set_up(&mut self, index: u32) -> Result<(), LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(Message::SetLink(message), 0)
            .map_err(|error| LinkError::new("set up link number", index, error))
    }

    /// Adds a host address (/32 or /128), usable at once: without duplicate address detection,
    /// which has no one to ask on a link of two.
    pub fn add_address(&mut self, link: u32, address: IpAddr) -> Result<(), LinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = host_prefix(address);
        message.header.index = link;
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .extend([AddressAttribute::Local(address), AddressAttribute::Address(address)]);
        self.change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|error| LinkError::new("add the address", address, error))
    }

    /// The addresses of a link, link-local IPv6 ones included.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<IpAddr>, LinkError> {
        let answers = self
            .dump(Message::GetAddress(AddressMessage::default()))
            .map_err(|error| LinkError::new("list addresses of link number", link, error))?;
        let mut addresses = vec![];
        for answer in answers {
            let Message::NewAddress(message) = answer else { continue };
            if message.header.index == link {
                addresses.extend(message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                }));
            }
        }
        Ok(addresses)
    }

    /// Adds a route; `ErrorKind::AlreadyExists` if the destination has one.
    pub fn add_route(&mut self, route: RouteSpec) -> Result<(), LinkError> {
        let mut message = route_message(route.destination, route.prefix);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope =
            if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.attributes.push(RouteAttribute::Oif(route.link));
        message.attributes.extend(route.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        self.change(Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL).map_err(|error| {
            let subject = format!("{}/{}", route.destination, route.prefix);
            LinkError::new("add the route", subject, error)
        })
    }

    /// Deletes the route to a single host by a link. One that isn't there is no error.
    pub fn delete_route(&mut self, destination: IpAddr, link: u32) -> Result<(), LinkError> {
        let mut message = route_message(destination, host_prefix(destination));
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.scope = RouteScope::NoWhere;
        message.attributes.push(RouteAttribute::Oif(link));
        match self.change(Message::DelRoute(message), 0) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32) => {
                Err(LinkError::new("delete the route to", destination, error))
            }
            _ => Ok(()),
        }
    }

    /// The number of the link by which packets to `destination` leave, if any.
    pub fn egress(&mut self, destination: IpAddr) -> Result<Option<u32>, LinkError> {
        let message = route_message(destination, host_prefix(destination));
        let answer = match self.get(Message::GetRoute(message)) {
            Ok(Message::NewRoute(answer)) => answer,
            Ok(_) => return Ok(None),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(LinkError::new("look up the route to", destination, error)),
        };
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }))
    }

    /// Sets a permanent neighbour: `address` is at `mac`, without ARP or neighbour discovery.
    pub fn set_neighbour(&mut self, link: u32, address: IpAddr, mac: Mac) -> Result<(), LinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.extend([
            NeighbourAttribute::Destination(match address {
                IpAddr::V4(v4) => v4.into(),
                IpAddr::V6(v6) => v6.into(),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ]);
        self.change(Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|error| LinkError::new("set the neighbour", address, error))
    }

    /// The MAC that a permanent neighbour entry gives for `address` on a link.
    pub fn neighbour(&mut self, link: u32, address: IpAddr) -> Result<Option<Mac>, LinkError> {
        let mut ask = NeighbourMessage::default();
        ask.header.family = family(address);
        let answers = self
            .dump(Message::GetNeighbour(ask))
            .map_err(|error| LinkError::new("list neighbours for", address, error))?;
        let wanted = match address {
            IpAddr::V4(v4) => NeighbourAttribute::Destination(v4.into()),
            IpAddr::V6(v6) => NeighbourAttribute::Destination(v6.into()),
        };
        Ok(answers.iter().find_map(|answer| match answer {
            Message::NewNeighbour(entry)
                if entry.header.ifindex == link
                    && entry.header.state == NeighbourState::Permanent
                    && entry.attributes.contains(&wanted) =>
            {
                entry.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        bytes.as_slice().try_into().ok().map(Mac)
                    }
                    _ => None,
                })
            }
            _ => None,
        }))
    }
}

fn route_message(destination: IpAddr, prefix: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = prefix;
    let unspecified = match destination {
        IpAddr::V4(v4) => v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6 == Ipv6Addr::UNSPECIFIED,
    };
    if prefix > 0 || !unspecified {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
    }
    message
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        can_send: true,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Qdisc(name) => link.can_send = name != "noop",
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    link
}

fn is_no_device(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}
