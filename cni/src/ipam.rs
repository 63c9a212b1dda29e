//! The pure choice of addresses: which of a range's addresses the next pod gets.
//!
//! Addresses are handed out in turn (the one after the last), so that a freed address rests as long
//! as possible: peers may still hold connections, ARP entries or DNS answers that name it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// The first usable address and the last, as numbers. Left out are the network's own address, the
/// first after it (by convention the node's) and IPv4's broadcast address.
fn bounds(range: &IpNetwork) -> (u128, u128) {
    let (network, host_bits, broadcast) = match range {
        IpNetwork::V4(v4) => (u128::from(u32::from(v4.network())), 32 - v4.prefix(), 1),
        IpNetwork::V6(v6) => (u128::from(v6.network()), 128 - v6.prefix(), 0),
    };
    let last = network | 1_u128.checked_shl(host_bits.into()).map_or(u128::MAX, |size| size - 1);
    (network.saturating_add(2), last.saturating_sub(broadcast))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(range: &IpNetwork, number: u128) -> IpAddr {
    match range {
        IpNetwork::V4(_) => {
            Ipv4Addr::from(u32::try_from(number).expect("within an IPv4 range")).into()
        }
        IpNetwork::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// How many pods fit into the range (saturating).
pub fn capacity(range: &IpNetwork) -> u128 {
    let (first, last) = bounds(range);
    if last < first { 0 } else { (last - first).saturating_add(1) }
}

/// The next free address of the range after `last` (wrapping round), or `None` if all are in use.
///
/// `used` may be asked about any address of the range; at most as many addresses are tried as are
/// in use, so an IPv6 range of any size costs no more than its pods.
pub fn next_free(
    range: &IpNetwork,
    last: Option<IpAddr>,
    used: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let (first, end) = bounds(range);
    if end < first {
        return None;
    }
    let start = match last {
        Some(last) if range.contains(last) && (first..end).contains(&number(last)) => {
            number(last) + 1
        }
        _ => first,
    };
    (start..=end)
        .chain(first..start)
        .map(|number| address(range, number))
        .find(|address| !used(*address))
}

/// One choice: the pool (an index into the ranges) and the address taken from it.
pub type Choice = (usize, IpAddr);

/// One free address for each family that occurs in `ranges`, from the first range of that family
/// that has one. `None` if a family has no free address left.
pub fn choose(
    ranges: &[IpNetwork],
    last: impl Fn(usize) -> Option<IpAddr>,
    used: impl Fn(IpAddr) -> bool,
) -> Option<Vec<Choice>> {
    let mut choices = vec![];
    for v6 in [false, true] {
        let mut family =
            ranges.iter().enumerate().filter(|(_, range)| range.is_ipv6() == v6).peekable();
        if family.peek().is_none() {
            continue;
        }
        let choice = family.find_map(|(index, range)| {
            next_free(range, last(index), &used).map(|address| (index, address))
        });
        choices.push(choice?);
    }
    Some(choices)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().expect("a CIDR")
    }

    #[test]
    fn the_networks_own_the_nodes_and_the_broadcast_address_are_left_out() {
        assert_eq!(capacity(&net("10.244.1.0/24")), 253);
        assert_eq!(capacity(&net("10.244.1.0/30")), 1);
        assert_eq!(capacity(&net("10.244.1.0/31")), 0);
        assert_eq!(capacity(&net("10.244.1.0/32")), 0);
        assert_eq!(capacity(&net("fd00::/126")), 2);
        assert!(capacity(&net("::/0")) > 1 << 100);
        let first = next_free(&net("10.244.1.0/24"), None, |_| false);
        assert_eq!(first, Some("10.244.1.2".parse().expect("address")));
    }

    #[test]
    fn a_freed_address_rests_until_the_others_have_had_their_turn() {
        let range = net("10.0.0.0/29");
        let mut last = None;
        let mut seen = vec![];
        for _ in 0..7 {
            last = next_free(&range, last, |_| false);
            seen.push(last.expect("nothing is in use").to_string());
        }
        let ends: Vec<_> = seen.iter().map(|text| text.rsplit('.').next().unwrap()).collect();
        assert_eq!(ends, ["2", "3", "4", "5", "6", "2", "3"]);
    }

    #[test]
    fn a_full_range_gives_its_place_to_the_next_of_its_family() {
        let ranges = [net("10.0.0.0/30"), net("10.0.1.0/30"), net("fd00::/64")];
        let full = |address: IpAddr| address.to_string().starts_with("10.0.0.");
        let choices = choose(&ranges, |_| None, full).expect("the second range is free");
        assert_eq!(choices[0], (1, "10.0.1.2".parse().expect("address")));
        assert_eq!(choices[1], (2, "fd00::2".parse().expect("address")));
        assert_eq!(choose(&ranges, |_| None, |address| address.is_ipv4()), None);
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_before_the_range_is_exhausted(
            prefix in 24_u8..=30, start in any::<u8>()
        ) {
            let range = IpNetwork::new("10.9.8.0".parse().unwrap(), prefix).unwrap();
            let mut last = Some(IpAddr::V4(Ipv4Addr::new(10, 9, 8, start)));
            let mut used = BTreeSet::new();
            while let Some(address) = next_free(&range, last, |a| used.contains(&a)) {
                prop_assert!(range.contains(address) && used.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(used.len() as u128, capacity(&range));
        }
    }
}
