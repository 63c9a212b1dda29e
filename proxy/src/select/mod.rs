//! The specification of the choice of a backend: one pure function of the endpoints, the node and
//! the service port's policies. The writer builds the kernel's tables with [`reachable`]; the kernel
//! programs are tested against [`verdict`].
//!
//! Sources: Kubernetes' Service and EndpointSlice API, KEP-1669 (serving, terminating), KEP-2086
//! (internalTrafficPolicy), KEP-3015 (PreferSameNode, PreferSameZone).

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{Condition, NodeView, TrafficPolicy};

/// One endpoint of a service port, all slices merged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub condition: Condition,
    pub node: Option<Arc<str>>,
    pub node_hints: Vec<Arc<str>>,
    pub zone_hints: Vec<Arc<str>>,
}

/// Which endpoints new connections may go to, as indices into the endpoints that were given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reachable {
    /// Under policy Cluster: the ready ones that topology prefers, else those serving and
    /// terminating anywhere.
    pub cluster: Vec<usize>,
    /// Under policy Local: this node's ready ones, else this node's serving and terminating ones.
    pub local: Vec<usize>,
}

/// Sorts endpoints into those that each traffic policy reaches from the node `here`.
///
/// The fallback to terminating endpoints ignores topology: it is a last resort that must not be
/// made smaller.
pub fn reachable(endpoints: &[Endpoint], here: &NodeView) -> Reachable {
    let preference = preference(endpoints, here);
    let is_local = |e: &Endpoint| e.node.as_deref() == Some(&*here.name);
    let with = |keep: &dyn Fn(&Endpoint) -> bool| -> Vec<usize> {
        endpoints.iter().enumerate().filter(|(_, e)| keep(e)).map(|(i, _)| i).collect()
    };
    let ready = |e: &Endpoint| e.condition == Condition::Ready;
    let leaving = |e: &Endpoint| e.condition == Condition::ServingTerminating;

    let mut cluster = with(&|e| ready(e) && preference.admits(e, here));
    if cluster.is_empty() {
        cluster = with(&leaving);
    }
    let mut local = with(&|e| ready(e) && is_local(e));
    if local.is_empty() {
        local = with(&|e| leaving(e) && is_local(e));
    }
    Reachable { cluster, local }
}

/// What the hints on a service port's endpoints ask of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preference {
    None,
    SameNode,
    SameZone,
}

impl Preference {
    fn admits(self, endpoint: &Endpoint, here: &NodeView) -> bool {
        match self {
            Self::None => true,
            Self::SameNode => endpoint.node_hints.contains(&here.name),
            Self::SameZone => {
                here.zone.as_ref().is_some_and(|zone| endpoint.zone_hints.contains(zone))
            }
        }
    }
}

/// A hint counts only if *every* ready endpoint carries one and at least one is for us: half-hinted
/// endpoints are a slice in the middle of an update, and following them would overload the few.
fn preference(endpoints: &[Endpoint], here: &NodeView) -> Preference {
    let ready = || endpoints.iter().filter(|e| e.condition == Condition::Ready);
    let usable = |preference: Preference, hinted: fn(&Endpoint) -> bool| {
        ready().all(hinted) && ready().any(|e| preference.admits(e, here))
    };
    if usable(Preference::SameNode, |e| !e.node_hints.is_empty()) {
        Preference::SameNode
    } else if usable(Preference::SameZone, |e| !e.zone_hints.is_empty()) {
        Preference::SameZone
    } else {
        Preference::None
    }
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    ClusterIp,
    /// A node port, an external IP or a load balancer's IP.
    External,
}

/// Where the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A pod of the cluster, or this node itself.
    Inside,
    Outside,
}

/// What becomes of a new connection or datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// To one of these (never empty).
    Forward(&'a [usize]),
    /// Refused at once: nobody anywhere could answer.
    Refuse,
    /// Dropped: others could answer, but this node must not send it to them.
    Drop,
}

/// The traffic policies of a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policies {
    pub internal: TrafficPolicy,
    pub external: TrafficPolicy,
}

impl Policies {
    /// The policy that this client's traffic to that kind of address is under. Traffic from inside
    /// to an external address is under neither: it behaves as if it had left and come back through
    /// a load balancer that knows all endpoints.
    pub fn applying(self, destination: Destination, client: Client) -> TrafficPolicy {
        match (destination, client) {
            (Destination::ClusterIp, _) => self.internal,
            (Destination::External, Client::Outside) => self.external,
            (Destination::External, Client::Inside) => TrafficPolicy::Cluster,
        }
    }
}

/// What becomes of traffic from `client` to an address of kind `destination`.
pub fn verdict(
    reachable: &Reachable,
    policies: Policies,
    destination: Destination,
    client: Client,
) -> Verdict<'_> {
    let choice = match policies.applying(destination, client) {
        TrafficPolicy::Cluster => &reachable.cluster,
        TrafficPolicy::Local => &reachable.local,
    };
    match choice.as_slice() {
        [] if reachable.cluster.is_empty() => Verdict::Refuse,
        [] => Verdict::Drop,
        some => Verdict::Forward(some),
    }
}

/// A client's earlier choice, if session affinity is on and its time has not run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    pub endpoint: usize,
    pub age_seconds: u32,
}

/// Picks one of a verdict's endpoints: the remembered one while it is still among them and younger
/// than `timeout_seconds`, else by `random`, uniformly.
pub fn pick(
    choice: &[usize],
    remembered: Option<Remembered>,
    timeout_seconds: u32,
    random: u32,
) -> Option<usize> {
    let kept = remembered
        .filter(|r| r.age_seconds < timeout_seconds && choice.contains(&r.endpoint))
        .map(|r| r.endpoint);
    kept.or_else(|| {
        // Multiply and shift maps 32 random bits onto the slots, as the kernel program does.
        let slot = (u64::from(random) * choice.len() as u64) >> 32;
        choice.get(slot as usize).copied()
    })
}
