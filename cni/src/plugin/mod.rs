//! The acts of the protocol. Each gets a checked request and configuration, and either completes
//! or leaves nothing behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::json;

use crate::{
    config::{Config, VERSIONS, version_of},
    error::{Code, Failure},
    link::Netlink,
    request::{AttachmentId, Command, Request},
    state::{Boot, StateDir},
};

mod add;
mod check;
mod del;
mod gc;
mod loopback;
mod node;
mod status;

/// The gateway that every pod has: an address of no one, known by its permanent neighbour entry.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

pub(crate) fn gateway_for(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

/// Carries out one request. `Ok` holds what goes to stdout (nothing for DEL, CHECK, STATUS, GC).
///
/// `notice` is told, in a sentence each, of what was changed beyond the pod itself; the runtime
/// keeps stderr.
pub fn run(
    request: &Request,
    stdin: &[u8],
    notice: &dyn Fn(&str),
) -> Result<Option<String>, Failure> {
    if loopback::is_asked_for(stdin) {
        return loopback::run(request, stdin);
    }
    if request.command == Command::Version {
        return Ok(Some(version(stdin)));
    }
    let config = Config::parse(stdin, request.command)?;
    let state = StateDir::new(&config.state_dir, Boot::current()?);
    match (request.command, &request.attachment, &request.netns) {
        (Command::Add, Some(id), Some(netns)) => {
            add::add(&config, &state, id, netns, &request.pod, notice).map(Some)
        }
        (Command::Check, Some(id), Some(netns)) => {
            check::check(&config, &state, id, netns).map(|()| None)
        }
        (Command::Del, Some(id), _) => {
            del::remove(&state, &mut Netlink::open()?, id).map(|()| None)
        }
        (Command::Gc, ..) => gc::collect(&config, &state, notice).map(|()| None),
        (Command::Status, ..) => status::status(&config, &state, notice).map(|()| None),
        _ => Err(Failure::new(Code::InvalidEnvironment, "the request lacks its attachment")),
    }
}

fn version(stdin: &[u8]) -> String {
    json!({
        "cniVersion": version_of(stdin),
        "supportedVersions": VERSIONS.map(|version| version.to_string()),
    })
    .to_string()
}

/// Removes the link of a pod that vanished; its namespace's end would take it along sooner or later.
fn unlink(node: &mut Netlink, id: &AttachmentId, notice: &dyn Fn(&str)) {
    notice(&format!("{} vanished without DEL: its address is taken back", describe(id)));
    if let Err(error) = node.delete_link(&id.host_ifname()) {
        notice(&format!("{error}"));
    }
}

fn exhausted(config: &Config) -> Failure {
    let ranges: Vec<String> = config.ranges.iter().map(ToString::to_string).collect();
    Failure::new(Code::NotAvailable, format!("no free address is left in {}", ranges.join(", ")))
        .details("delete pods on this node, or give it a larger pod CIDR")
}

fn describe(id: &AttachmentId) -> String {
    format!("interface {} of container {}", id.ifname, id.container_id)
}
