//! Services, endpoints, ingresses, network policies.

use std::net::IpAddr;

use bowline_api::words;
use serde_json::Value;

use super::cursor::{Cursor, Errors};
use super::node::is_cidr;
use super::{meta, probe};

const MAX_ENDPOINTS: usize = 1000;
const MAX_SLICE_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
const MAX_AFFINITY_SECONDS: i64 = 86_400;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

fn address(at: &Cursor<'_>, errors: &mut Errors) {
    if at.text().parse::<IpAddr>().is_err() {
        errors.invalid(at, IP);
    }
}

pub(super) fn service(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let kind = spec.field("type");
    let headless = spec.field("clusterIP").is("None");
    let ports = spec.field("ports");
    errors.require_one_of(&kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    if ports.len() == 0 && !headless && !kind.is("ExternalName") {
        errors.required(&ports, "");
    }
    service_ports(&ports, kind.text(), errors);
    if kind.is("ExternalName") {
        external_name(&spec, errors);
    } else if headless && !kind.is("ClusterIP") {
        let detail = format!("may not be set to 'None' for {} services", kind.text());
        errors.invalid(&spec.field("clusterIPs").field_at(0), detail);
    }
    meta::labels(&spec.field("selector"), errors);
    cluster_addresses(&spec, errors);
    affinity(&spec, errors);
    for ip in spec.field("externalIPs").items() {
        address(&ip, errors);
    }
    for range in spec.field("loadBalancerSourceRanges").items() {
        if !kind.is("LoadBalancer") {
            let list = spec.field("loadBalancerSourceRanges");
            errors.forbidden(&list, "may only be used when `type` is 'LoadBalancer'");
        }
        if !is_cidr(range.text().trim()) {
            errors.invalid(&range, CIDR);
        }
    }
    let external = spec.field("externalTrafficPolicy");
    errors.one_of(&external, &["Cluster", "Local"]);
    let outside = kind.is("NodePort") || kind.is("LoadBalancer");
    if external.is_set() && !outside && spec.field("externalIPs").len() == 0 {
        errors.invalid(&external, "may only be set for externally-accessible services");
    }
    errors.one_of(&spec.field("internalTrafficPolicy"), &["Cluster", "Local"]);
    errors.one_of(
        &spec.field("trafficDistribution"),
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
    );
    errors.one_of(
        &spec.field("ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    for family in spec.field("ipFamilies").items() {
        errors.one_of(&family, &["IPv4", "IPv6"]);
    }
    let class = spec.field("loadBalancerClass");
    if class.is_set() && !kind.is("LoadBalancer") {
        errors.forbidden(&class, "may only be used when `type` is 'LoadBalancer'");
    }
}

impl Cursor<'_> {
    /// The item of a list at an index, or null.
    fn field_at(&self, index: usize) -> Self {
        self.items()
            .nth(index)
            .unwrap_or(Self { path: format!("{}[{index}]", self.path), value: &Value::Null })
    }
}

fn service_ports(ports: &Cursor<'_>, kind: &str, errors: &mut Errors) {
    let several = ports.len() > 1;
    let mut names: Vec<&str> = Vec::new();
    let mut numbers: Vec<(Option<i64>, &str)> = Vec::new();
    let mut node_ports: Vec<(i64, &str)> = Vec::new();
    for port in ports.items() {
        let name = port.field("name");
        if several && !name.is_set() {
            errors.required(&name, "");
        } else if name.is_set() {
            errors.problems(&name, words::dns_label(name.text()));
            if names.contains(&name.text()) {
                errors.duplicate(&name);
            }
            names.push(name.text());
        }
        let number = port.field("port");
        errors.problems(&number, words::port_number(number.number().unwrap_or_default()));
        let protocol = port.field("protocol");
        errors.require_one_of(&protocol, &PROTOCOLS);
        probe::port(&port.field("targetPort"), errors);
        let key = (number.number(), protocol.text());
        if numbers.contains(&key) {
            errors.duplicate(&port);
        }
        numbers.push(key);
        let node_port = port.field("nodePort");
        let Some(number) = node_port.number().filter(|n| *n != 0) else { continue };
        errors.problems(&node_port, words::port_number(number));
        if !matches!(kind, "NodePort" | "LoadBalancer") {
            errors.forbidden(&node_port, &format!("may not be used when `type` is '{kind}'"));
        }
        if node_ports.contains(&(number, protocol.text())) {
            errors.duplicate(&node_port);
        }
        node_ports.push((number, protocol.text()));
    }
}

fn external_name(spec: &Cursor<'_>, errors: &mut Errors) {
    let name = spec.field("externalName");
    if errors.require(&name) {
        let text = name.text().strip_suffix('.').unwrap_or(name.text());
        errors.problems(&name, words::dns_subdomain(text));
    }
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.field(field).is_set() && (spec.field(field).len() > 0 || field == "ipFamilyPolicy")
        {
            errors.forbidden(&spec.field(field), "may not be set for ExternalName services");
        }
    }
}

fn cluster_addresses(spec: &Cursor<'_>, errors: &mut Errors) {
    let (one, list) = (spec.field("clusterIP"), spec.field("clusterIPs"));
    if list.len() > 2 {
        errors.invalid(&list, "may only hold up to 2 values");
    }
    let first = list.field_at(0);
    if one.is_set() && first.is_set() && one.value != first.value {
        errors.invalid(&list, "first value must match `clusterIP`");
    }
    let all: Vec<Cursor<'_>> = if list.len() > 0 { list.items().collect() } else { vec![one] };
    for ip in &all {
        if ip.is_set() && !ip.is("None") {
            address(ip, errors);
        }
        if ip.is("None") && all.len() > 1 {
            errors.invalid(ip, "'None' must be the first and only value");
        }
    }
}

fn affinity(spec: &Cursor<'_>, errors: &mut Errors) {
    errors.require_one_of(&spec.field("sessionAffinity"), &["ClientIP", "None"]);
    let config = spec.field("sessionAffinityConfig");
    if spec.field("sessionAffinity").is("ClientIP") {
        let seconds = config.field("clientIP").field("timeoutSeconds");
        if seconds.number().is_some_and(|n| !(1..=MAX_AFFINITY_SECONDS).contains(&n)) {
            let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
            errors.invalid(&seconds, detail);
        }
    } else if !config.value.is_null() {
        errors.forbidden(&config, "must not be set when session affinity is None");
    }
}

pub(super) fn endpoints(root: &Cursor<'_>, errors: &mut Errors) {
    for subset in root.field("subsets").items() {
        let (ready, waiting) = (subset.field("addresses"), subset.field("notReadyAddresses"));
        if ready.len() == 0 && waiting.len() == 0 {
            errors.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for item in ready.items().chain(waiting.items()) {
            endpoint_address(&item.field("ip"), errors);
        }
        let ports = subset.field("ports");
        for port in ports.items() {
            if ports.len() > 1 {
                errors.require(&port.field("name"));
            }
            let number = port.field("port");
            errors.problems(&number, words::port_number(number.number().unwrap_or_default()));
            errors.require_one_of(&port.field("protocol"), &PROTOCOLS);
        }
    }
}

/// An endpoint can't be the host itself, or a group of hosts.
fn endpoint_address(at: &Cursor<'_>, errors: &mut Errors) {
    let Ok(ip) = at.text().parse::<IpAddr>() else {
        errors.invalid(at, IP);
        return;
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        errors.invalid(at, "may not be unspecified (0.0.0.0 or ::)");
    } else if ip.is_loopback() {
        errors.invalid(at, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if link_local {
        errors.invalid(at, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    } else if ip.is_multicast() {
        errors
            .invalid(at, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

pub(super) fn endpoint_slice(root: &Cursor<'_>, errors: &mut Errors) {
    let kind = root.field("addressType");
    errors.require_one_of(&kind, &["FQDN", "IPv4", "IPv6"]);
    let list = root.field("endpoints");
    if list.len() > MAX_ENDPOINTS {
        errors.too_many(&list, MAX_ENDPOINTS);
    }
    for endpoint in list.items().take(MAX_ENDPOINTS) {
        let addresses = endpoint.field("addresses");
        if addresses.len() == 0 {
            errors.required(&addresses, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(&addresses, MAX_ADDRESSES);
        }
        for at in addresses.items() {
            match kind.text() {
                "FQDN" => errors.problems(&at, words::dns_subdomain(at.text())),
                "IPv4" if at.text().parse::<std::net::Ipv4Addr>().is_err() => {
                    errors.invalid(&at, "must be a valid IPv4 address");
                }
                "IPv6" if at.text().parse::<std::net::Ipv6Addr>().is_err() => {
                    errors.invalid(&at, "must be a valid IPv6 address");
                }
                _ => endpoint_address(&at, errors),
            }
        }
        errors.follows(&endpoint.field("hostname"), words::dns_label);
        errors.follows(&endpoint.field("nodeName"), words::dns_subdomain);
    }
    let ports = root.field("ports");
    if ports.len() > MAX_SLICE_PORTS {
        errors.too_many(&ports, MAX_SLICE_PORTS);
    }
    let mut names = Vec::new();
    for port in ports.items().take(MAX_SLICE_PORTS) {
        let name = port.field("name");
        if names.contains(&name.text()) {
            errors.duplicate(&name);
        }
        names.push(name.text());
        errors.follows(&name, words::dns_label);
        errors.require_one_of(&port.field("protocol"), &PROTOCOLS);
    }
}

pub(super) fn network_policy(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    meta::selector(&spec.field("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            for port in rule.field("ports").items() {
                policy_port(&port, errors);
            }
            for peer in rule.field(peers).items() {
                policy_peer(&peer, errors);
            }
        }
    }
    for kind in spec.field("policyTypes").items() {
        errors.one_of(&kind, &["Egress", "Ingress"]);
    }
}

fn policy_port(port: &Cursor<'_>, errors: &mut Errors) {
    errors.one_of(&port.field("protocol"), &PROTOCOLS);
    let (number, end) = (port.field("port"), port.field("endPort"));
    if !number.value.is_null() {
        probe::port(&number, errors);
    }
    if let Some(last) = end.number() {
        match number.value {
            Value::Null => errors.required(&end, "must be specified along with `port`"),
            Value::String(_) => {
                errors.invalid(&end, "may not be specified when `port` is non-numeric");
            }
            _ if number.number().is_some_and(|first| last < first) => {
                errors.invalid(&end, "must be greater than or equal to `port`");
            }
            _ => {}
        }
    }
}

fn policy_peer(peer: &Cursor<'_>, errors: &mut Errors) {
    for name in ["podSelector", "namespaceSelector"] {
        meta::selector(&peer.field(name), errors);
    }
    let block = peer.field("ipBlock");
    if peer.len() == 0 {
        errors.required(peer, "must specify a peer");
    } else if !block.value.is_null() && peer.len() > 1 {
        errors.forbidden(peer, "may not specify both ipBlock and another peer");
    }
    if block.value.is_null() {
        return;
    }
    let range = block.field("cidr");
    if errors.require(&range) && !is_cidr(range.text()) {
        errors.invalid(&range, CIDR);
    }
    for except in block.field("except").items() {
        if !is_cidr(except.text()) {
            errors.invalid(&except, CIDR);
        }
    }
}

pub(super) fn ingress(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    if spec.field("rules").len() == 0 && spec.field("defaultBackend").value.is_null() {
        errors.invalid(&spec, "either `defaultBackend` or `rules` must be specified");
    }
    for rule in spec.field("rules").items() {
        let host = rule.field("host");
        let text = host.text().strip_prefix("*.").unwrap_or(host.text());
        if host.is_set() {
            errors.problems(&host, words::dns_subdomain(text));
        }
        for path in rule.field("http").field("paths").items() {
            let kind = path.field("pathType");
            errors.require_one_of(&kind, &["Exact", "ImplementationSpecific", "Prefix"]);
            let at = path.field("path");
            if !kind.is("ImplementationSpecific") && !at.text().starts_with('/') {
                errors.invalid(&at, "must be an absolute path");
            }
        }
    }
}
