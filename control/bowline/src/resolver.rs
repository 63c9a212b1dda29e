//! Which resolver configuration the node's pods inherit.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const USUAL: &str = "/etc/resolv.conf";
/// The name servers behind systemd-resolved's stub (systemd-resolved.service(8)).
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The file with name servers that pods can reach: a stub on the host's loopback is none of theirs.
pub fn configuration() -> PathBuf {
    let usual = fs::read_to_string(USUAL).unwrap_or_default();
    let stub = only_loopback(&usual) && Path::new(BEHIND_STUB).exists();
    PathBuf::from(if stub { BEHIND_STUB } else { USUAL })
}

/// Whether a resolv.conf(5) names servers, each of them on the loopback.
fn only_loopback(text: &str) -> bool {
    let mut servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let loopback = |server: &str| server.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    servers.next().is_some_and(loopback) && servers.all(loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_is_told_from_servers_that_pods_reach() {
        assert!(only_loopback("# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0\n"));
        assert!(only_loopback("nameserver ::1\nnameserver 127.0.0.1\n"));
        assert!(!only_loopback("nameserver 127.0.0.1\nnameserver 9.9.9.9\n"));
        assert!(!only_loopback("nameserver 192.168.1.1"));
        assert!(!only_loopback("search example.com\n"));
    }
}
