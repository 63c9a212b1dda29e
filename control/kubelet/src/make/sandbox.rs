//! The sandbox of a pod.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

use super::security;
use crate::cri::v1::{
    DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use crate::pod::view;
use crate::runtime::labels;

/// Longest name that the kernel takes for a host.
const MAX_HOSTNAME: usize = 63;

/// What the node adds to a pod's specification.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    pub log_dir: String,
    pub cgroup_parent: String,
    pub seccomp_root: String,
    pub dns: DnsConfig,
    pub cluster_domain: &'a str,
    pub node_name: &'a str,
}

/// The pod's host name, cut to what the kernel takes.
pub fn hostname(pod: &Pod, site: &Site<'_>) -> String {
    let spec = view::spec(pod);
    if spec.host_network == Some(true) {
        return site.node_name.to_owned();
    }
    let own = [&spec.hostname_override, &spec.hostname];
    let own = own.into_iter().flatten().find(|h| !h.is_empty());
    let mut name: String = own.map_or(view::name(pod), |h| h).chars().take(MAX_HOSTNAME).collect();
    name.truncate(name.trim_end_matches(['-', '.']).len());
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty());
    match subdomain {
        Some(sub) if spec.set_hostname_as_fqdn == Some(true) => {
            format!("{name}.{sub}.{}.svc.{}", view::namespace(pod), site.cluster_domain)
        }
        _ => name,
    }
}

/// Labels by which sandboxes and containers are found again.
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.to_owned(), view::name(pod).to_owned()),
        (labels::POD_NAMESPACE.to_owned(), view::namespace(pod).to_owned()),
        (labels::POD_UID.to_owned(), view::uid(pod).to_owned()),
    ])
}

/// What the runtime is asked to make.
pub fn config(pod: &Pod, attempt: u32, site: &Site<'_>) -> PodSandboxConfig {
    let spec = view::spec(pod);
    let mut labels: HashMap<_, _> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(pod_labels(pod));
    let mut annotations: HashMap<_, _> =
        pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    let grace = spec.termination_grace_period_seconds.unwrap_or(view::DEFAULT_GRACE);
    annotations.insert(labels::GRACE_PERIOD.to_owned(), grace.to_string());
    let sysctls = spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: view::name(pod).to_owned(),
            uid: view::uid(pod).to_owned(),
            namespace: view::namespace(pod).to_owned(),
            attempt,
        }),
        // A pod in the node's network namespace keeps the node's name: it has no UTS namespace of
        // its own, and runtimes refuse to set a name there.
        hostname: if view::host_network(pod) { String::new() } else { hostname(pod, site) },
        log_directory: site.log_dir.clone(),
        dns_config: Some(site.dns.clone()),
        port_mappings: ports(pod),
        labels,
        annotations,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: site.cgroup_parent.clone(),
            security_context: Some(security::of_sandbox(pod, &site.seccomp_root)),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            ..LinuxPodSandboxConfig::default()
        }),
    }
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    if view::host_network(pod) {
        return Vec::new();
    }
    let all = view::main_containers(pod).chain(view::init_containers(pod).map(|(_, c)| c));
    all.flat_map(|c| c.ports.iter().flatten())
        .map(|p| PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp.into(),
                Some("SCTP") => Protocol::Sctp.into(),
                _ => Protocol::Tcp.into(),
            },
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
