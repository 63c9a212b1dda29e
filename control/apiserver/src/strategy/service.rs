//! Services keep their addresses and ports through updates that don't name them.
//!
//! The allocation itself is [`crate::allocate`]'s.

use serde_json::{Map, Value, json};

use super::Strategy;
use crate::authn::User;
use crate::object::{child, items, text};

pub(crate) struct Service;

impl Strategy for Service {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        object["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, old: &Value, new: &mut Value) {
        let (was, is) = (text(old, "/spec/type").to_owned(), text(new, "/spec/type").to_owned());
        if is == "ExternalName" {
            drop_addresses(new);
        } else if was != "ExternalName" {
            keep_addresses(old, new);
        }
        let wants_ports = matches!(is.as_str(), "NodePort" | "LoadBalancer");
        if wants_ports {
            keep_node_ports(old, new);
        } else if matches!(was.as_str(), "NodePort" | "LoadBalancer") {
            drop_former_node_ports(old, new);
            drop_unchanged(old, new, "externalTrafficPolicy");
        }
        if was == "LoadBalancer" && is != "LoadBalancer" {
            for name in
                ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"]
            {
                drop_unchanged(old, new, name);
            }
        }
    }
}

fn drop_addresses(service: &mut Value) {
    let spec = child(service, "spec");
    for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
    {
        spec.remove(name);
    }
}

/// Fields that are absent in the update are filled from the stored object.
fn keep_addresses(old: &Value, new: &mut Value) {
    let Some(before) = old.get("spec").and_then(Value::as_object) else { return };
    let spec = child(new, "spec");
    for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let absent = match spec.get(name) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if absent && let Some(value) = before.get(name) {
            spec.insert(name.to_owned(), value.clone());
        }
    }
    keep_if_absent(before, spec, "healthCheckNodePort");
}

fn keep_if_absent(before: &Map<String, Value>, spec: &mut Map<String, Value>, name: &str) {
    let unset = spec.get(name).is_none_or(|value| value.is_null() || *value == 0);
    if unset && let Some(value) = before.get(name) {
        spec.insert(name.to_owned(), value.clone());
    }
}

/// A port is the same one as before if protocol and number are.
fn keep_node_ports(old: &Value, new: &mut Value) {
    let before: Vec<(String, Value, Value)> = items(old, "/spec/ports")
        .iter()
        .filter_map(|port| Some((port, port.get("nodePort")?.clone())))
        .map(|(port, node_port)| (protocol(port), port["port"].clone(), node_port))
        .collect();
    let ports = child(new, "spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        let unset = port.get("nodePort").is_none_or(|p| p.is_null() || *p == 0);
        let same = before.iter().find(|(p, n, _)| *p == protocol(port) && *n == port["port"]);
        if unset && let Some((_, _, node_port)) = same {
            port["nodePort"] = node_port.clone();
        }
    }
}

/// What only the former type has goes, unless the client has just set it: then validation says so.
fn drop_unchanged(old: &Value, new: &mut Value, name: &str) {
    let before = old.pointer(&format!("/spec/{name}"));
    let spec = child(new, "spec");
    if spec.get(name) == before {
        spec.remove(name);
    }
}

/// Without the type that has node ports, those that were only allocated go.
fn drop_former_node_ports(old: &Value, new: &mut Value) {
    let before: Vec<Value> =
        items(old, "/spec/ports").iter().filter_map(|p| p.get("nodePort").cloned()).collect();
    let ports = child(new, "spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if port.get("nodePort").is_some_and(|p| before.contains(p)) {
            port.remove("nodePort");
        }
    }
}

fn protocol(port: &Value) -> String {
    match text(port, "/protocol") {
        "" => "TCP".to_owned(),
        other => other.to_owned(),
    }
}
