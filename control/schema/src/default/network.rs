//! Services, endpoints, ingresses, network policies.

use serde_json::json;

use super::fill::{Object, each, is, object_at, object_made, text, value};

pub(super) fn service(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    text(spec, "sessionAffinity", "None");
    if is(spec, "sessionAffinity", "None") {
        spec.remove("sessionAffinityConfig");
    }
    if is(spec, "sessionAffinity", "ClientIP")
        && let Some(client) =
            object_made(spec, "sessionAffinityConfig").and_then(|c| object_made(c, "clientIP"))
    {
        value(client, "timeoutSeconds", 10800);
    }
    text(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        text(port, "protocol", "TCP");
        if port.get("targetPort").is_none_or(|t| *t == 0 || *t == "")
            && let Some(number) = port.get("port").cloned()
        {
            port.insert("targetPort".into(), number);
        }
    }
    if is(spec, "type", "NodePort") || is(spec, "type", "LoadBalancer") {
        text(spec, "externalTrafficPolicy", "Cluster");
    }
    if is(spec, "type", "LoadBalancer") {
        value(spec, "allocateLoadBalancerNodePorts", true);
    }
    if !is(spec, "type", "ExternalName") {
        value(spec, "internalTrafficPolicy", "Cluster");
    }
}

pub(super) fn endpoints(object: &mut Object) {
    for subset in each(object, "subsets") {
        for port in each(subset, "ports") {
            text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Object) {
    for port in each(object, "ports") {
        value(port, "name", "");
        value(port, "protocol", "TCP");
    }
}

pub(super) fn network_policy(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                value(port, "protocol", "TCP");
            }
        }
    }
    if !spec.contains_key("policyTypes") {
        let egress = spec.contains_key("egress");
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

pub(super) fn ingress(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    for rule in each(spec, "rules") {
        let Some(http) = object_at(rule, "http") else { continue };
        for path in each(http, "paths") {
            text(path, "pathType", "ImplementationSpecific");
        }
    }
}

pub(super) fn ingress_class(object: &mut Object) {
    let spec = object_at(object, "spec");
    if let Some(parameters) = spec.and_then(|s| object_at(s, "parameters")) {
        value(parameters, "scope", "Cluster");
    }
}
