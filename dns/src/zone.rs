//! The zone that is served: its name and the choices that the specification leaves open.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RData, Record, rdata::SOA};
use ipnetwork::IpNetwork;

/// What `a-b-c-d.<namespace>.pod.<zone>` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PodRecords {
    /// No such names.
    Disabled,
    /// The address that the name spells, whether such a pod exists or not.
    #[default]
    Insecure,
}

/// What the name of a headless service gives while no endpoint is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EmptyHeadless {
    /// An empty answer: the service exists. Resolvers don't go on through their search list.
    #[default]
    Nodata,
    /// As the specification has it.
    Nxdomain,
}

/// The times of the SOA record; the last also bounds how long a negative answer is kept.
const SOA_REFRESH: i32 = 7200;
const SOA_RETRY: i32 = 1800;
const SOA_EXPIRE: i32 = 86400;

#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    origin: Name,
    /// The origin's labels in lower case, leftmost first.
    labels: Vec<String>,
    pub ttl: u32,
    pub pod_records: PodRecords,
    pub empty_headless: EmptyHeadless,
    /// Reverse lookups of addresses in here never go upstream.
    pub own_networks: Vec<IpNetwork>,
    /// Namespace and name of the service that this server is behind: the zone's name server.
    pub dns_service: (String, String),
}

impl Zone {
    /// `origin` must have ASCII labels; it is taken as fully qualified.
    pub fn new(mut origin: Name, ttl: u32) -> Self {
        origin.set_fqdn(true);
        let labels = origin.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase());
        Zone {
            labels: labels.collect(),
            origin,
            ttl,
            pod_records: PodRecords::default(),
            empty_headless: EmptyHeadless::default(),
            own_networks: vec![],
            dns_service: ("kube-system".into(), "kube-dns".into()),
        }
    }

    pub fn origin(&self) -> &Name {
        &self.origin
    }

    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    pub fn owns(&self, address: IpAddr) -> bool {
        self.own_networks.iter().any(|network| network.contains(address))
    }

    /// The name of `labels` below the origin; the origin itself if that would be no valid name.
    pub fn name_of(&self, labels: &[&str]) -> Name {
        Name::from_labels(labels.iter().map(|label| label.as_bytes()))
            .and_then(|name| name.append_domain(&self.origin))
            .unwrap_or_else(|_| self.origin.clone())
    }

    /// The zone's start of authority, also the sign of a negative answer (RFC 2308).
    pub fn soa(&self, serial: u32) -> Record {
        let soa = SOA::new(
            self.name_of(&["ns", "dns"]),
            self.name_of(&["hostmaster"]),
            serial,
            SOA_REFRESH,
            SOA_RETRY,
            SOA_EXPIRE,
            self.ttl,
        );
        Record::from_rdata(self.origin.clone(), self.ttl, RData::SOA(soa))
    }
}
