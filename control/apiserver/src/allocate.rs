//! Service addresses and node ports, given out in the same transaction that stores the Service.
//!
//! Each address is an `IPAddress` object and each node port a key of its own; both are created on
//! the condition that they are absent. So no two Services ever get the same one, whoever races, and
//! no Service is stored without what it names: there is nothing to repair after a crash.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_schema::validate::{FieldError, Reason};
use bowline_store::{Expect, Operation};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::app::App;
use crate::kinds;
use crate::object::{self, child, items, text};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

/// Random tries before the range is searched from its start.
const TRIES: usize = 64;
/// Where ports are kept; not a resource that is served.
const PORTS: &str = "nodeports";

/// What a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holdings {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// Fills in what `new` needs and says how the store must change along with it.
pub(crate) fn operations(
    call: &Call,
    old: Option<&Value>,
    new: Option<&mut Value>,
) -> ApiResult<Vec<Operation>> {
    if call.kind.kind != "Service" || !call.kind.group.is_empty() {
        return Ok(Vec::new());
    }
    let before = old.map(holdings).unwrap_or_default();
    let (after, owner) = match new {
        Some(service) => {
            let errors = fill(&call.app, &before, service);
            if !errors.is_empty() {
                return Err(ApiError::invalid(&call.kind, object::name(service), &errors));
            }
            (holdings(service), service.clone())
        }
        None => (Holdings::default(), Value::Null),
    };
    let mut operations = Vec::new();
    for address in after.addresses.difference(&before.addresses) {
        operations.push(claim(*address, &owner));
    }
    for port in after.ports.difference(&before.ports) {
        let value = json!({"namespace": object::namespace(&owner), "name": object::name(&owner)});
        let (key, value) = (port_key(*port), value.to_string().into());
        operations.push(Operation::Put { key, value, expect: Expect::Absent });
    }
    let gone = before.addresses.difference(&after.addresses).map(|address| address_key(*address));
    let gone = gone.chain(before.ports.difference(&after.ports).map(|port| port_key(*port)));
    operations.extend(gone.map(|key| Operation::Delete { key, expect: Expect::Any }));
    Ok(operations)
}

/// The operation that gives an address to a Service.
pub(crate) fn claim(address: IpAddr, service: &Value) -> Operation {
    let value = object::encode(&address_object(address, service));
    Operation::Put { key: address_key(address), value, expect: Expect::Absent }
}

fn address_key(address: IpAddr) -> Arc<str> {
    format!("{}{address}", kinds::prefix("networking.k8s.io", "ipaddresses")).into()
}

fn port_key(port: u16) -> Arc<str> {
    format!("{}{port}", kinds::prefix("ranges", PORTS)).into()
}

fn address_object(address: IpAddr, service: &Value) -> Value {
    let family = family(address);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(), "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": object::now(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family,
                       "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"resource": "services",
            "namespace": object::namespace(service), "name": object::name(service)}},
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn holdings(service: &Value) -> Holdings {
    let addresses = items(service, "/spec/clusterIPs").iter().filter_map(Value::as_str);
    let ports = items(service, "/spec/ports").iter().filter_map(|port| port.get("nodePort"));
    let ports = ports.chain(service.pointer("/spec/healthCheckNodePort"));
    Holdings {
        addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
        ports: ports
            .filter_map(Value::as_u64)
            .filter_map(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .collect(),
    }
}

fn error(reason: Reason, field: &str, bad: Option<Value>, detail: impl Into<String>) -> FieldError {
    FieldError { reason, field: field.to_owned(), bad_value: bad, detail: detail.into() }
}

fn fill(app: &App, before: &Holdings, service: &mut Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(service, "/spec/type") != "ExternalName" {
        fill_families(app, service, &mut errors);
        if errors.is_empty() && text(service, "/spec/clusterIP") != "None" {
            fill_addresses(app, before, service, &mut errors);
        }
    }
    if matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer") {
        fill_ports(app, before, service, &mut errors);
    }
    errors
}

/// Settles `ipFamilyPolicy` and `ipFamilies` by what the cluster has.
fn fill_families(app: &App, service: &mut Value, errors: &mut Vec<FieldError>) {
    let served: Vec<&str> = app.config.service_cidrs.iter().map(|cidr| family(cidr.ip())).collect();
    let mut families: Vec<String> = items(service, "/spec/ipFamilies")
        .iter()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    let given = items(service, "/spec/clusterIPs").iter().filter_map(Value::as_str);
    if families.is_empty() {
        let given = given.filter_map(|ip| ip.parse::<IpAddr>().ok());
        families = given.map(|ip| family(ip).to_owned()).collect();
    }
    if families.is_empty() {
        let one = text(service, "/spec/clusterIP").parse::<IpAddr>().ok();
        families = one.map(|ip| family(ip).to_owned()).into_iter().collect();
    }
    if families.is_empty() {
        families = served.first().map(ToString::to_string).into_iter().collect();
    }
    let policy = match text(service, "/spec/ipFamilyPolicy") {
        "" if families.len() > 1 => "RequireDualStack".to_owned(),
        "" => "SingleStack".to_owned(),
        given => given.to_owned(),
    };
    for (index, family) in families.iter().enumerate() {
        if !served.contains(&family.as_str()) {
            let field = format!("spec.ipFamilies[{index}]");
            errors.push(error(
                Reason::Invalid,
                &field,
                Some(json!(family)),
                format!("Invalid value: \"{family}\": not configured on this cluster"),
            ));
        }
    }
    if policy == "RequireDualStack" && served.len() < 2 {
        errors.push(error(
            Reason::Invalid,
            "spec.ipFamilyPolicy",
            Some(json!(policy)),
            "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services",
        ));
    }
    if policy == "SingleStack" {
        families.truncate(1);
    } else {
        let others = served.iter().filter(|family| !families.iter().any(|f| f == *family));
        let others: Vec<String> = others.map(ToString::to_string).collect();
        families.extend(others);
    }
    let spec = child(service, "spec");
    spec.insert("ipFamilyPolicy".into(), policy.into());
    spec.insert("ipFamilies".into(), json!(families));
    if spec.get("clusterIP").is_some_and(|ip| ip == "None") {
        spec.insert("clusterIPs".into(), json!(["None"]));
    }
}

fn fill_addresses(app: &App, before: &Holdings, service: &mut Value, errors: &mut Vec<FieldError>) {
    let mut given: Vec<String> = items(service, "/spec/clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str().map(str::to_owned))
        .collect();
    let first = text(service, "/spec/clusterIP").to_owned();
    if given.is_empty() && !first.is_empty() {
        given.push(first);
    }
    let families: Vec<String> = items(service, "/spec/ipFamilies")
        .iter()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    given.truncate(families.len());
    let mut addresses = Vec::new();
    for (index, wanted) in families.iter().enumerate() {
        let cidr = app.config.service_cidrs.iter().find(|cidr| family(cidr.ip()) == wanted);
        let Some(cidr) = cidr else { continue };
        match given.get(index) {
            Some(text) => match check_address(app, before, cidr, text) {
                Ok(address) => addresses.push(address.to_string()),
                Err(why) => errors.push(error(
                    Reason::Invalid,
                    &format!("spec.clusterIPs[{index}]"),
                    Some(json!(text)),
                    format!("Invalid value: \"{text}\": {why}"),
                )),
            },
            None => match free_address(app, cidr) {
                Some(address) => addresses.push(address.to_string()),
                None => errors.push(error(
                    Reason::Invalid,
                    "spec.clusterIPs",
                    None,
                    format!("failed to allocate a serviceIP: range {cidr} is full"),
                )),
            },
        }
    }
    let spec = child(service, "spec");
    if let Some(first) = addresses.first() {
        spec.insert("clusterIP".into(), first.clone().into());
        spec.insert("clusterIPs".into(), json!(addresses));
    }
}

fn check_address(
    app: &App,
    before: &Holdings,
    cidr: &IpNetwork,
    text: &str,
) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())?;
    if !cidr.contains(address) {
        return Err(format!(
            "failed to allocate IP {address}: the provided network does not match the current \
             range {cidr}"
        ));
    }
    let held = app.cache.get(&address_key(address)).is_some();
    if held && !before.addresses.contains(&address) {
        return Err(format!("failed to allocate IP {address}: provided IP is already allocated"));
    }
    Ok(address)
}

/// Free addresses come from the upper part of the range first: the lower one is left to those who
/// choose themselves (KEP-3070).
fn free_address(app: &App, cidr: &IpNetwork) -> Option<IpAddr> {
    let (base, size) = span(cidr);
    let last = size.checked_sub(2)?;
    let reserved = if size < 32 { 0 } else { (size / 16).clamp(16, 256) };
    let free = |offset: u128| {
        let address = at(base, offset, cidr.is_ipv4());
        app.cache.get(&address_key(address)).is_none().then_some(address)
    };
    let upper = (last - reserved).max(1);
    let random = (0..TRIES).map(|_| 1 + reserved + uuid::Uuid::new_v4().as_u128() % upper);
    let mut random = random.filter(|offset| *offset <= last);
    random.find_map(free).or_else(|| {
        let searched = last.min(1 << 16);
        (1..=searched).rev().find_map(free)
    })
}

/// The first address as a number, and how many there are.
fn span(cidr: &IpNetwork) -> (u128, u128) {
    match cidr {
        IpNetwork::V4(net) => {
            (u128::from(u32::from(net.network())), 1 << (32 - u32::from(net.prefix())))
        }
        IpNetwork::V6(net) => {
            let bits = 128 - u32::from(net.prefix());
            (u128::from(net.network()), 1u128.checked_shl(bits).unwrap_or(u128::MAX))
        }
    }
}

fn at(base: u128, offset: u128, v4: bool) -> IpAddr {
    let value = base + offset;
    if v4 {
        let low = u32::try_from(value & u128::from(u32::MAX)).unwrap_or(u32::MAX);
        IpAddr::V4(low.into())
    } else {
        IpAddr::V6(value.into())
    }
}

fn fill_ports(app: &App, before: &Holdings, service: &mut Value, errors: &mut Vec<FieldError>) {
    let range = app.config.node_ports.clone();
    let mut taken: BTreeSet<u16> = holdings(service).ports;
    let auto = service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&json!(false))
        || text(service, "/spec/type") == "NodePort";
    let wants_health = text(service, "/spec/type") == "LoadBalancer"
        && text(service, "/spec/externalTrafficPolicy") == "Local"
        && service.pointer("/spec/healthCheckNodePort").is_none_or(|p| *p == 0);
    let mut shared: Vec<(Value, Value)> = Vec::new();
    let spec = child(service, "spec");
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for (index, port) in ports.enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        let given = port.get("nodePort").and_then(Value::as_u64).filter(|p| *p != 0);
        match given {
            Some(number) => {
                if let Some(why) = refuse_port(app, before, number, &range) {
                    let detail = format!("Invalid value: {number}: {why}");
                    errors.push(error(Reason::Invalid, &field, Some(json!(number)), detail));
                }
            }
            None if auto => {
                // TCP and UDP of one port number share a node port, as clients expect of DNS.
                let twin = shared.iter().find(|(number, _)| *number == port["port"]);
                let chosen = match twin {
                    Some((_, node_port)) => Some(node_port.clone()),
                    None => free_port(app, &taken).map(|chosen| {
                        taken.insert(chosen);
                        json!(chosen)
                    }),
                };
                match chosen {
                    Some(chosen) => port["nodePort"] = chosen,
                    None => errors.push(error(
                        Reason::Invalid,
                        &field,
                        None,
                        "failed to allocate a nodePort: range is full",
                    )),
                }
            }
            None => {}
        }
        if let Some(node_port) = port.get("nodePort") {
            shared.push((port["port"].clone(), node_port.clone()));
        }
    }
    if wants_health && let Some(chosen) = free_port(app, &taken) {
        spec.insert("healthCheckNodePort".into(), json!(chosen));
    }
}

fn refuse_port(
    app: &App,
    before: &Holdings,
    number: u64,
    range: &std::ops::RangeInclusive<u16>,
) -> Option<String> {
    let port = u16::try_from(number).ok().filter(|port| range.contains(port));
    let Some(port) = port else {
        return Some(format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        ));
    };
    let held = app.cache.get(&port_key(port)).is_some() && !before.ports.contains(&port);
    held.then(|| "provided port is already allocated".to_owned())
}

fn free_port(app: &App, taken: &BTreeSet<u16>) -> Option<u16> {
    let range = &app.config.node_ports;
    let count = u128::from(range.end().checked_sub(*range.start())?) + 1;
    let free = |port: &u16| !taken.contains(port) && app.cache.get(&port_key(*port)).is_none();
    let random = (0..TRIES).map(|_| {
        let offset = u16::try_from(uuid::Uuid::new_v4().as_u128() % count).unwrap_or(0);
        range.start() + offset
    });
    let mut random = random;
    random.find(free).or_else(|| range.clone().find(free))
}
