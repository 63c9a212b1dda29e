//! What a query's name is about: the grammar of the specification, without any data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

use crate::zone::Zone;

/// The subject of a name. Strings are in lower case; none of them is known to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The zone itself.
    Apex,
    /// `dns-version`
    DnsVersion,
    /// `ns.dns`: the zone's name server
    NameServer,
    /// A name that holds no records, but under which others are: `svc`, `pod`, `dns`.
    Branch,
    /// `<namespace>.svc`
    Namespace(String),
    /// `<namespace>.pod`
    PodNamespace(String),
    /// `<service>.<namespace>.svc`
    Service(ServiceName),
    /// `<hostname>.<service>.<namespace>.svc`
    Endpoint(ServiceName, String),
    /// `_<protocol>.<service>.<namespace>.svc`
    Protocol(ServiceName, String),
    /// `_<port>._<protocol>.<service>.<namespace>.svc`
    Port(ServiceName, String, String),
    /// `<dashed address>.<namespace>.pod`
    Pod(String, IpAddr),
    /// `<reversed address>.in-addr.arpa` or `.ip6.arpa`: not of the zone, but maybe of the cluster
    Reverse(IpAddr),
    /// `<cluster id>.bowline-loop-check`: does this name come back to the cluster that asks for it?
    LoopCheck(String),
    /// In the zone, of no form that can exist.
    Nothing,
    /// Not in the zone.
    Outside,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

/// The last label of names by which a server finds out whether its upstream leads back to it.
pub const LOOP_CHECK: &str = "bowline-loop-check";

/// Labels of the deepest form: `_port._protocol.service.namespace.svc`.
const DEEPEST: usize = 5;

/// Tells what `name` is about. Never fails, whatever the labels hold; case doesn't matter.
pub fn parse(zone: &Zone, name: &Name) -> Subject {
    let labels: Vec<&[u8]> = name.iter().collect();
    let origin = zone.labels();
    let Some(depth) = labels.len().checked_sub(origin.len()) else { return outside(&labels) };
    let in_zone = labels[depth..]
        .iter()
        .zip(origin)
        .all(|(label, own)| label.eq_ignore_ascii_case(own.as_bytes()));
    if !in_zone {
        return outside(&labels);
    }
    if depth > DEEPEST {
        return Subject::Nothing;
    }
    let lower = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase);
    let Some(mut below) = labels[..depth].iter().map(lower).collect::<Option<Vec<_>>>() else {
        return Subject::Nothing;
    };
    // From the zone downwards: svc, namespace, service, ...
    below.reverse();
    let mut below = below.into_iter();
    match (below.next().as_deref(), below.len()) {
        (None, _) => Subject::Apex,
        (Some("dns-version"), 0) => Subject::DnsVersion,
        (Some("dns"), 0) => Subject::Branch,
        (Some("dns"), 1) if below.next().as_deref() == Some("ns") => Subject::NameServer,
        (Some("svc"), _) => service(below),
        (Some("pod"), _) => pod(below),
        _ => Subject::Nothing,
    }
}

fn service(mut below: impl Iterator<Item = String>) -> Subject {
    let Some(namespace) = below.next() else { return Subject::Branch };
    let Some(name) = below.next() else { return Subject::Namespace(namespace) };
    let service = ServiceName { namespace, name };
    let Some(third) = below.next() else { return Subject::Service(service) };
    match (third.strip_prefix('_'), below.next()) {
        (None, None) => Subject::Endpoint(service, third),
        (Some(protocol), None) => Subject::Protocol(service, protocol.into()),
        (Some(protocol), Some(fourth)) => match fourth.strip_prefix('_') {
            Some(port) => Subject::Port(service, port.into(), protocol.into()),
            None => Subject::Nothing,
        },
        (None, Some(_)) => Subject::Nothing,
    }
}

fn pod(mut below: impl Iterator<Item = String>) -> Subject {
    let Some(namespace) = below.next() else { return Subject::Branch };
    let Some(dashed) = below.next() else { return Subject::PodNamespace(namespace) };
    match (undash(&dashed), below.next()) {
        (Some(address), None) => Subject::Pod(namespace, address),
        _ => Subject::Nothing,
    }
}

/// `10-244-1-5` or `fd00--5` as an address.
fn undash(text: &str) -> Option<IpAddr> {
    text.replace('-', ".")
        .parse()
        .map(IpAddr::V4)
        .or_else(|_| text.replace('-', ":").parse().map(IpAddr::V6))
        .ok()
}

/// An address in the form in which it is a label.
pub fn dash(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// Names outside the zone that concern the cluster all the same.
fn outside(labels: &[&[u8]]) -> Subject {
    let Some((top, rest)) = labels.split_last() else { return Subject::Outside };
    let Some((family, digits)) = rest.split_last() else { return Subject::Outside };
    if digits.is_empty() && top.eq_ignore_ascii_case(LOOP_CHECK.as_bytes()) {
        return Subject::LoopCheck(String::from_utf8_lossy(family).to_ascii_lowercase());
    }
    if !top.eq_ignore_ascii_case(b"arpa") {
        return Subject::Outside;
    }
    let address = if family.eq_ignore_ascii_case(b"in-addr") {
        reversed_v4(digits)
    } else if family.eq_ignore_ascii_case(b"ip6") {
        reversed_v6(digits)
    } else {
        None
    };
    address.map_or(Subject::Outside, Subject::Reverse)
}

fn reversed_v4(digits: &[&[u8]]) -> Option<IpAddr> {
    let mut octets = [0; 4];
    if digits.len() != octets.len() {
        return None;
    }
    for (octet, label) in octets.iter_mut().zip(digits.iter().rev()) {
        let text = std::str::from_utf8(label).ok()?;
        if text.starts_with('+') || (text.len() > 1 && text.starts_with('0')) {
            return None;
        }
        *octet = text.parse().ok()?;
    }
    Some(Ipv4Addr::from(octets).into())
}

fn reversed_v6(digits: &[&[u8]]) -> Option<IpAddr> {
    if digits.len() != 32 {
        return None;
    }
    let mut number: u128 = 0;
    for label in digits.iter().rev() {
        let &[digit] = *label else { return None };
        number = (number << 4) | u128::from(char::from(digit).to_digit(16)?);
    }
    Some(Ipv6Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Zone {
        Zone::new(Name::from_ascii("cluster.local.").expect("a name"), 5)
    }

    fn of(text: &str) -> Subject {
        parse(&zone(), &Name::from_ascii(text).expect("a name"))
    }

    fn web() -> ServiceName {
        ServiceName { namespace: "ns".into(), name: "web".into() }
    }

    #[test]
    fn each_form_of_the_specification_is_told_apart() {
        let v4 = IpAddr::from([10, 244, 1, 5]);
        let v6: IpAddr = "fd00::5".parse().expect("address");
        let v6_name = format!("5.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        let cases = [
            ("cluster.local.", Subject::Apex),
            ("dns-version.cluster.local.", Subject::DnsVersion),
            ("ns.dns.cluster.local.", Subject::NameServer),
            ("svc.cluster.local.", Subject::Branch),
            ("ns.svc.cluster.local.", Subject::Namespace("ns".into())),
            ("WEB.Ns.svc.CLUSTER.local.", Subject::Service(web())),
            ("a.web.ns.svc.cluster.local.", Subject::Endpoint(web(), "a".into())),
            ("_tcp.web.ns.svc.cluster.local.", Subject::Protocol(web(), "tcp".into())),
            (
                "_HTTP._tcp.web.ns.svc.cluster.local.",
                Subject::Port(web(), "http".into(), "tcp".into()),
            ),
            ("x._tcp.web.ns.svc.cluster.local.", Subject::Nothing),
            ("a.b.web.ns.svc.cluster.local.", Subject::Nothing),
            ("a._x._y.web.ns.svc.cluster.local.", Subject::Nothing),
            ("other.cluster.local.", Subject::Nothing),
            ("10-244-1-5.ns.pod.cluster.local.", Subject::Pod("ns".into(), v4)),
            ("fd00--5.ns.pod.cluster.local.", Subject::Pod("ns".into(), v6)),
            ("web.ns.pod.cluster.local.", Subject::Nothing),
            ("5.1.244.10.in-addr.arpa.", Subject::Reverse(v4)),
            ("05.1.244.10.in-addr.arpa.", Subject::Outside),
            ("1.244.10.in-addr.arpa.", Subject::Outside),
            (v6_name.as_str(), Subject::Reverse(v6)),
            ("Id.bowline-loop-check.", Subject::LoopCheck("id".into())),
            ("x.id.bowline-loop-check.", Subject::Outside),
            ("example.com.", Subject::Outside),
            ("local.", Subject::Outside),
            (".", Subject::Outside),
            ("xcluster.local.", Subject::Outside),
        ];
        for (text, subject) in cases {
            assert_eq!(of(text), subject, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_dashed_address_comes_back(v4 in any::<[u8; 4]>(), v6 in any::<[u16; 8]>()) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(undash(&dash(address)), Some(address));
            }
        }

        #[test]
        fn no_labels_make_it_panic(labels in prop::collection::vec("[ -~]{1,12}", 0..8)) {
            let labels = labels.iter().map(String::as_bytes);
            if let Ok(name) = Name::from_labels(labels) {
                let below = name.append_domain(zone().origin()).expect("short");
                prop_assert_ne!(parse(&zone(), &below), Subject::Outside);
            }
        }
    }
}
