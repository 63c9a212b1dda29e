//! From the slices that are there to those that should be, with few writes. Pure.
//!
//! Endpoints stay in their slice; new ones fill slices that are written anyway, then slices with
//! room, then new slices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::desired::{Group, Port};

/// Endpoints in one slice, at most: as other clusters do it.
pub(crate) const MOST: usize = 100;

/// What to write. Metadata is the caller's business.
#[derive(Debug, Default)]
pub(crate) struct Diff {
    pub(crate) create: Vec<(Group, Vec<Endpoint>)>,
    pub(crate) update: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
    pub(crate) keep: Vec<Arc<EndpointSlice>>,
}

pub(crate) fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(Port::of).collect();
    ports.sort();
    Group { address_type: slice.address_type.clone(), ports }
}

/// An endpoint's identity: a pod's address.
fn identity(endpoint: &Endpoint) -> (String, String) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (uid.unwrap_or_default(), endpoint.addresses.first().cloned().unwrap_or_default())
}

/// Plans the writes; `families` get an empty slice each when they have no endpoint at all, so that
/// readers see that the service was looked at.
pub(crate) fn plan(
    desired: BTreeMap<Group, Vec<Endpoint>>,
    existing: Vec<Arc<EndpointSlice>>,
    families: &[String],
) -> Diff {
    let mut diff = Diff::default();
    let mut by_group: BTreeMap<Group, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_group.entry(group_of(&slice)).or_default().push(slice);
    }
    let mut empty = Vec::new();
    let served: Vec<String> = desired.keys().map(|group| group.address_type.clone()).collect();
    for (group, endpoints) in desired {
        let slices = by_group.remove(&group).unwrap_or_default();
        empty.extend(plan_group(&group, endpoints, slices, &mut diff));
    }
    empty.extend(by_group.into_values().flatten());
    for family in families.iter().filter(|family| !served.contains(family)) {
        // An empty slice says nothing of ports.
        match empty.iter().position(|slice| slice.address_type == **family) {
            Some(place) => {
                let slice = empty.swap_remove(place);
                if slice.endpoints.is_empty() {
                    diff.keep.push(slice);
                } else {
                    diff.update.push((slice, Vec::new()));
                }
            }
            None => {
                let group = Group { address_type: family.clone(), ports: Vec::new() };
                diff.create.push((group, Vec::new()));
            }
        }
    }
    diff.delete = empty;
    diff
}

/// Returns the slices that nothing is left for.
fn plan_group(
    group: &Group,
    endpoints: Vec<Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    diff: &mut Diff,
) -> Vec<Arc<EndpointSlice>> {
    let mut order = Vec::new();
    let mut pool: HashMap<_, Endpoint> = HashMap::new();
    for endpoint in endpoints {
        order.push(identity(&endpoint));
        pool.insert(identity(&endpoint), endpoint);
    }
    // What stays in place.
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let here = slice.endpoints.iter().filter_map(|old| pool.remove(&identity(old))).collect();
        kept.push((slice, here));
    }
    let mut new: Vec<Endpoint> = order.iter().filter_map(|one| pool.remove(one)).collect();
    // Slices that are written anyway first, fuller ones before emptier ones.
    kept.sort_by_key(|(slice, here)| (slice.endpoints == *here, std::cmp::Reverse(here.len())));
    for (slice, here) in &mut kept {
        let unchanged = slice.endpoints == *here;
        // An unchanged slice is worth a write only if it takes all that is left.
        let room = MOST.saturating_sub(here.len());
        if !new.is_empty() && (!unchanged || new.len() <= room) {
            here.extend(new.drain(..new.len().min(room)));
        }
    }
    while !new.is_empty() {
        let rest = new.split_off(new.len().min(MOST));
        diff.create.push((group.clone(), std::mem::replace(&mut new, rest)));
    }
    let mut empty = Vec::new();
    for (slice, here) in kept {
        if here.is_empty() {
            empty.push(slice);
        } else if slice.endpoints == here {
            diff.keep.push(slice);
        } else {
            diff.update.push((slice, here));
        }
    }
    empty
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)],
            target_ref: Some(ObjectReference {
                uid: Some(format!("pod-{number}")),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn group() -> Group {
        Group { address_type: "IPv4".into(), ports: Vec::new() }
    }

    fn slice(numbers: std::ops::Range<usize>) -> Arc<EndpointSlice> {
        Arc::new(EndpointSlice {
            address_type: "IPv4".into(),
            endpoints: numbers.map(endpoint).collect(),
            ..Default::default()
        })
    }

    fn planned(numbers: std::ops::Range<usize>, slices: Vec<Arc<EndpointSlice>>) -> Diff {
        let desired = if numbers.is_empty() {
            BTreeMap::new()
        } else {
            [(group(), numbers.map(endpoint).collect())].into()
        };
        plan(desired, slices, &["IPv4".to_owned()])
    }

    #[test]
    fn a_new_service_gets_full_slices_and_a_rest() {
        let diff = planned(0..250, vec![]);
        let sizes: Vec<_> = diff.create.iter().map(|(_, endpoints)| endpoints.len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn nothing_changes_when_nothing_changed() {
        let diff = planned(0..150, vec![slice(0..100), slice(100..150)]);
        assert!(diff.create.is_empty() && diff.update.is_empty() && diff.delete.is_empty());
        assert_eq!(diff.keep.len(), 2);
    }

    #[test]
    fn one_more_endpoint_is_one_write() {
        let diff = planned(0..151, vec![slice(0..100), slice(100..150)]);
        assert_eq!((diff.create.len(), diff.update.len(), diff.keep.len()), (0, 1, 1));
        assert_eq!(diff.update[0].1.len(), 51);
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        let diff = planned(0..0, vec![]);
        assert_eq!(diff.create.len(), 1);
        let diff = planned(0..0, vec![slice(0..9), slice(9..20)]);
        assert_eq!((diff.update.len(), diff.delete.len()), (1, 1));
        assert!(diff.update[0].1.is_empty());
    }

    #[test]
    fn any_two_states_are_bridged_exactly() {
        // A small exhaustive walk over overlaps of old and new endpoints.
        for from in 0..6 {
            for to in 0..6 {
                for split in 0..4usize {
                    let (from, to) = (from * 37, to * 41);
                    let middle = (split * 30).min(from);
                    let old = vec![slice(0..middle), slice(middle..from)];
                    let diff = planned(20..20 + to, old);
                    let written = diff.create.iter().map(|(_, list)| list);
                    let updated = diff.update.iter().map(|(_, list)| list);
                    let kept = diff.keep.iter().map(|slice| &slice.endpoints);
                    let mut all: Vec<_> =
                        written.chain(updated).chain(kept).flatten().map(identity).collect();
                    all.sort();
                    let mut wanted: Vec<_> =
                        (20..20 + to).map(|number| identity(&endpoint(number))).collect();
                    wanted.sort();
                    assert_eq!(all, wanted, "from {from} split {middle} to {to}");
                }
            }
        }
    }
}
