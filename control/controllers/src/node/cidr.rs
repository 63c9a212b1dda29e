//! Gives every node its piece of the pod ranges.
//!
//! What is allocated is what the nodes say: there is no other record, so a restart forgets nothing.
//! One key is worked on at a time, and a node's new range is in the cache before the next one's is
//! chosen.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::{Context, Error, Reconciled};
use crate::queue::Queue;

/// Pieces of one range that are looked at before it counts as full: an IPv6 /48 of /64s.
const MOST_PIECES: u128 = 1 << 16;

/// All nodes share one key, so that no two are given the same piece.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.nodes.on_change(move |change| {
        // A node that is gone makes room for one that found none.
        if change.new.as_ref().is_none_or(|node| ranges(node).is_empty()) {
            adds.add(Key::new("", "all nodes"));
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, _all: Key) -> Reconciled {
    if context.config.cluster_cidrs.is_empty() {
        return Ok(None);
    }
    let mut nodes = context.caches.nodes.all();
    nodes.sort_by_key(|node| node.metadata.creation_timestamp.clone());
    for node in nodes.iter().filter(|node| ranges(node).is_empty()) {
        allocate(&context, node).await?;
    }
    Ok(None)
}

fn ranges(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let list = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    if list.is_empty() {
        spec.and_then(|spec| spec.pod_cidr.clone()).into_iter().collect()
    } else {
        list
    }
}

async fn allocate(context: &Context, node: &Node) -> Result<(), Error> {
    let all = context.caches.nodes.all();
    let taken: HashSet<IpNetwork> =
        all.iter().flat_map(|node| ranges(node)).filter_map(|text| text.parse().ok()).collect();
    let mut chosen = Vec::new();
    for range in &context.config.cluster_cidrs {
        let prefix = match range {
            IpNetwork::V4(_) => context.config.node_cidr_mask_v4,
            IpNetwork::V6(_) => context.config.node_cidr_mask_v6,
        };
        let Some(piece) = free_piece(*range, prefix, &taken) else {
            let text = format!("no /{prefix} of the pod range {range} is left");
            let reason = "CIDRNotAvailable";
            context.recorder.event(node, Severity::Warning, reason, text.clone());
            return Err(Error::Other(text));
        };
        chosen.push(piece.to_string());
    }
    let api: Api<Node> = Api::all(context.client.clone());
    // With the version: should someone else have set it meanwhile, theirs stands.
    let patch = json!({
        "metadata": {"resourceVersion": node.resource_version()},
        "spec": {"podCIDR": chosen.first(), "podCIDRs": chosen},
    });
    let written =
        api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    context.caches.nodes.observe(written);
    Ok(())
}

/// The first piece of `range` of the given prefix length that overlaps no taken one.
fn free_piece(range: IpNetwork, prefix: u8, taken: &HashSet<IpNetwork>) -> Option<IpNetwork> {
    let bits: u8 = if range.is_ipv4() { 32 } else { 128 };
    if prefix < range.prefix() || prefix > bits {
        return None;
    }
    let pieces = 1u128.checked_shl(u32::from(prefix - range.prefix())).unwrap_or(u128::MAX);
    let step = 1u128.checked_shl(u32::from(bits - prefix)).unwrap_or(0);
    (0..pieces.min(MOST_PIECES)).find_map(|number| {
        let address = match range.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(number * step).ok()?;
                IpAddr::V4((u32::from(base) + offset).into())
            }
            IpAddr::V6(base) => IpAddr::V6((u128::from(base) + number * step).into()),
        };
        let piece = IpNetwork::new(address, prefix).ok()?;
        let overlaps = |other: &IpNetwork| {
            other.is_ipv4() == piece.is_ipv4()
                && (other.contains(piece.network()) || piece.contains(other.network()))
        };
        (!taken.contains(&piece) && !taken.iter().any(overlaps)).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a valid network")
    }

    #[test]
    fn pieces_are_given_in_order_and_gaps_are_filled() {
        let range = network("10.244.0.0/16");
        let mut taken = HashSet::new();
        assert_eq!(free_piece(range, 24, &taken), Some(network("10.244.0.0/24")));
        taken.insert(network("10.244.0.0/24"));
        taken.insert(network("10.244.2.0/24"));
        assert_eq!(free_piece(range, 24, &taken), Some(network("10.244.1.0/24")));
        taken.insert(network("10.244.0.0/20"));
        assert_eq!(free_piece(range, 24, &taken), Some(network("10.244.16.0/24")));
    }

    #[test]
    fn a_full_range_and_a_wrong_mask_give_nothing() {
        let range = network("10.0.0.0/24");
        let taken = [network("10.0.0.0/25"), network("10.0.0.128/25")].into();
        assert_eq!(free_piece(range, 25, &taken), None);
        assert_eq!(free_piece(range, 16, &HashSet::new()), None);
    }

    #[test]
    fn ipv6_pieces_work_the_same() {
        let taken = [network("fd00:10:244::/64")].into();
        let piece = free_piece(network("fd00:10:244::/56"), 64, &taken);
        assert_eq!(piece, Some(network("fd00:10:244:1::/64")));
    }
}
