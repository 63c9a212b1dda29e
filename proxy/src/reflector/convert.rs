//! From the API's objects to the proxy's words: pure. What makes no sense is left out and said,
//! never guessed; the rest of the object still counts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bowline_api::names;

use super::types::{self, EndpointSlice, Node, Object, Service};
use crate::model::{
    Condition, Family, NodeView, ObjectName, PortConfig, Protocol, ServiceConfig, Slice,
    SliceEndpoint, SlicePort, TrafficPolicy,
};

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT_SECONDS: u32 = 10_800;

/// Namespace and name of an object.
pub(crate) fn name_of<T: Object>(object: &T) -> ObjectName {
    ObjectName::new(&object.meta().namespace, &object.meta().name)
}

/// A Service that needs a proxy; None for headless ones, ExternalName, and those of other proxies.
pub(crate) fn service(object: &Service) -> Option<ServiceConfig> {
    let spec = &object.spec;
    let others = object.metadata.labels.contains_key(names::LABEL_SERVICE_PROXY_NAME);
    if others || spec.r#type.as_deref() == Some("ExternalName") {
        return None;
    }
    let one = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
    let cluster_ips = addresses(one.chain(&spec.cluster_ips).map(String::as_str));
    if cluster_ips.is_empty() {
        return None;
    }
    let ingress = &object.status.load_balancer.ingress;
    let vips = ingress.iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    Some(ServiceConfig {
        cluster_ips,
        external_ips: addresses(spec.external_ips.iter().map(String::as_str)),
        load_balancer_ips: addresses(vips.filter_map(|i| i.ip.as_deref())),
        ports: spec.ports.iter().filter_map(|port| service_port(object, port)).collect(),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        affinity_seconds: affinity_seconds(spec),
        source_ranges: source_ranges(object),
        health_check_node_port: spec.health_check_node_port.and_then(number).unwrap_or(0),
        created: object.metadata.creation_timestamp.as_deref().map_or(0, seconds),
    })
}

/// A slice of a Service; None for one without an owner, and for names (address type FQDN).
pub(crate) fn slice(object: &EndpointSlice) -> Option<Slice> {
    let labels = &object.metadata.labels;
    let service = labels.get(names::LABEL_SERVICE_NAME)?;
    let others = [names::LABEL_SERVICE_PROXY_NAME, names::LABEL_HEADLESS_SERVICE];
    if others.iter().any(|label| labels.contains_key(*label)) {
        return None;
    }
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    Some(Slice {
        service: ObjectName::new(&object.metadata.namespace, service),
        family,
        ports: object.ports.iter().filter_map(slice_port).collect(),
        endpoints: object.endpoints.iter().filter_map(|e| slice_endpoint(e, family)).collect(),
    })
}

/// When the change happened that a slice tells of, if the slice says so.
pub(crate) fn trigger(object: &EndpointSlice) -> Option<SystemTime> {
    let text = object.metadata.annotations.trigger.as_deref()?;
    let whole = u64::try_from(seconds(text)).ok().filter(|seconds| *seconds > 0)?;
    let fraction = text.get(19..).and_then(|rest| rest.trim_end_matches('Z').parse::<f64>().ok());
    let fraction = Duration::from_secs_f64(fraction.unwrap_or(0.0).clamp(0.0, 1.0));
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(whole) + fraction)
}

/// The view of this node, from its own Node object.
pub(crate) fn node_view(object: &Node) -> NodeView {
    NodeView {
        name: object.metadata.name.as_str().into(),
        zone: object.metadata.labels.get(names::LABEL_ZONE).map(|zone| zone.as_str().into()),
        addresses: object.internal_ips(),
    }
}

fn service_port(object: &Service, port: &types::ServicePort) -> Option<PortConfig> {
    let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"));
    let (Some(protocol), Some(number_)) = (protocol, number(port.port)) else {
        tracing::warn!(service = %name_of(object), ?port, "a port that can't be served is left out");
        return None;
    };
    Some(PortConfig {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol,
        port: number_,
        node_port: port.node_port.and_then(number).unwrap_or(0),
    })
}

fn slice_port(port: &types::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
        port: port.port.and_then(number)?,
    })
}

/// All addresses of one endpoint are fungible, says the API: the first stands for it.
fn slice_endpoint(endpoint: &types::Endpoint, family: Family) -> Option<SliceEndpoint> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if Family::of(address) != family || address.is_unspecified() {
        return None;
    }
    let conditions = &endpoint.conditions;
    let hints = endpoint.hints.as_ref();
    let names = |hints: Option<&Vec<types::Hint>>| -> Vec<Arc<str>> {
        hints.into_iter().flatten().map(|hint| hint.name.as_str().into()).collect()
    };
    Some(SliceEndpoint {
        address,
        condition: Condition::from_api(
            conditions.ready,
            conditions.serving,
            conditions.terminating,
        ),
        node: endpoint.node_name.as_deref().map(Into::into),
        node_hints: names(hints.map(|h| &h.for_nodes)),
        zone_hints: names(hints.map(|h| &h.for_zones)),
    })
}

fn affinity_seconds(spec: &types::ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
    seconds.filter(|s| *s > 0).unwrap_or(AFFINITY_DEFAULT_SECONDS)
}

/// A range that can't be parsed admits nobody, so it is left out; if none is left, a range that
/// nobody is in keeps the service closed rather than open.
fn source_ranges(object: &Service) -> Vec<ipnetwork::IpNetwork> {
    let given = &object.spec.load_balancer_source_ranges;
    let mut ranges = Vec::new();
    for text in given.iter().map(|text| text.trim()) {
        match text.parse() {
            Ok(range) => ranges.push(range),
            Err(_) => tracing::warn!(
                service = %name_of(object), range = text, "not a source range; it admits nobody"
            ),
        }
    }
    if ranges.is_empty() && !given.is_empty() {
        let nobody = |ip: IpAddr| ipnetwork::IpNetwork::from(ip);
        ranges.push(nobody(std::net::Ipv4Addr::BROADCAST.into()));
        ranges.push(nobody(std::net::Ipv6Addr::UNSPECIFIED.into()));
    }
    ranges
}

/// Unspecified and repeated addresses, `None` (headless) and names are left out.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    all.retain(|ip| !ip.is_unspecified());
    all.sort();
    all.dedup();
    all
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// A port number, 0 and out of range excluded.
fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Seconds since 1970 of the API's only form of time, `2026-01-02T03:04:05Z`; 0 if it is not that.
fn seconds(text: &str) -> i64 {
    let field = |from: usize, to: usize| text.get(from..to).and_then(|t| t.parse::<i64>().ok());
    let fields = (|| {
        let date = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        Some((date, (field(11, 13)?, field(14, 16)?, field(17, 19)?)))
    })();
    let Some(((year, month, day), (hour, minute, second))) = fields else { return 0 };
    // Days since 1970 in the proleptic Gregorian calendar, the year taken to begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    days * 86_400 + hour * 3_600 + minute * 60 + second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: Object>(json: serde_json::Value) -> T {
        serde_json::from_value(json).expect("the object parses")
    }

    #[test]
    fn times_are_counted_from_1970() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), 0);
        assert_eq!(seconds("2000-03-01T00:00:00Z"), 951_868_800);
        assert_eq!(seconds("2026-11-20T12:45:01Z"), 1_795_178_701);
        assert_eq!(seconds("yesterday"), 0);
    }

    #[test]
    fn a_slice_may_say_when_its_change_happened() {
        let annotated = |time: &str| -> EndpointSlice {
            let key = "endpoints.kubernetes.io/last-change-trigger-time";
            parse(serde_json::json!({"metadata": {"annotations": {key: time, "other": "x"}}}))
        };
        let at = |time: &str| {
            let since = trigger(&annotated(time))?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(since.as_millis())
        };
        assert_eq!(at("1970-01-01T00:00:10.25Z"), Some(10_250));
        assert_eq!(at("1970-01-01T00:00:10Z"), Some(10_000));
        assert_eq!(at("soon"), None);
    }

    #[test]
    fn services_that_need_no_proxy_are_left_out() {
        for spec in [
            serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            serde_json::json!({"type": "ExternalName", "externalName": "example.org"}),
            serde_json::json!({"clusterIP": ""}),
        ] {
            let object = parse(serde_json::json!({"metadata": {"name": "a"}, "spec": spec}));
            assert_eq!(service(&object), None, "{spec}");
        }
        let object = parse(serde_json::json!({
            "metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
            "spec": {"clusterIP": "10.96.0.1"},
        }));
        assert_eq!(service(&object), None);
    }

    #[test]
    fn a_service_keeps_its_addresses_ports_and_policies() {
        let object = parse(serde_json::json!({
            "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:01:00Z"},
            "spec": {
                "type": "LoadBalancer",
                "clusterIPs": ["10.96.0.9", "fd00::9"],
                "externalIPs": ["192.0.2.9", "not an address"],
                "ports": [
                    {"name": "http", "port": 80, "nodePort": 30080},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "odd", "port": 70000},
                ],
                "internalTrafficPolicy": "Local",
                "sessionAffinity": "ClientIP",
                "loadBalancerSourceRanges": [" 198.51.100.0/24 "],
                "healthCheckNodePort": 31000,
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"},
            ]}},
        }));
        let config = service(&object).expect("it needs a proxy");
        assert_eq!(config.cluster_ips.len(), 2);
        assert_eq!(config.external_ips.len(), 1);
        assert_eq!(config.load_balancer_ips, ["203.0.113.1".parse::<IpAddr>().expect("literal")]);
        assert_eq!(config.ports.len(), 2);
        assert_eq!(config.internal_policy, TrafficPolicy::Local);
        assert_eq!(config.external_policy, TrafficPolicy::Cluster);
        assert_eq!(config.affinity_seconds, AFFINITY_DEFAULT_SECONDS);
        assert_eq!(config.source_ranges.len(), 1);
        assert_eq!((config.health_check_node_port, config.created), (31000, 60));
    }

    #[test]
    fn unreadable_source_ranges_close_the_service() {
        let object = parse(serde_json::json!({
            "spec": {"clusterIP": "10.96.0.1", "loadBalancerSourceRanges": ["everyone"]},
        }));
        let ranges = service(&object).expect("it needs a proxy").source_ranges;
        assert!(!ranges.is_empty() && ranges.iter().all(|r| [32, 128].contains(&r.prefix())));
    }

    #[test]
    fn a_slice_without_endpoints_may_say_null() {
        let object = parse(serde_json::json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": null, "ports": null,
        }));
        assert_eq!(slice(&object).map(|s| s.endpoints.len()), Some(0));
    }

    #[test]
    fn absent_conditions_mean_ready() {
        let object = parse(serde_json::json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"port": 80}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"],
                 "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["fd00::1"]},
            ],
        }));
        let slice = slice(&object).expect("it is a slice of a service");
        let conditions: Vec<_> = slice.endpoints.iter().map(|e| e.condition).collect();
        let expected = [Condition::Ready, Condition::NotReady, Condition::ServingTerminating];
        assert_eq!(conditions, expected);
    }
}
