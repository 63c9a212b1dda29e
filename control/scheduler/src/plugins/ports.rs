//! Host ports that another pod of the node has taken.

use super::{Judge, Rejection};
use crate::snapshot::{HostPort, NodeInfo, PodInfo};

pub(crate) struct Ports<'a> {
    pod: &'a PodInfo,
}

impl<'a> Ports<'a> {
    pub(crate) fn new(pod: &'a PodInfo) -> Self {
        Self { pod }
    }
}

impl Judge for Ports<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let taken = node.pods.iter().flat_map(|pod| &pod.ports);
        let clash = taken.flat_map(|taken| self.pod.ports.iter().map(move |own| (taken, own)));
        if clash.into_iter().any(|(taken, own)| conflict(taken, own)) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Err(Rejection::resolvable(vec![reason.to_owned()]));
        }
        Ok(())
    }
}

/// The wildcard address takes the port of every address.
fn conflict(a: &HostPort, b: &HostPort) -> bool {
    let wildcard = |port: &HostPort| matches!(port.address.as_str(), "0.0.0.0" | "::");
    a.port == b.port
        && a.protocol == b.protocol
        && (a.address == b.address || wildcard(a) || wildcard(b))
}
