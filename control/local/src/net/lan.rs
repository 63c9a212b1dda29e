//! The nodes' network: a bridge in a namespace of its own, and one veth that joins the host to it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use super::link::{Links, Peer, mac_of};
use super::{nat, netns};
use crate::plan::{self, Plan};

/// The bridge's name inside the cluster's network namespace.
pub(crate) const BRIDGE: &str = "br0";

/// The bridge's port to the host.
const HOST_PORT: &str = "host";

/// Why the network can't be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The namespace for the bridge.
    #[error("make the network namespace {0}")]
    Namespace(String, #[source] io::Error),
    /// The bridge itself.
    #[error("make the bridge in the network namespace {0}")]
    Bridge(String, #[source] io::Error),
    /// The host's way into it.
    #[error("join the host to the cluster's network by the link {0}")]
    HostLink(String, #[source] io::Error),
    /// Taking the host's link away.
    #[error("remove the link {0}")]
    RemoveLink(String, #[source] io::Error),
    /// Taking the namespace away.
    #[error("remove the network namespace {0}")]
    RemoveNamespace(String, #[source] io::Error),
    /// Taking the masquerade rule away.
    #[error("remove the nftables table {0}")]
    RemoveTable(String, #[source] io::Error),
}

/// Makes what is missing of the network; its links, so that nodes' ports can be looked for.
pub(crate) fn ensure(plan: &Plan) -> Result<Links, LanError> {
    let name = plan::lan_netns(&plan.name);
    let lan = netns::ensure(&name).map_err(|error| LanError::Namespace(name.clone(), error))?;
    let (mut links, bridge) =
        netns::inside(&lan, bridge).map_err(|error| LanError::Bridge(name, error))?;
    let link = plan.host_link();
    match join_host(plan, &link, &mut links, bridge) {
        Ok(()) => Ok(links),
        Err(error) => Err(LanError::HostLink(link, error)),
    }
}

fn bridge() -> io::Result<(Links, u32)> {
    let mut links = Links::open()?;
    let loopback = links.index("lo")?.ok_or(io::ErrorKind::NotFound)?;
    links.set_up(loopback)?;
    links.add_bridge(BRIDGE)?;
    let bridge = links.index(BRIDGE)?.ok_or(io::ErrorKind::NotFound)?;
    Ok((links, bridge))
}

fn join_host(plan: &Plan, link: &str, lan: &mut Links, bridge: u32) -> io::Result<()> {
    let mut host = Links::open()?;
    let there = host.index(link)?.is_some() && lan.index(HOST_PORT)?.is_some();
    if !there {
        host.delete(link)?;
        let here = File::open("/proc/thread-self/ns/net")?;
        let peer = Peer { name: link, netns: here.as_fd(), mac: mac_of(plan.gateway) };
        lan.add_veth(HOST_PORT, Some(bridge), peer)?;
    }
    let index = host.index(link)?.ok_or(io::ErrorKind::NotFound)?;
    host.add_address(index, plan.gateway, plan.subnet.prefix())?;
    host.set_up(index)?;
    // Loose: replies of nodes may come from addresses that the machine routes elsewhere.
    fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "2")
}

/// Removes the network; nothing to do where there is none.
pub(crate) fn remove(name: &str) -> Result<(), LanError> {
    let link = plan::host_link(name);
    Links::open()
        .and_then(|mut links| links.delete(&link))
        .map_err(|error| LanError::RemoveLink(link, error))?;
    let table = nat::table(name);
    nat::remove(&table).map_err(|error| LanError::RemoveTable(table, error))?;
    let lan = plan::lan_netns(name);
    netns::remove(&lan).map_err(|error| LanError::RemoveNamespace(lan, error))
}
