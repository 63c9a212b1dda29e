//! The API's objects, trimmed to the fields that the proxy reads: a full Service or Node costs ten
//! times the memory while it is parsed, and Services are many.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

/// Of an object's metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub resource_version: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: Annotations,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    pub deletion_timestamp: Option<String>,
}

/// Of an object's annotations, those that a proxy reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// On an EndpointSlice: when the pod or Service changed that made the slice change.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub trigger: Option<String>,
}

/// An object of the API with its metadata.
pub trait Object: serde::de::DeserializeOwned + Clone + Send + 'static {
    /// The path that lists all objects of this kind.
    const PATH: &'static str;
    /// Label selector of what concerns a proxy, percent-encoded.
    const SELECTOR: &'static str;
    /// For messages.
    const KIND: &'static str;

    fn meta(&self) -> &Meta;
}

/// `!service.kubernetes.io/service-proxy-name`: Services that name another proxy are not ours.
const NOT_OTHERS: &str = "%21service.kubernetes.io%2Fservice-proxy-name";
/// The same, and `!service.kubernetes.io/headless`: nobody sends to headless Services by us.
const NOT_OTHERS_NOT_HEADLESS: &str =
    "%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Service {
    pub metadata: Meta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    pub r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub internal_traffic_policy: Option<String>,
    pub external_traffic_policy: Option<String>,
    pub session_affinity: Option<String>,
    pub session_affinity_config: Option<SessionAffinityConfig>,
    pub load_balancer_source_ranges: Vec<String>,
    pub health_check_node_port: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: i32,
    pub node_port: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientIpConfig {
    pub timeout_seconds: Option<i32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceStatus {
    pub load_balancer: LoadBalancerStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoadBalancerStatus {
    pub ingress: Vec<LoadBalancerIngress>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoadBalancerIngress {
    pub ip: Option<String>,
    pub ip_mode: Option<String>,
}

impl Object for Service {
    const PATH: &'static str = "/api/v1/services";
    const SELECTOR: &'static str = NOT_OTHERS;
    const KIND: &'static str = "Service";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    pub metadata: Meta,
    pub address_type: String,
    /// The API server sends null for none.
    #[serde(deserialize_with = "null_is_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: Conditions,
    pub node_name: Option<String>,
    pub hints: Option<Hints>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hints {
    pub for_zones: Vec<Hint>,
    pub for_nodes: Vec<Hint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Hint {
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointPort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: Option<i32>,
}

impl Object for EndpointSlice {
    const PATH: &'static str = "/apis/discovery.k8s.io/v1/endpointslices";
    const SELECTOR: &'static str = NOT_OTHERS_NOT_HEADLESS;
    const KIND: &'static str = "EndpointSlice";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    pub metadata: Meta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    pub taints: Vec<Taint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub key: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    pub addresses: Vec<NodeAddress>,
    pub node_info: NodeInfo,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    pub r#type: String,
    pub address: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    /// Such as `containerd://1.6.20`.
    pub container_runtime_version: String,
}

impl Node {
    /// The node's own addresses of type InternalIP, in the API's order.
    pub fn internal_ips(&self) -> Vec<IpAddr> {
        let internal = self.status.addresses.iter().filter(|a| a.r#type == "InternalIP");
        internal.filter_map(|a| a.address.parse().ok()).collect()
    }

    /// The pod ranges as the API gives them; one that is no range is left out.
    pub fn pod_ranges(&self) -> Vec<ipnetwork::IpNetwork> {
        let one = self.spec.pod_cidr.iter().filter(|_| self.spec.pod_cidrs.is_empty());
        one.chain(&self.spec.pod_cidrs).filter_map(|cidr| cidr.parse().ok()).collect()
    }
}

impl Object for Node {
    const PATH: &'static str = "/api/v1/nodes";
    const SELECTOR: &'static str = "";
    const KIND: &'static str = "Node";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
