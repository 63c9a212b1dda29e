//! What a pod needs of the node beside its own link: forwarding, reverse path filter, the MTU.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::{
    config::Config,
    error::Failure,
    link::{Netlink, sysctl},
    request::HOST_IFNAME_PREFIX,
};

/// The MTU where nothing tells another.
const ETHERNET_MTU: u32 = 1500;

/// Addresses by whose route the uplink is told (TEST-NET-1, RFC 5737; documentation, RFC 3849).
/// Nothing is sent there.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The MTU for a pod's link: the configured one, else the uplink's, else the smallest of the
/// node's links that are up.
pub(super) fn pod_mtu(config: &Config, node: &mut Netlink) -> Result<u32, Failure> {
    if let Some(mtu) = config.mtu {
        return Ok(mtu);
    }
    for address in FAR_AWAY {
        if let Some(index) = node.egress(address)?
            && let Some(uplink) = node.link_by_index(index)?
            && !uplink.loopback
        {
            return Ok(uplink.mtu);
        }
    }
    let links = node.links()?;
    let smallest = links
        .iter()
        .filter(|link| link.up && !link.loopback && !link.name.starts_with(HOST_IFNAME_PREFIX))
        .map(|link| link.mtu)
        .min();
    Ok(smallest.unwrap_or(ETHERNET_MTU))
}

/// Turns forwarding on for the families that pods have. Says so: it is a setting of the whole node.
pub(super) fn enable_forwarding(config: &Config, notice: &dyn Fn(&str)) -> Result<(), Failure> {
    if config.ranges.iter().any(IpNetwork::is_ipv4) && sysctl::ensure("net/ipv4/ip_forward", 1)? {
        notice("net.ipv4.ip_forward was 0: set to 1, pods can't be reached without it");
    }
    if config.ranges.iter().any(IpNetwork::is_ipv6)
        && sysctl::get("net/ipv6/conf/all/forwarding") == Some(0)
    {
        // A forwarding node takes no router advertisements where accept_ra is 1, and would lose
        // its own default route.
        for name in sysctl::ipv6_interfaces() {
            let accept_ra = format!("net/ipv6/conf/{name}/accept_ra");
            if sysctl::get(&accept_ra) == Some(1) {
                sysctl::set(&accept_ra, 2)?;
            }
        }
        sysctl::set("net/ipv6/conf/all/forwarding", 1)?;
        notice("net.ipv6.conf.all.forwarding was 0: set to 1 (and accept_ra 1 to 2)");
    }
    Ok(())
}

/// Makes the node's end of the link, still down, pass what a pod sends and gets.
pub(super) fn prepare_host_link(name: &str, notice: &dyn Fn(&str)) -> Result<(), Failure> {
    // Replies that the service path has already translated come in with a service's address as
    // their source; a strict filter (1) on either level drops them, and loose (2) wins over it.
    let own = format!("net/ipv4/conf/{name}/rp_filter");
    let strict_for_all = sysctl::get("net/ipv4/conf/all/rp_filter") == Some(1);
    if strict_for_all || sysctl::get(&own) == Some(1) {
        sysctl::set(&own, 2)?;
        if strict_for_all {
            notice(&format!(
                "net.ipv4.conf.all.rp_filter is 1 (strict): set to 2 (loose) on {name} only"
            ));
        }
    }
    sysctl::ensure(&format!("net/ipv4/conf/{name}/forwarding"), 1)?;
    // A pod's router advertisements are not for the node, and its link-local address is chosen by
    // us (1: the kernel makes none, which it would have to check for duplicates first).
    sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), 0)?;
    sysctl::ensure(&format!("net/ipv6/conf/{name}/addr_gen_mode"), 1)?;
    Ok(())
}
