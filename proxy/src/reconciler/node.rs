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
    installed: NodeRows,
}

impl NodeState {
    pub(super) fn restore(&mut self, dump: &Dump) {
        self.installed = NodeRows {
            addresses: dump.node_addresses.iter().copied().collect(),
            settings: dump.settings,
            pods: dump.local_pods.iter().copied().collect(),
        };
    }

    pub(super) fn set(&mut self, wanted: NodeRows) {
        self.wanted = Some(wanted);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| *wanted == self.installed)
    }

    /// Makes the maps say what is wanted. Nothing is touched before something is known.
    pub(super) fn sync(&mut self, maps: &mut dyn Maps) -> Result<(), MapError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        if wanted.settings != self.installed.settings {
            maps.write_settings(&wanted.settings)?;
            self.installed.settings = wanted.settings;
        }
        for (address, flags) in &wanted.addresses {
            if self.installed.addresses.get(address) != Some(flags) {
                maps.insert_node_address(*address, *flags)?;
                self.installed.addresses.insert(*address, *flags);
            }
        }
        for (address, pod) in &wanted.pods {
            if self.installed.pods.get(address) != Some(pod) {
                maps.insert_local_pod(*address, pod)?;
                self.installed.pods.insert(*address, *pod);
            }
        }
        let gone = |address: &&Address| !wanted.addresses.contains_key(*address);
        let stale: Vec<Address> = self.installed.addresses.keys().filter(gone).copied().collect();
        for address in stale {
            maps.delete_node_address(address)?;
            self.installed.addresses.remove(&address);
        }
        let gone = |address: &&Address| !wanted.pods.contains_key(*address);
        let stale: Vec<Address> = self.installed.pods.keys().filter(gone).copied().collect();
        for address in stale {
            maps.delete_local_pod(address)?;
            self.installed.pods.remove(&address);
        }
        Ok(())
    }
}
