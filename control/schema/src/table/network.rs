//! Services and endpoints; ingresses, policies, address ranges.

use serde_json::Value;

use super::Cells;
use super::cell::{NONE, Row, UNSET, join_or, join_some, labels, scalar, selector, text_of, texts};

const SHOWN_ENDPOINTS: usize = 3;

pub(super) fn layout(kind: &str) -> Option<(&'static str, Cells)> {
    Some(match kind {
        "Service" => ("Name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector+", service),
        "Endpoints" => ("Name|Endpoints|Age", endpoints),
        "EndpointSlice" => ("Name|AddressType|Ports|Endpoints|Age", endpoint_slice),
        "Ingress" => ("Name|Class|Hosts|Address|Ports|Age", ingress),
        "IngressClass" => ("Name|Controller|Parameters|Age", ingress_class),
        "NetworkPolicy" => ("Name|Pod-Selector|Age", |row| {
            vec![row.name(), selector(row.at("/spec/podSelector")).into(), row.age()]
        }),
        "ServiceCIDR" => ("Name|CIDRs|Age", |row| {
            vec![row.name(), texts(row.list("/spec/cidrs")).join(",").into(), row.age()]
        }),
        "IPAddress" => ("Name|ParentRef|Age", ip_address),
        _ => return None,
    })
}

fn service(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.text("/spec/type").into(),
        match row.list("/spec/clusterIPs").first() {
            Some(first) => first.clone(),
            None => row.or("/spec/clusterIP", NONE),
        },
        external_address(row).into(),
        service_ports(row).into(),
        row.age(),
        labels(row.at("/spec/selector").as_object()).into(),
    ]
}

fn external_address(row: &Row<'_>) -> String {
    let mut addresses = texts(row.list("/spec/externalIPs"));
    match row.text("/spec/type") {
        "ExternalName" => row.text("/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let balancers = row.list("/status/loadBalancer/ingress").iter().map(|i| {
                let ip = text_of(i, "ip");
                if ip.is_empty() { text_of(i, "hostname") } else { ip }.to_owned()
            });
            addresses.splice(0..0, balancers);
            join_or(&addresses, "<pending>")
        }
        _ => join_or(&addresses, NONE),
    }
}

fn service_ports(row: &Row<'_>) -> String {
    let ports: Vec<String> = row
        .list("/spec/ports")
        .iter()
        .map(|p| {
            let node = p["nodePort"].as_i64().filter(|n| *n != 0).map(|n| format!(":{n}"));
            format!("{}{}/{}", scalar(&p["port"]), node.unwrap_or_default(), text_of(p, "protocol"))
        })
        .collect();
    join_or(&ports, NONE)
}

fn endpoints(row: &Row<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in row.list("/subsets") {
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        let ports = subset["ports"].as_array().map_or(&[][..], Vec::as_slice);
        for address in addresses {
            let ip = text_of(address, "ip");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            all.extend(ports.iter().map(|p| format!("{bracketed}:{}", scalar(&p["port"]))));
        }
    }
    let text = if all.is_empty() { NONE.into() } else { join_some(&all, SHOWN_ENDPOINTS) };
    vec![row.name(), text.into(), row.age()]
}

fn endpoint_slice(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row
        .list("/ports")
        .iter()
        .map(|p| match p["port"].as_i64() {
            Some(port) => port.to_string(),
            None => "*".to_owned(),
        })
        .collect();
    let ports =
        if ports.is_empty() { UNSET.to_owned() } else { join_some(&ports, SHOWN_ENDPOINTS) };
    let addresses: Vec<String> = row
        .list("/endpoints")
        .iter()
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let addresses = if addresses.is_empty() {
        UNSET.to_owned()
    } else {
        join_some(&addresses, SHOWN_ENDPOINTS)
    };
    vec![row.name(), row.text("/addressType").into(), ports.into(), addresses.into(), row.age()]
}

fn ingress(row: &Row<'_>) -> Vec<Value> {
    let hosts: Vec<String> = row
        .list("/spec/rules")
        .iter()
        .map(|r| text_of(r, "host"))
        .filter(|h| !h.is_empty())
        .map(str::to_owned)
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { join_some(&hosts, SHOWN_ENDPOINTS) };
    let addresses: Vec<String> = row
        .list("/status/loadBalancer/ingress")
        .iter()
        .map(
            |i| if text_of(i, "ip").is_empty() { text_of(i, "hostname") } else { text_of(i, "ip") },
        )
        .map(str::to_owned)
        .collect();
    let ports = if row.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        row.name(),
        row.or("/spec/ingressClassName", NONE),
        hosts.into(),
        addresses.join(",").into(),
        ports.into(),
        row.age(),
    ]
}

fn ingress_class(row: &Row<'_>) -> Vec<Value> {
    let parameters = row.at("/spec/parameters");
    let text = if parameters.is_null() {
        NONE.to_owned()
    } else {
        let group = text_of(parameters, "apiGroup");
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        format!("{}{group}/{}", text_of(parameters, "kind"), text_of(parameters, "name"))
    };
    vec![row.name(), row.text("/spec/controller").into(), text.into(), row.age()]
}

fn ip_address(row: &Row<'_>) -> Vec<Value> {
    let parent = row.at("/spec/parentRef");
    let (resource, group) = (text_of(parent, "resource"), text_of(parent, "group"));
    let kind = if group.is_empty() { resource.into() } else { format!("{resource}.{group}") };
    let reference = format!("{kind}/{}/{}", text_of(parent, "namespace"), text_of(parent, "name"));
    vec![row.name(), reference.into(), row.age()]
}
