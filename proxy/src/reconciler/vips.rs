//! VIPS: which addresses belong to services at all, counted over all frontends, so that a row goes
//! with the last of them.

use std::collections::{BTreeSet, HashMap};

use bowline_abi::{Address, VIP_CLUSTER_IP, VIP_EXTERNAL};

use super::expansion::vip_flag;
use crate::maps::{MapError, Maps};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Vips {
    addresses: HashMap<Address, Vip>,
    /// Those whose row may differ from what is wanted.
    dirty: BTreeSet<Address>,
}

#[derive(Debug)]
struct Vip {
    cluster: u32,
    external: u32,
    /// The flags in the map, 0 for no row; None if the last change failed.
    installed: Option<u32>,
}

impl Default for Vip {
    fn default() -> Self {
        Self { cluster: 0, external: 0, installed: Some(0) }
    }
}

impl Vip {
    fn wanted(&self) -> u32 {
        let cluster = if self.cluster > 0 { VIP_CLUSTER_IP } else { 0 };
        let external = if self.external > 0 { VIP_EXTERNAL } else { 0 };
        cluster | external
    }

    fn count(&mut self, flag: u32) -> &mut u32 {
        if flag == VIP_CLUSTER_IP { &mut self.cluster } else { &mut self.external }
    }
}

impl Vips {
    /// A frontend of this `KIND_` was inserted.
    pub(super) fn hold(&mut self, address: Address, kind: u32) {
        let Some(flag) = vip_flag(kind) else { return };
        let vip = self.addresses.entry(address).or_default();
        *vip.count(flag) += 1;
        if Some(vip.wanted()) != vip.installed {
            self.dirty.insert(address);
        }
    }

    /// A frontend of this `KIND_` was deleted.
    pub(super) fn release(&mut self, address: Address, kind: u32) {
        let (Some(flag), Some(vip)) = (vip_flag(kind), self.addresses.get_mut(&address)) else {
            return;
        };
        let count = vip.count(flag);
        *count = count.saturating_sub(1);
        if Some(vip.wanted()) != vip.installed {
            self.dirty.insert(address);
        }
    }

    /// A row that an earlier agent left.
    pub(super) fn restore(&mut self, address: Address, flags: u32) {
        self.addresses.entry(address).or_default().installed = Some(flags);
        self.dirty.insert(address);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Makes the map hold what is wanted: insertions, and with `prune` also deletions. Tries all;
    /// returns the last failure.
    pub(super) fn sync(&mut self, maps: &mut dyn Maps, prune: bool) -> Result<(), MapError> {
        let mut failed = Ok(());
        let dirty = std::mem::take(&mut self.dirty);
        for address in dirty {
            let Some(vip) = self.addresses.get_mut(&address) else { continue };
            let kept = if prune { 0 } else { vip.installed.unwrap_or(0) };
            let wanted = vip.wanted() | kept;
            let done = match wanted {
                wanted if Some(wanted) == vip.installed => Ok(()),
                0 => maps.delete_vip(address),
                wanted => maps.insert_vip(address, wanted),
            };
            match done {
                Ok(()) => {
                    vip.installed = Some(wanted);
                    if wanted != vip.wanted() {
                        self.dirty.insert(address);
                    } else if wanted == 0 {
                        self.addresses.remove(&address);
                    }
                }
                Err(error) => {
                    vip.installed = None;
                    self.dirty.insert(address);
                    failed = Err(error);
                }
            }
        }
        failed
    }
}
