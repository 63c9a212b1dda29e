//! Services by iptables rules, in the shape that kube-proxy gives them.
//!
//! A service is a rule in `KUBE-SERVICES`, which is one long list, a chain `KUBE-SVC-...` and a
//! chain `KUBE-SEP-...` for its one endpoint, with the marks for masquerading in both.
//! The service that is asked stands in the middle of the list: its cost is the mean of all.
//! The addresses are of a range that the cluster does not use, so that no eBPF program sees them.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

/// First address of the range, 10.97.0.0/16.
const RANGE: u32 = 0x0a61_0000;
/// Services that fit into it.
pub const MAX_SERVICES: u32 = 0xfff0;
/// The port of each service.
pub const PORT: u16 = 80;

/// The tables without any rule.
pub const EMPTY: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n\
    :OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n\
    *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

/// The service that stands in the middle, the same however many there are: the client's timestamps
/// depend on the address, and a server that remembers a closed connection takes only later ones.
pub const TARGET: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);

fn address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(RANGE + 1 + service.min(MAX_SERVICES))
}

/// All services in the order of the list.
fn list(count: u32) -> impl Iterator<Item = u32> {
    (count.div_ceil(2)..count).chain(0..count.div_ceil(2))
}

/// Input for `iptables-restore`: `count` services, all of them with the one backend.
pub fn rules(count: u32, backend: SocketAddrV4) -> String {
    let mut text = String::with_capacity(count as usize * 800 + 4096);
    text.push_str(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         :POSTROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n",
    );
    for place in 0..count {
        text.push_str(&format!(":KUBE-SVC-{place:016} - [0:0]\n:KUBE-SEP-{place:016} - [0:0]\n"));
    }
    text.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    for place in list(count) {
        service(&mut text, place, backend);
    }
    text.push_str("COMMIT\n");
    text.push_str(FILTER);
    text
}

/// What kube-proxy has in the filter table.
const FILTER: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
    :KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n\
    -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
    -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
    -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
    -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
    -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
    -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n";

fn service(text: &mut String, place: u32, backend: SocketAddrV4) {
    let (address, pod) = (address(place), backend.ip());
    let comment = format!("-m comment --comment \"default/bench-{place}:http\"");
    // Writing into a string does not fail.
    let _written = write!(
        text,
        "-A KUBE-SERVICES -d {address}/32 -p tcp {comment} -m tcp --dport {PORT} \
         -j KUBE-SVC-{place:016}\n\
         -A KUBE-SVC-{place:016} ! -s 10.244.0.0/16 -d {address}/32 -p tcp {comment} -m tcp \
         --dport {PORT} -j KUBE-MARK-MASQ\n\
         -A KUBE-SVC-{place:016} {comment} -j KUBE-SEP-{place:016}\n\
         -A KUBE-SEP-{place:016} -s {pod}/32 {comment} -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-{place:016} -p tcp {comment} -m tcp -j DNAT --to-destination {backend}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_an_address_and_chains_of_its_own() {
        let text = rules(300, "10.244.0.5:8080".parse().unwrap());
        let portals: Vec<&str> =
            text.lines().filter(|line| line.starts_with("-A KUBE-SERVICES -d ")).collect();
        assert_eq!(portals.len(), 300);
        assert!(portals[149].contains("-d 10.97.1.44/32"), "{}", portals[149]);
        assert!(portals[149].ends_with("-j KUBE-SVC-0000000000000299"), "{}", portals[149]);
        assert_eq!(text.matches("--to-destination 10.244.0.5:8080\n").count(), 300);
        assert_eq!(text.matches("COMMIT\n").count(), 2);
    }

    #[test]
    fn the_target_stands_in_the_middle_of_the_list() {
        for count in [10, 10_000] {
            let text = rules(count, "10.244.0.5:8080".parse().unwrap());
            let mut portals = text.lines().filter(|line| line.starts_with("-A KUBE-SERVICES -d "));
            let target = format!("-A KUBE-SERVICES -d {TARGET}/32 ");
            assert_eq!(
                portals.position(|line| line.starts_with(&target)),
                Some(count as usize / 2)
            );
        }
    }

    #[test]
    fn no_address_leaves_the_range() {
        assert_eq!(address(0), TARGET);
        assert_eq!(address(u32::MAX).octets()[..2], [10, 97]);
    }
}
