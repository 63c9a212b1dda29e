//! Flags and environment: raw [`Options`], then the checked [`Config`]. Nothing is opened here.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;

use crate::{
    upstream::UPSTREAMS_MAX,
    zone::{EmptyHeadless, PodRecords, Zone},
};

/// The longest TTL that the zone's records may have: names of services change.
pub const TTL_MAX: u32 = 3600;
pub const LAMEDUCK_MAX: u64 = 60;

/// Where Services and EndpointSlices come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    Cluster,
    Directory(PathBuf),
}

impl FromStr for SourceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cluster" => Ok(SourceKind::Cluster),
            Some(("file", path)) if !path.is_empty() => {
                Ok(SourceKind::Directory(PathBuf::from(path)))
            }
            _ => Err("it is \"cluster\" or \"file:DIRECTORY\"".into()),
        }
    }
}

/// An upstream server: an address, with or without a port.
fn upstream(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    bare.or_else(|_| text.parse())
        .map_err(|_| "it is an address, or address:port as in 10.0.0.2:53 or [fd00::2]:53".into())
}

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Zone of the cluster
    #[arg(long, env = "BOWLINE_DNS_ZONE", default_value = "cluster.local")]
    pub zone: String,
    /// TTL of the zone's records, in seconds
    #[arg(long, env = "BOWLINE_DNS_TTL", default_value_t = 5)]
    pub ttl: u32,
    /// Address and port for DNS, UDP and TCP
    #[arg(long, env = "BOWLINE_DNS_LISTEN", default_value = "[::]:53")]
    pub listen: SocketAddr,
    /// Port for /health
    #[arg(long, env = "BOWLINE_DNS_HEALTH_PORT", default_value_t = 8080)]
    pub health_port: u16,
    /// Port for /ready
    #[arg(long, env = "BOWLINE_DNS_READY_PORT", default_value_t = 8181)]
    pub ready_port: u16,
    /// Port for /metrics
    #[arg(long, env = "BOWLINE_DNS_METRICS_PORT", default_value_t = 9153)]
    pub metrics_port: u16,
    /// Server for all other names, instead of those in --resolv-conf; may be repeated
    #[arg(long, env = "BOWLINE_DNS_UPSTREAM", value_delimiter = ',', value_parser = upstream)]
    pub upstream: Vec<SocketAddr>,
    /// Where the upstream servers are read from
    #[arg(long, env = "BOWLINE_DNS_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Where the objects come from: "cluster" or "file:DIRECTORY" of manifests
    #[arg(long, env = "BOWLINE_DNS_SOURCE", default_value = "cluster")]
    pub source: SourceKind,
    /// Kubeconfig, instead of the pod's service account
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// What a-b-c-d.<namespace>.pod gives
    #[arg(long, env = "BOWLINE_DNS_POD_RECORDS", value_enum, default_value_t)]
    pub pod_records: PodRecords,
    /// What a headless service without ready endpoints gives
    #[arg(long, env = "BOWLINE_DNS_EMPTY_HEADLESS", value_enum, default_value_t)]
    pub empty_headless: EmptyHeadless,
    /// Networks of the cluster: reverse lookups in them never go upstream
    #[arg(long, env = "BOWLINE_DNS_OWN_NETWORKS", value_delimiter = ',')]
    pub own_networks: Vec<IpNetwork>,
    /// Networks of the pods: the same for them
    #[arg(long, env = "CLUSTER_CIDR", value_delimiter = ',')]
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Seconds to go on serving, no longer ready, when asked to stop
    #[arg(long, env = "BOWLINE_DNS_LAMEDUCK", default_value_t = 5)]
    pub lameduck: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("--zone {0:?} is not a domain name")]
    Zone(String),
    #[error("--ttl {0} is more than {TTL_MAX} seconds")]
    Ttl(u32),
    #[error("--lameduck {0} is more than {LAMEDUCK_MAX} seconds")]
    Lameduck(u64),
    #[error("--upstream names {0} servers, more than {UPSTREAMS_MAX}")]
    Upstreams(usize),
    #[error("the port {0} is given twice among --listen and the --*-port flags")]
    Port(u16),
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub zone: Zone,
    pub listen: SocketAddr,
    pub health: SocketAddr,
    pub ready: SocketAddr,
    pub metrics: SocketAddr,
    /// Empty: those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    pub resolv_conf: PathBuf,
    pub source: SourceKind,
    pub kubeconfig: Option<PathBuf>,
    pub lameduck: Duration,
}

impl Options {
    pub fn check(self) -> Result<Config, ConfigError> {
        let origin = Name::from_ascii(&self.zone)
            .ok()
            .filter(|name| !name.is_root())
            .ok_or_else(|| ConfigError::Zone(self.zone.clone()))?;
        if self.ttl > TTL_MAX {
            return Err(ConfigError::Ttl(self.ttl));
        }
        if self.lameduck > LAMEDUCK_MAX {
            return Err(ConfigError::Lameduck(self.lameduck));
        }
        if self.upstream.len() > UPSTREAMS_MAX {
            return Err(ConfigError::Upstreams(self.upstream.len()));
        }
        let mut ports = [self.listen.port(), self.health_port, self.ready_port, self.metrics_port];
        ports.sort_unstable();
        if let Some(pair) = ports.windows(2).find(|pair| pair[0] == pair[1] && pair[0] != 0) {
            return Err(ConfigError::Port(pair[0]));
        }
        let mut zone = Zone::new(origin, self.ttl);
        zone.pod_records = self.pod_records;
        zone.empty_headless = self.empty_headless;
        zone.own_networks = [self.own_networks, self.cluster_cidrs].concat();
        let http = |port| SocketAddr::new(self.listen.ip(), port);
        Ok(Config {
            zone,
            listen: self.listen,
            health: http(self.health_port),
            ready: http(self.ready_port),
            metrics: http(self.metrics_port),
            upstreams: self.upstream,
            resolv_conf: self.resolv_conf,
            source: self.source,
            kubeconfig: self.kubeconfig,
            lameduck: Duration::from_secs(self.lameduck),
        })
    }
}

/// `[::]` stands for IPv4 as well; where the kernel has no IPv6, `0.0.0.0` is what is left of it.
pub fn without_ipv6(address: SocketAddr) -> Option<SocketAddr> {
    (address.ip() == Ipv6Addr::UNSPECIFIED)
        .then(|| SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn check(flags: &[&str]) -> Result<Config, ConfigError> {
        let all = ["test"].into_iter().chain(flags.iter().copied());
        Cli::try_parse_from(all).expect("flags that parse").options.check()
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = check(&[]).expect("valid");
        assert_eq!(config.zone.origin().to_ascii(), "cluster.local.");
        assert_eq!(config.listen.port(), 53);
    }

    #[test]
    fn what_can_not_be_is_refused_by_name() {
        assert_eq!(check(&["--zone=a..b"]), Err(ConfigError::Zone("a..b".into())));
        assert_eq!(check(&["--zone=."]), Err(ConfigError::Zone(".".into())));
        assert_eq!(check(&["--ttl=9999"]), Err(ConfigError::Ttl(9999)));
        assert_eq!(check(&["--ready-port=8080"]), Err(ConfigError::Port(8080)));
        assert!(Cli::try_parse_from(["test", "--source=etcd"]).is_err());
        assert!(Cli::try_parse_from(["test", "--upstream=example.com"]).is_err());
    }

    #[test]
    fn reverse_names_of_services_and_pods_are_the_clusters() {
        let flags = ["--own-networks=10.96.0.0/16", "--cluster-cidrs=10.244.0.0/16,fd00:244::/56"];
        let zone = check(&flags).expect("valid").zone;
        for (address, owned) in
            [("10.96.0.10", true), ("10.244.3.4", true), ("fd00:244::1", true), ("10.0.0.1", false)]
        {
            assert_eq!(zone.owns(address.parse().expect("address")), owned, "{address}");
        }
    }

    #[test]
    fn an_upstream_has_port_53_unless_it_says_another() {
        let config = check(&["--upstream=10.0.0.2,[fd00::2]:5353"]).expect("valid");
        let texts: Vec<String> = config.upstreams.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.2:53", "[fd00::2]:5353"]);
    }
}
