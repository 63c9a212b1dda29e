//! The data that queries are answered from: an immutable view of the cluster's services.
//!
//! A view is built off the path of queries and shared behind an `Arc`. Copies are cheap: they share
//! every namespace that did not change.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use hickory_proto::rr::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A named or nameless port of a service or an endpoint. Both strings are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Empty for a port without a name.
    pub name: Box<str>,
    /// `tcp`, `udp` or `sctp`
    pub protocol: Box<str>,
    pub number: u16,
}

/// One address of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The hostname given, or the dashed address.
    pub hostname: Arc<str>,
    pub address: IpAddr,
    pub ports: Arc<[Port]>,
}

/// What a service's name leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Addresses that stand for the service.
    ClusterIp { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// The endpoints themselves. Only those that may be published.
    Headless { endpoints: Vec<Endpoint> },
    /// Another name.
    External {
        #[serde(serialize_with = "name_to_text", deserialize_with = "name_of_text")]
        target: Name,
    },
}

fn name_to_text<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&name.to_ascii())
}

fn name_of_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    let text = String::deserialize(deserializer)?;
    Name::from_ascii(text).map_err(serde::de::Error::custom)
}

/// Whom an address belongs to: a service, or with a hostname, an endpoint of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub namespace: Arc<str>,
    pub service: Arc<str>,
    pub hostname: Option<Arc<str>>,
}

type Services = HashMap<Arc<str>, Arc<Service>>;

/// All services, by namespace and name, and all addresses.
#[derive(Debug, Clone, Default)]
pub struct ZoneView {
    /// Serial of the zone: grows with every view that is published.
    pub serial: u32,
    /// What tells this cluster from every other: the UID of its API's own Service. Empty while unknown.
    pub cluster_id: Arc<str>,
    namespaces: HashMap<Arc<str>, Arc<Services>>,
    owners: HashMap<IpAddr, Vec<Owner>>,
}

impl ZoneView {
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.namespaces.get(namespace)?.get(name).map(AsRef::as_ref)
    }

    /// Whether any service is in the namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Whose address this is; the endpoint of several services has several owners.
    pub fn owners(&self, address: IpAddr) -> &[Owner] {
        self.owners.get(&address).map_or(&[], Vec::as_slice)
    }

    /// All services with their namespaces and names, in no order.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<Service>)> {
        self.namespaces.iter().flat_map(|(namespace, services)| {
            services.iter().map(move |(name, service)| (namespace, name, service))
        })
    }

    pub fn len(&self) -> usize {
        self.namespaces.values().map(|services| services.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Sets or (`None`) removes a service, with its addresses.
    pub fn set(&mut self, namespace: &Arc<str>, name: &Arc<str>, service: Option<Service>) {
        let old = self.namespaces.get(namespace).and_then(|services| services.get(name)).cloned();
        if old.as_deref() == service.as_ref() {
            return;
        }
        if let Some(old) = old {
            for (address, _) in addresses_of(&old) {
                self.disown(address, namespace, name);
            }
        }
        match service {
            Some(service) => {
                for (address, hostname) in addresses_of(&service) {
                    let owner = Owner {
                        namespace: Arc::clone(namespace),
                        service: Arc::clone(name),
                        hostname,
                    };
                    let owners = self.owners.entry(address).or_default();
                    if let Err(place) = owners.binary_search(&owner) {
                        owners.insert(place, owner);
                    }
                }
                let services = self.namespaces.entry(Arc::clone(namespace)).or_default();
                Arc::make_mut(services).insert(Arc::clone(name), Arc::new(service));
            }
            None => self.remove(namespace, name),
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        if let Some(services) = self.namespaces.get_mut(namespace) {
            let services = Arc::make_mut(services);
            services.remove(name);
            if services.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }

    fn disown(&mut self, address: IpAddr, namespace: &str, name: &str) {
        if let Some(owners) = self.owners.get_mut(&address) {
            owners.retain(|owner| *owner.namespace != *namespace || *owner.service != *name);
            if owners.is_empty() {
                self.owners.remove(&address);
            }
        }
    }
}

fn addresses_of(service: &Service) -> Vec<(IpAddr, Option<Arc<str>>)> {
    match service {
        Service::ClusterIp { addresses, .. } => {
            addresses.iter().map(|address| (*address, None)).collect()
        }
        Service::Headless { endpoints } => endpoints
            .iter()
            .map(|endpoint| (endpoint.address, Some(Arc::clone(&endpoint.hostname))))
            .collect(),
        Service::External { .. } => vec![],
    }
}
