//! Plain routing between nodes: a route to every other node's pod ranges through that node, and what
//! the node's own kernel must be told so that it forwards and masquerades.
//!
//! Nodes must share a layer 2 network here. A node that does not is named in the log, and its pods
//! are reached by nobody until the network routes them.

mod forward_chains;
mod forwarding;
mod legacy;
mod netlink;
mod nft;
mod nft_message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::chain::chain;
use ipnetwork::IpNetwork;
use tokio::sync::watch;

use crate::reflector::Node;

pub use forwarding::{ForwardingError, undo as undo_forwarding};
pub use legacy::LegacyError;
pub use netlink::{RouteError, remove_all};
pub(crate) use nft::sync as masquerade;
pub use nft::{NftError, remove_table};

/// Routes are compared with the kernel's at least this often: others may delete them, and a link
/// that goes down takes its routes with it.
const RESYNC: Duration = Duration::from_secs(30);
/// After a failure the next try comes sooner.
const RETRY: Duration = Duration::from_secs(2);

/// The cluster's nodes, as far as routes go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// All nodes have been told at least once: routes to others may be deleted.
    pub complete: bool,
    nodes: BTreeMap<Arc<str>, Peer>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    pub addresses: Vec<IpAddr>,
    pub ranges: Vec<IpNetwork>,
}

impl Peers {
    pub fn set(&mut self, node: &Node) {
        let peer = Peer { addresses: node.internal_ips(), ranges: node.pod_ranges() };
        self.nodes.insert(node.metadata.name.as_str().into(), peer);
    }

    pub fn remove(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    pub fn contains(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// This node's own pod ranges.
    pub fn own_ranges(&self, own: &str) -> Vec<IpNetwork> {
        self.nodes.get(own).map(|peer| peer.ranges.clone()).unwrap_or_default()
    }
}

/// Where packets to a pod range go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// To the node that has the range.
    Node(IpAddr),
    /// Back as unreachable. Each pod of this node has a route of its own; what is for none of them
    /// must not leave by the default route: it would be sent to strangers.
    Nowhere,
}

/// A route to a pod range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub range: IpNetwork,
    pub via: NextHop,
}

/// The routes that node `own` needs: to nowhere for its own ranges, to the others' for theirs. A range without an address of its family on its node, or that
/// a node of a lower name has already, gets none.
fn plan(peers: &Peers, own: &str) -> BTreeSet<Route> {
    let mut taken: BTreeSet<IpNetwork> = peers.own_ranges(own).into_iter().collect();
    let mut routes: BTreeSet<Route> =
        taken.iter().map(|range| Route { range: *range, via: NextHop::Nowhere }).collect();
    for (name, peer) in peers.nodes.iter().filter(|(name, _)| &***name != own) {
        for range in &peer.ranges {
            let same_family = |ip: &&IpAddr| ip.is_ipv4() == range.is_ipv4();
            let Some(gateway) = peer.addresses.iter().find(same_family) else {
                tracing::debug!(node = %name, %range, "the node has no address of this family");
                continue;
            };
            if !taken.insert(*range) {
                tracing::warn!(node = %name, %range, "another node has this pod range too");
                continue;
            }
            routes.insert(Route { range: *range, via: NextHop::Node(*gateway) });
        }
    }
    routes
}

/// What routing needs to know besides the nodes.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: Arc<str>,
    /// All pods' ranges; what leaves them is masqueraded. Empty: the nodes' own ranges.
    pub cluster_cidrs: Vec<IpNetwork>,
}

/// Keeps routes, forwarding and masquerade in step with `peers` until it is dropped. A failure is
/// logged and tried again.
pub async fn run(config: Config, mut peers: watch::Receiver<Peers>) {
    let mut failing = false;
    loop {
        let now = peers.borrow_and_update().clone();
        let outcome = sync(&config, &now).await;
        if outcome.is_ok() && failing {
            tracing::info!("routes and forwarding are in order again");
        }
        failing = outcome.is_err();
        let pause = if failing { RETRY } else { RESYNC };
        tokio::select! {
            changed = peers.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One pass over everything; each part is tried even if another fails.
async fn sync(config: &Config, peers: &Peers) -> Result<(), ()> {
    let own = peers.own_ranges(&config.node);
    let mut result = Ok(());
    if let Err(error) = netlink::sync(&plan(peers, &config.node), peers.complete).await {
        tracing::warn!(error = %chain(&error), "routes to other nodes are not all there");
        result = Err(());
    }
    if own.is_empty() {
        return result;
    }
    if let Err(error) = nft::sync(&own, &cluster(config, peers)) {
        tracing::warn!(error = %chain(&error), "pods can't be masqueraded outside the cluster");
        result = Err(());
    }
    if let Err(error) = forwarding::ensure(&own) {
        tracing::warn!(error = %chain(&error), "this node may not forward its pods' packets");
        result = Err(());
    }
    result
}

fn cluster(config: &Config, peers: &Peers) -> Vec<IpNetwork> {
    if !config.cluster_cidrs.is_empty() {
        return config.cluster_cidrs.clone();
    }
    let mut all: Vec<IpNetwork> = peers.nodes.values().flat_map(|p| p.ranges.clone()).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(nodes: &[(&str, &str, &str)]) -> Peers {
        let mut peers = Peers { complete: true, ..Peers::default() };
        for (name, address, range) in nodes {
            let peer = Peer {
                addresses: vec![address.parse().expect("a literal")],
                ranges: vec![range.parse().expect("a literal")],
            };
            peers.nodes.insert((*name).into(), peer);
        }
        peers
    }

    #[test]
    fn every_other_node_gets_a_route_of_its_family() {
        let peers = peers(&[
            ("a", "192.0.2.1", "10.244.0.0/24"),
            ("b", "192.0.2.2", "10.244.1.0/24"),
            ("c", "192.0.2.3", "fd00::/64"),
        ]);
        let routes: Vec<Route> = plan(&peers, "a").into_iter().collect();
        let route = |range: &str, via| Route { range: range.parse().expect("a literal"), via };
        let other = NextHop::Node("192.0.2.2".parse().expect("a literal"));
        assert_eq!(
            routes,
            [route("10.244.0.0/24", NextHop::Nowhere), route("10.244.1.0/24", other)]
        );
    }

    #[test]
    fn a_range_that_is_ours_or_anothers_is_not_routed_away() {
        let peers = peers(&[
            ("a", "192.0.2.1", "10.244.0.0/24"),
            ("b", "192.0.2.2", "10.244.0.0/24"),
            ("c", "192.0.2.3", "10.244.2.0/24"),
            ("d", "192.0.2.4", "10.244.2.0/24"),
        ]);
        let routes = plan(&peers, "a");
        let others: Vec<NextHop> =
            routes.iter().map(|route| route.via).filter(|via| *via != NextHop::Nowhere).collect();
        assert_eq!(others, [NextHop::Node("192.0.2.3".parse().expect("a literal"))]);
    }
}
