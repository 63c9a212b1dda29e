//! Which network a cluster can have: one that the machine does not use for anything else.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

/// Tried in this order: 192.168.77.0/24 up to 192.168.126.0/24.
const FIRST: [u8; 3] = [192, 168, 77];
const TRIES: u8 = 50;

/// The first network of our own range that overlaps none of `taken`.
pub(crate) fn choose(taken: &[Ipv4Network]) -> Option<Ipv4Network> {
    (0..TRIES).map(candidate).find(|candidate| is_free(*candidate, taken))
}

/// Whether no network of `taken` shares an address with `subnet`.
pub(crate) fn is_free(subnet: Ipv4Network, taken: &[Ipv4Network]) -> bool {
    taken.iter().all(|other| !other.overlaps(subnet))
}

fn candidate(step: u8) -> Ipv4Network {
    let [a, b, c] = FIRST;
    Ipv4Network::new(Ipv4Addr::new(a, b, c + step, 0), 24).expect("24 is a prefix length")
}

/// The networks of `/proc/net/route`, without the default route and those of the link `ours`.
pub(crate) fn routes(table: &str, ours: &str) -> Vec<Ipv4Network> {
    let parse = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let hex = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::from_be);
        let (link, network, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        let (network, mask) = (hex(network)?, hex(mask)?);
        if *link == ours || mask == 0 {
            return None;
        }
        Ipv4Network::with_netmask(Ipv4Addr::from(network), Ipv4Addr::from(mask)).ok()
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// Whether `/proc/net/route` has a default route.
pub(crate) fn has_default(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(1) == Some("00000000") && fields.nth(5) == Some("00000000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
bowline-x\t004EA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    #[test]
    fn a_taken_network_is_passed_over_and_our_own_is_not() {
        let taken = routes(TABLE, "bowline-x");
        assert_eq!(taken, ["192.168.77.0/24".parse::<Ipv4Network>().expect("a network")]);
        assert_eq!(choose(&taken).map(|net| net.to_string()).as_deref(), Some("192.168.78.0/24"));
    }

    #[test]
    fn the_default_route_is_seen_and_takes_no_network() {
        assert!(has_default(TABLE));
        assert!(!has_default(&TABLE.replace("00000000\t010200C0", "00000001\t010200C0")));
    }

    #[test]
    fn a_machine_that_uses_all_of_our_range_has_no_network_for_us() {
        assert_eq!(choose(&["192.168.0.0/16".parse().expect("a network")]), None);
    }
}
