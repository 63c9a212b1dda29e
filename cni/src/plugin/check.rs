//! CHECK: is everything that ADD made still there?

use std::{net::IpAddr, path::Path};

use super::{describe, gateway_for};
use crate::{
    config::Config,
    error::{Code, Failure},
    link::{Link, Netlink, Netns},
    request::AttachmentId,
    result::promised_addresses,
    state::{Attachment, StateDir},
};

fn damaged(what: impl Into<String>) -> Failure {
    Failure::new(Code::CheckFailed, what).details("the pod has to be made anew")
}

/// Compares the kernel's state with the attachment's file and the previous result.
pub(super) fn check(
    config: &Config,
    state: &StateDir,
    id: &AttachmentId,
    netns_path: &Path,
) -> Result<(), Failure> {
    let attachment = state
        .attachment(id)
        .ok_or_else(|| damaged(format!("{} has no attachment", describe(id))))?;
    let prev_result = config.prev_result.as_ref().unwrap_or(&serde_json::Value::Null);
    let promised = promised_addresses(prev_result, &id.ifname);
    if let Some(lost) = promised.iter().find(|address| !attachment.addresses.contains(address)) {
        return Err(damaged(format!("{} does not hold {lost}", describe(id))));
    }
    let netns = Netns::open(netns_path)
        .map_err(|error| Failure { code: Code::UnknownContainer, ..Failure::from(error) })?;
    let mut inside = netns.enter(Netlink::open)??;
    let mut outside = Netlink::open()?;
    let pod_end = link_up(&mut inside, &id.ifname, "in the pod")?;
    let node_end = link_up(&mut outside, &attachment.host_ifname, "on the node")?;
    check_addresses(&mut inside, &pod_end, &attachment)?;
    for &address in &attachment.addresses {
        check_pod_side(&mut inside, &pod_end, &node_end, address)?;
        check_node_side(&mut outside, &pod_end, &node_end, address)?;
    }
    Ok(())
}

fn link_up(netlink: &mut Netlink, name: &str, place: &str) -> Result<Link, Failure> {
    match netlink.link(name)? {
        None => Err(damaged(format!("link {name} {place} is gone"))),
        Some(link) if !link.up => Err(damaged(format!("link {name} {place} is down"))),
        Some(link) => Ok(link),
    }
}

fn check_addresses(
    inside: &mut Netlink,
    pod_end: &Link,
    attachment: &Attachment,
) -> Result<(), Failure> {
    let present = inside.addresses(pod_end.index)?;
    match attachment.addresses.iter().find(|address| !present.contains(address)) {
        Some(lost) => Err(damaged(format!("{} has lost the address {lost}", pod_end.name))),
        None => Ok(()),
    }
}

fn check_pod_side(
    inside: &mut Netlink,
    pod_end: &Link,
    node_end: &Link,
    address: IpAddr,
) -> Result<(), Failure> {
    let gateway = gateway_for(address);
    // Any address that is not the pod's own is reached by the default route.
    let far: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    if inside.egress(far)? != Some(pod_end.index) {
        return Err(damaged(format!("the pod has no default route by {}", pod_end.name)));
    }
    if inside.neighbour(pod_end.index, gateway)? != node_end.mac {
        return Err(damaged(format!("the pod does not know its gateway {gateway}")));
    }
    Ok(())
}

fn check_node_side(
    outside: &mut Netlink,
    pod_end: &Link,
    node_end: &Link,
    address: IpAddr,
) -> Result<(), Failure> {
    if outside.egress(address)? != Some(node_end.index) {
        return Err(damaged(format!("the node has no route to {address} by {}", node_end.name)));
    }
    if outside.neighbour(node_end.index, address)? != pod_end.mac {
        return Err(damaged(format!("the node does not know the MAC of {address}")));
    }
    Ok(())
}
