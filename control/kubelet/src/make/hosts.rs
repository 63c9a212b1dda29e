//! The /etc/hosts file that pods of one sandbox share.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::view;

/// First line of a file that this kubelet wrote.
const HEADER: &str = "# Kubernetes-managed hosts file.\n";

/// The file of a pod with its own network.
pub fn own_network(pod: &Pod, ips: &[IpAddr], hostname: &str, domain: &str) -> String {
    let mut text = String::from(HEADER);
    text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n");
    text.push_str("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    let full = view::spec(pod)
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|s| format!("{hostname}.{s}.{}.svc.{domain}", view::namespace(pod)));
    for ip in ips {
        // Writing to a String can't fail.
        let _ = match &full {
            Some(full) => writeln!(text, "{ip}\t{full}\t{hostname}"),
            None => writeln!(text, "{ip}\t{hostname}"),
        };
    }
    aliases(pod, &mut text);
    text
}

/// The node's own file with the pod's aliases.
pub fn node_network(pod: &Pod, node: &str) -> String {
    let mut text = format!("{HEADER}{node}");
    aliases(pod, &mut text);
    text
}

fn aliases(pod: &Pod, text: &mut String) {
    let all = view::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !all.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in all {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
}
