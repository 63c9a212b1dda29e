//! A pod's resolver configuration. Source: "DNS for Services and Pods", Pod's DNS Policy and Config.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::cri::v1::DnsConfig;
use crate::pod::view;

/// Search paths and their characters in all that resolvers accept.
const MAX_SEARCHES: usize = 32;
const MAX_SERVERS: usize = 3;

/// The node's own resolver configuration, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
                // The last line of each kind counts.
                Some("search") => {
                    conf.searches = words
                        .map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned())
                        .collect();
                }
                Some("options") => conf.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        conf
    }
}

/// What its pods are told about the cluster.
#[derive(Clone, Debug)]
pub struct Cluster<'a> {
    pub servers: &'a [IpAddr],
    pub domain: &'a str,
}

/// The resolver configuration of `pod`.
pub fn config(pod: &Pod, cluster: &Cluster<'_>, node: &ResolvConf) -> DnsConfig {
    let spec = view::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let of_cluster = match policy {
        "ClusterFirst" => spec.host_network != Some(true),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut made = if policy == "None" {
        DnsConfig::default()
    } else if of_cluster && !cluster.servers.is_empty() {
        let (ns, domain) = (view::namespace(pod), cluster.domain);
        let mut searches =
            vec![format!("{ns}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(node.searches.iter().cloned());
        DnsConfig {
            servers: cluster.servers.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        DnsConfig {
            servers: node.servers.clone(),
            searches: node.searches.clone(),
            options: node.options.clone(),
        }
    };
    if let Some(own) = &spec.dns_config {
        append(&mut made.servers, own.nameservers.iter().flatten());
        append(&mut made.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let text = match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            };
            made.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            made.options.push(text);
        }
    }
    made.servers.truncate(MAX_SERVERS);
    made.searches.truncate(MAX_SEARCHES);
    made
}

fn append<'a>(to: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for one in more {
        if !to.contains(one) {
            to.push(one.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, servers: &[&str], searches: &[&str], options: &[&str]) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": spec}))
                .expect("a pod");
        let node = ResolvConf::parse("nameserver 1.1.1.1\nsearch lan.\noptions timeout:2 rotate\n");
        let dns = ["10.96.0.10".parse().expect("an address")];
        let made = config(&pod, &Cluster { servers: &dns, domain: "cluster.local" }, &node);
        assert_eq!(made.servers, servers, "servers of {pod:?}");
        assert_eq!(made.searches, searches, "searches of {pod:?}");
        assert_eq!(made.options, options, "options of {pod:?}");
    }

    #[test]
    fn each_policy_has_its_own_servers() {
        let cluster = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"];
        let c = json!([]);
        check(json!({"containers": c}), &["10.96.0.10"], &cluster, &["ndots:5"]);
        let host = json!({"containers": c, "hostNetwork": true});
        check(host, &["1.1.1.1"], &["lan"], &["timeout:2", "rotate"]);
        let both =
            json!({"containers": c, "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        check(both, &["10.96.0.10"], &cluster, &["ndots:5"]);
        let node = json!({"containers": c, "dnsPolicy": "Default"});
        check(node, &["1.1.1.1"], &["lan"], &["timeout:2", "rotate"]);
    }

    #[test]
    fn a_pods_own_configuration_is_added_and_its_options_override() {
        let own = json!({"nameservers": ["9.9.9.9"], "searches": ["x", "lan"],
            "options": [{"name": "timeout", "value": "5"}, {"name": "edns0"}]});
        let spec = json!({"containers": [], "dnsPolicy": "Default", "dnsConfig": own});
        check(spec, &["1.1.1.1", "9.9.9.9"], &["lan", "x"], &["rotate", "timeout:5", "edns0"]);
        let spec = json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["9.9.9.9"]}});
        check(spec, &["9.9.9.9"], &[], &[]);
    }
}
