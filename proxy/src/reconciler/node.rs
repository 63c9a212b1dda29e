//! The rows that speak of the node itself: NODE_ADDRESSES, SETTINGS and LOCAL_PODS.

use std::collections::BTreeMap;

use bowline_abi::{Address, LocalPod, Settings};

use crate::maps::{Dump, MapError, Maps};

/// What the maps shall say of this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeRows {
    /// The node's addresses and their `NODE_ADDRESS_` flags.
    pub addresses: BTreeMap<Address, u32>,
    pub settings: Settings,
    /// The pods of this node, by address.
    pub pods: BTreeMap<Address, LocalPod>,
}

/// Keeps the node's rows: what is wanted and what is there.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    wanted: Option<NodeRows>,
    /// None where the last change failed: it may have been done all the same.
    addresses: BTreeMap<Address, Option<u32>>,
    pods: BTreeMap<Address, Option<LocalPod>>,
    settings: Option<Settings>,
}

impl NodeState {
    pub(super) fn restore(&mut self, dump: &Dump) {
        self.addresses = dump.node_addresses.iter().map(|(a, flags)| (*a, Some(*flags))).collect();
        self.pods = dump.local_pods.iter().map(|(a, pod)| (*a, Some(*pod))).collect();
        self.settings = Some(dump.settings);
    }

    pub(super) fn set(&mut self, wanted: NodeRows) {
        self.wanted = Some(wanted);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| {
            self.settings == Some(wanted.settings)
                && is_equal(&self.addresses, &wanted.addresses)
                && is_equal(&self.pods, &wanted.pods)
        })
    }

    /// Makes the maps say what is wanted. Nothing is touched before something is known.
    pub(super) fn sync(&mut self, maps: &mut dyn Maps) -> Result<(), MapError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        if self.settings != Some(wanted.settings) {
            self.settings = None;
            maps.write_settings(&wanted.settings)?;
            self.settings = Some(wanted.settings);
        }
        let insert =
            |maps: &mut dyn Maps, address, flags: &u32| maps.insert_node_address(address, *flags);
        let delete = |maps: &mut dyn Maps, address| maps.delete_node_address(address);
        equalise(maps, &mut self.addresses, &wanted.addresses, insert, delete)?;
        let insert =
            |maps: &mut dyn Maps, address, pod: &LocalPod| maps.insert_local_pod(address, pod);
        let delete = |maps: &mut dyn Maps, address| maps.delete_local_pod(address);
        equalise(maps, &mut self.pods, &wanted.pods, insert, delete)
    }
}

fn is_equal<V: PartialEq>(
    present: &BTreeMap<Address, Option<V>>,
    wanted: &BTreeMap<Address, V>,
) -> bool {
    present.len() == wanted.len()
        && present.iter().zip(wanted).all(|((a, v), (b, w))| a == b && v.as_ref() == Some(w))
}

fn equalise<V: PartialEq + Copy>(
    maps: &mut dyn Maps,
    present: &mut BTreeMap<Address, Option<V>>,
    wanted: &BTreeMap<Address, V>,
    insert: impl Fn(&mut dyn Maps, Address, &V) -> Result<(), MapError>,
    delete: impl Fn(&mut dyn Maps, Address) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for (address, value) in wanted {
        if present.get(address) != Some(&Some(*value)) {
            present.insert(*address, None);
            insert(maps, *address, value)?;
            present.insert(*address, Some(*value));
        }
    }
    let gone = |address: &&Address| !wanted.contains_key(*address);
    let stale: Vec<Address> = present.keys().filter(gone).copied().collect();
    for address in stale {
        delete(maps, address)?;
        present.remove(&address);
    }
    Ok(())
}
