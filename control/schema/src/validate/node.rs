//! Nodes.

use super::cursor::{Cursor, Errors};
use super::placement;

const MAX_POD_CIDRS: usize = 2;

pub(super) fn node(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    placement::taints(&spec.field("taints"), errors);
    let cidrs = spec.field("podCIDRs");
    if cidrs.len() > MAX_POD_CIDRS {
        errors.invalid(&cidrs, "may specify no more than one CIDR for each IP family");
    }
    for cidr in cidrs.items() {
        if !is_cidr(cidr.text()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&cidr, detail);
        }
    }
    if cidrs.len() > 0 && cidrs.value[0] != *spec.field("podCIDR").value {
        errors.invalid(&cidrs, "must have `podCIDR` as its first value");
    }
}

pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let max = if address.is_ipv4() { 32 } else { 128 };
    length.parse::<u8>().is_ok_and(|n| n <= max)
}
