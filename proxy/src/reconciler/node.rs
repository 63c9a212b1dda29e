//! The rows that speak of the node itself: NODE_ADDRESSES and SETTINGS.

use std::collections::BTreeMap;

use bowline_abi::{Address, Settings};

use crate::maps::{Dump, MapError, Maps};

/// What the maps shall say of this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeRows {
    /// The node's addresses and their `NODE_ADDRESS_` flags.
    pub addresses: BTreeMap<Address, u32>,
    pub settings: Settings,
}

/// Keeps the node's rows: what is wanted and what is there.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    wanted: Option<NodeRows>,
    /// None where the last change failed: it may have been done all the same.
    addresses: BTreeMap<Address, Option<u32>>,
    settings: Option<Settings>,
}

impl NodeState {
    pub(super) fn restore(&mut self, dump: &Dump) {
        self.addresses = dump.node_addresses.iter().map(|(a, flags)| (*a, Some(*flags))).collect();
        self.settings = Some(dump.settings);
    }

    pub(super) fn set(&mut self, wanted: NodeRows) {
        self.wanted = Some(wanted);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| {
            self.settings == Some(wanted.settings) && is_equal(&self.addresses, &wanted.addresses)
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
        for (address, flags) in &wanted.addresses {
            if self.addresses.get(address) != Some(&Some(*flags)) {
                self.addresses.insert(*address, None);
                maps.insert_node_address(*address, *flags)?;
                self.addresses.insert(*address, Some(*flags));
            }
        }
        let gone = |address: &&Address| !wanted.addresses.contains_key(*address);
        let stale: Vec<Address> = self.addresses.keys().filter(gone).copied().collect();
        for address in stale {
            maps.delete_node_address(address)?;
            self.addresses.remove(&address);
        }
        Ok(())
    }
}

fn is_equal(present: &BTreeMap<Address, Option<u32>>, wanted: &BTreeMap<Address, u32>) -> bool {
    present.len() == wanted.len()
        && present.iter().zip(wanted).all(|((a, v), (b, w))| a == b && v.as_ref() == Some(w))
}
