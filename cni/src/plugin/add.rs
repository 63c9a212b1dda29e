//! ADD: addresses, a veth pair, routes and neighbours at both ends, and the attachment's file.

use std::{
    io::ErrorKind,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::{del, describe, exhausted, gateway_for, node};
use crate::{
    config::Config,
    error::{Code, Failure},
    link::{Link, Mac, Netlink, Netns, RouteSpec, VethSpec, sysctl},
    request::{AttachmentId, PodRef},
    result::AddResult,
    state::{Attachment, StateDir},
    undo::Undo,
};

/// How long to wait for the pod's end to be ready to send, and how often to look.
const CARRIER_MAX: Duration = Duration::from_secs(1);
const CARRIER_POLL: Duration = Duration::from_micros(200);

/// Attaches the pod, and returns the result for stdout.
pub(super) fn add(
    config: &Config,
    state: &StateDir,
    id: &AttachmentId,
    netns_path: &Path,
    pod: &PodRef,
    notice: &dyn Fn(&str),
) -> Result<String, Failure> {
    let netns = Netns::open(netns_path)
        .map_err(|error| Failure { code: Code::UnknownContainer, ..Failure::from(error) })?;
    let mut inside = netns.enter(Netlink::open)??;
    let mut outside = Netlink::open()?;
    clear_the_way(state, &mut inside, &mut outside, id, notice)?;

    let host_ifname = id.host_ifname();
    let mut undo = Undo::default();
    undo.push(|| {
        if let Err(failure) = state
            .lock()
            .map_err(Failure::from)
            .and_then(|locked| locked.release(id).map_err(Failure::from))
        {
            notice(&format!("giving back the addresses after a failure: {failure}"));
        }
    });
    let mut unlink = |id: &AttachmentId| super::unlink(&mut outside, id, notice);
    let reserved = state.lock()?.reserve(&config.ranges, id, netns_path, &mut unlink)?;
    let addresses = reserved.ok_or_else(|| exhausted(config))?;

    node::enable_forwarding(config, notice)?;
    let spec = VethSpec {
        name: &host_ifname,
        mac: Mac::random()?,
        peer_name: &id.ifname,
        peer_mac: Mac::random()?,
        peer_netns: netns.fd(),
        mtu: node::pod_mtu(config, &mut outside)?,
    };
    outside.create_veth(&spec)?;
    undo.push(|| {
        if let Err(error) = Netlink::open().and_then(|mut node| node.delete_link(&host_ifname)) {
            notice(&format!("taking back after a failure: {error}"));
        }
    });
    prepare_pod(&netns, &mut inside, &spec, &addresses)?;
    let host = prepare_node(&mut outside, &spec, &addresses, notice)?;
    await_carrier(&mut inside, &id.ifname)?;

    let attachment = attachment(state, id, netns_path, pod, &spec, &host, &addresses);
    state.lock()?.publish(id, &attachment)?;
    undo.commit();
    let result = AddResult {
        host_ifname: &host_ifname,
        host_mac: spec.mac.to_string(),
        ifname: &id.ifname,
        mac: spec.peer_mac.to_string(),
        mtu: spec.mtu,
        netns: netns_path,
        addresses: addresses.iter().map(|address| (*address, gateway_for(*address))).collect(),
    };
    Ok(result.to_json(config.version).to_string())
}

fn attachment(
    state: &StateDir,
    id: &AttachmentId,
    netns: &Path,
    pod: &PodRef,
    spec: &VethSpec<'_>,
    host: &Link,
    addresses: &[IpAddr],
) -> Attachment {
    Attachment {
        container_id: id.container_id.clone(),
        ifname: id.ifname.clone(),
        netns: netns.to_owned(),
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        addresses: addresses.to_vec(),
        host_ifname: spec.name.to_owned(),
        host_ifindex: host.index,
        mac: spec.peer_mac.to_string(),
        boot_id: state.boot_id().to_owned(),
    }
}

/// Fails if the interface exists. What an ADD of this very attachment left that was killed before
/// it was finished is cleared away instead: no runtime ever saw its result.
fn clear_the_way(
    state: &StateDir,
    inside: &mut Netlink,
    outside: &mut Netlink,
    id: &AttachmentId,
    notice: &dyn Fn(&str),
) -> Result<(), Failure> {
    let exists = || {
        Failure::new(Code::InvalidEnvironment, format!("{} exists already", describe(id)))
            .details("the runtime must DEL it before another ADD")
    };
    let in_pod = inside.link(&id.ifname)?.is_some();
    let on_node = outside.link(&id.host_ifname())?.is_some();
    if !in_pod && !on_node {
        return Ok(());
    }
    if state.attachment(id).is_some() || !on_node {
        return Err(exists());
    }
    notice(&format!("clearing away an unfinished ADD of {}", describe(id)));
    del::remove(state, outside, id)?;
    if inside.link(&id.ifname)?.is_some() { Err(exists()) } else { Ok(()) }
}

fn prepare_pod(
    netns: &Netns,
    inside: &mut Netlink,
    spec: &VethSpec<'_>,
    addresses: &[IpAddr],
) -> Result<(), Failure> {
    if addresses.iter().any(IpAddr::is_ipv6) {
        let conf = format!("net/ipv6/conf/{}", spec.peer_name);
        netns.enter(|| {
            sysctl::ensure(&format!("{conf}/disable_ipv6"), 0)?;
            // No duplicates are possible on a link of two, so don't wait a second for one.
            sysctl::ensure(&format!("{conf}/accept_dad"), 0)
        })??;
    }
    let missing = || Failure::new(Code::LinkFailure, format!("{} vanished", spec.peer_name));
    let link = inside.link(spec.peer_name)?.ok_or_else(missing)?.index;
    if let Some(loopback) = inside.link("lo")?.filter(|loopback| !loopback.up) {
        inside.set_up(loopback.index)?;
    }
    inside.set_up(link)?;
    for &address in addresses {
        let gateway = gateway_for(address);
        inside.add_address(link, address)?;
        inside.set_neighbour(link, gateway, spec.mac)?;
        if gateway.is_ipv4() {
            inside.add_route(RouteSpec {
                destination: gateway,
                prefix: 32,
                gateway: None,
                link,
            })?;
        }
        let destination = unspecified(address);
        inside.add_route(RouteSpec { destination, prefix: 0, gateway: Some(gateway), link })?;
    }
    Ok(())
}

/// The node's end. No preferred source is set on the route: the kernel drops routes whose source
/// goes away, and a renewed DHCP lease would cut the pods off; any address of the node will do.
fn prepare_node(
    outside: &mut Netlink,
    spec: &VethSpec<'_>,
    addresses: &[IpAddr],
    notice: &dyn Fn(&str),
) -> Result<Link, Failure> {
    let missing = || Failure::new(Code::LinkFailure, format!("{} vanished", spec.name));
    let host = outside.link(spec.name)?.ok_or_else(missing)?;
    node::prepare_host_link(spec.name, notice)?;
    outside.set_up(host.index)?;
    if addresses.iter().any(IpAddr::is_ipv6) {
        outside.add_address(host.index, super::GATEWAY_V6.into())?;
    }
    for &address in addresses {
        outside.set_neighbour(host.index, address, spec.peer_mac)?;
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let route = RouteSpec { destination: address, prefix, gateway: None, link: host.index };
        outside.add_route(route).map_err(|error| match error.kind() {
            // The table is a second witness of who has which address, should the state be lost.
            ErrorKind::AlreadyExists => {
                Failure::new(Code::TryAgainLater, format!("{address} has a route already"))
                    .details("another pod seems to use it; the next try takes another address")
            }
            _ => error.into(),
        })?;
    }
    Ok(host)
}

/// The pod's end came up before it had a carrier, so the kernel readies it in the background. A pod
/// that sends at once would lose its first packets, and wait a second to send them again.
fn await_carrier(inside: &mut Netlink, ifname: &str) -> Result<(), Failure> {
    let until = Instant::now() + CARRIER_MAX;
    // Since 6.7 (and in stable 6.1, 6.6), the kernel does it right away when it is asked.
    while inside.link(ifname)?.is_some_and(|link| !link.can_send) && Instant::now() < until {
        std::thread::sleep(CARRIER_POLL);
    }
    Ok(())
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
