//! The endpoints that a service should have. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bowline_api::names::LABEL_ZONE;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// What all endpoints of one slice share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    /// `IPv4` or `IPv6`.
    pub(crate) address_type: String,
    pub(crate) ports: Vec<Port>,
}

/// One port of a slice, in an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: Option<i32>,
    pub(crate) app_protocol: Option<String>,
}

impl Port {
    pub(crate) fn of(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }

    pub(crate) fn to_api(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            protocol: Some(self.protocol.clone()),
            port: self.port,
            app_protocol: self.app_protocol.clone(),
        }
    }
}

/// The address families that the service has, as slices name them.
pub(crate) fn address_types(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    families.filter(|list| !list.is_empty()).unwrap_or_else(|| vec!["IPv4".to_owned()])
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The pod's address of one family.
pub(crate) fn address(pod: &Pod, address_type: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let list = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(status.pod_ip.as_ref());
    let fits = |text: &&String| {
        text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (address_type == "IPv6"))
    };
    list.into_iter().find(fits).cloned()
}

/// The pods that may be endpoints: on a node, not ended. Those being deleted still are.
pub(crate) fn is_candidate(pod: &Pod) -> bool {
    !pods::is_ended(pod) && !pods::node(pod).is_empty()
}

/// All endpoints of the service, by group.
pub(crate) fn endpoints(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &HashMap<String, Arc<Node>>,
) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for address_type in address_types(service) {
        for pod in pods.iter().filter(|pod| is_candidate(pod)) {
            let Some(address) = address(pod, &address_type) else { continue };
            let group = Group { address_type: address_type.clone(), ports: ports(service, pod) };
            let node = nodes.get(pods::node(pod)).map(Arc::as_ref);
            groups.entry(group).or_default().push(endpoint(service, pod, node, address));
        }
    }
    groups
}

/// The service's ports as this pod serves them; a named port that it lacks is left out.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut found: Vec<Port> = ports
        .iter()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: Some(target_port(port, pod)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort();
    found
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|own| {
            own.name.as_ref() == Some(name) && own.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|own| own.container_port)
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, address: String) -> Endpoint {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = publish || (serving && !terminating);
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(LABEL_ZONE).cloned());
    let node_name = Some(pods::node(pod).to_owned()).filter(|name| !name.is_empty());
    let distribution = spec.and_then(|spec| spec.traffic_distribution.as_deref());
    let hints =
        if ready { hints(distribution, node_name.as_deref(), zone.as_deref()) } else { None };
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name,
        zone,
        hints,
        target_ref: Some(target(pod)),
        ..Default::default()
    }
}

/// The pod behind an address.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The pod's own name under a headless service that is its subdomain.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (Some(subdomain) == service.metadata.name.as_ref()).then_some(hostname)
}

/// Whom the endpoint should serve first, by KEP-4444 and KEP-3015: its own zone, and for
/// `PreferSameNode` its own node too. All endpoints of a service follow the same rule, so that a
/// proxy may rely on every one of them.
fn hints(
    distribution: Option<&str>,
    node: Option<&str>,
    zone: Option<&str>,
) -> Option<EndpointHints> {
    let zones = || zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let nodes = || node.map(|node| vec![ForNode { name: node.to_owned() }]);
    let hints = match distribution? {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: zones(), for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones: zones(), for_nodes: nodes() },
        _ => return None,
    };
    (hints != EndpointHints::default()).then_some(hints)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(extra: Value) -> Service {
        let mut spec = json!({"selector": {"app": "web"}, "ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "raw", "port": 81}]});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec}))
            .expect("a valid service")
    }

    fn pod(name: &str, port: i32, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00::9"}],
                "conditions": [{"type": "Ready", "status": ready}]}}))
        .expect("a valid pod")
    }

    fn nodes() -> HashMap<String, Arc<Node>> {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {LABEL_ZONE: "z1"}}}),
        )
        .expect("a valid node");
        [("n1".to_owned(), Arc::new(node))].into()
    }

    fn one(service: &Service, pod: Pod) -> Endpoint {
        let groups = endpoints(service, &[Arc::new(pod)], &nodes());
        groups.into_values().flatten().next().expect("an endpoint")
    }

    #[test]
    fn a_named_port_is_each_pods_own() {
        let pods = [Arc::new(pod("a", 8080, "True")), Arc::new(pod("b", 9090, "True"))];
        let groups = endpoints(&service(json!({})), &pods, &nodes());
        let ports: Vec<_> = groups.keys().map(|group| group.ports[0].port).collect();
        assert_eq!(ports, [Some(8080), Some(9090)]);
        assert!(groups.keys().all(|group| group.ports[1].port == Some(81)));
    }

    #[test]
    fn both_families_of_a_dual_stack_service_get_endpoints() {
        let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let groups = endpoints(&dual, &[Arc::new(pod("a", 1, "True"))], &nodes());
        let addresses: Vec<_> =
            groups.values().flatten().map(|endpoint| endpoint.addresses[0].as_str()).collect();
        assert_eq!(addresses, ["10.244.0.9", "fd00::9"]);
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating() {
        let conditions = |pod, extra| {
            let conditions = one(&service(extra), pod).conditions.expect("conditions");
            (conditions.ready, conditions.serving, conditions.terminating)
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(conditions(pod("a", 1, "True"), json!({})), (yes, yes, no));
        assert_eq!(conditions(pod("a", 1, "False"), json!({})), (no, no, no));
        let mut leaving = pod("a", 1, "True");
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()));
        assert_eq!(conditions(leaving, json!({})), (no, yes, yes));
        let publish = json!({"publishNotReadyAddresses": true});
        assert_eq!(conditions(pod("a", 1, "False"), publish), (yes, no, no));
    }

    #[test]
    fn hints_follow_the_traffic_distribution() {
        let hints = |distribution: &str| {
            let service = service(json!({"trafficDistribution": distribution}));
            one(&service, pod("a", 1, "True")).hints
        };
        let zones = Some(vec![ForZone { name: "z1".into() }]);
        let nodes = Some(vec![ForNode { name: "n1".into() }]);
        let wanted = Some(EndpointHints { for_zones: zones.clone(), for_nodes: nodes });
        assert_eq!(hints("PreferSameNode"), wanted);
        let wanted = Some(EndpointHints { for_zones: zones, for_nodes: None });
        assert_eq!(hints("PreferClose"), wanted);
        assert_eq!(one(&service(json!({})), pod("a", 1, "True")).hints, None);
    }
}
