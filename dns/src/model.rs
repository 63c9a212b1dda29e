//! Objects in, views out: keeps what the sources told, and the view that follows from it.
//!
//! Pure and synchronous. A change recomputes its own service and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use hickory_proto::rr::Name;

use crate::{
    name::dash,
    objects::{self, EndpointSlice, SERVICE_NAME},
    view::{Endpoint, Port, Service, ZoneView},
};

/// What a source tells of one kind of object.
#[derive(Debug, Clone)]
pub enum Event<T> {
    Apply(T),
    Delete(T),
    /// All that there is: what is not in it is gone.
    Replace(Vec<T>),
}

#[derive(Debug, Clone)]
pub enum Change {
    Services(Event<objects::Service>),
    Slices(Event<EndpointSlice>),
}

/// Namespace and name of the Service of the cluster's API.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

type Key = (Arc<str>, Arc<str>);

/// A service's spec and the endpoints that its slices hold.
#[derive(Default)]
struct Entry {
    spec: Option<objects::ServiceSpec>,
    slices: BTreeMap<Arc<str>, Slice>,
}

struct Slice {
    endpoints: Vec<objects::Endpoint>,
    ports: Arc<[Port]>,
}

#[derive(Default)]
pub struct Model {
    view: ZoneView,
    entries: HashMap<Key, Entry>,
    /// To which service a slice belongs, by the slice's namespace and name.
    slice_owners: HashMap<Key, Arc<str>>,
    services_synced: bool,
    slices_synced: bool,
}

impl Model {
    /// Whether each kind has been told whole at least once.
    pub fn is_synced(&self) -> bool {
        self.services_synced && self.slices_synced
    }

    /// The view as of now.
    pub fn view(&self) -> &ZoneView {
        &self.view
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Services(Event::Apply(service)) => self.set_service(service),
            Change::Services(Event::Delete(service)) => {
                if let Some(key) = key_of(&service.metadata) {
                    self.remove_service(&key);
                }
            }
            Change::Services(Event::Replace(all)) => {
                let named: std::collections::HashSet<Key> =
                    all.iter().filter_map(|service| key_of(&service.metadata)).collect();
                let gone: Vec<Key> = self
                    .entries
                    .iter()
                    .filter(|(key, entry)| entry.spec.is_some() && !named.contains(*key))
                    .map(|(key, _)| key.clone())
                    .collect();
                all.into_iter().for_each(|service| self.set_service(service));
                gone.iter().for_each(|key| self.remove_service(key));
                self.services_synced = true;
            }
            Change::Slices(Event::Apply(slice)) => self.set_slice(slice),
            Change::Slices(Event::Delete(slice)) => {
                if let Some(key) = key_of(&slice.metadata) {
                    self.remove_slice(&key);
                }
            }
            Change::Slices(Event::Replace(all)) => {
                let named: std::collections::HashSet<Key> =
                    all.iter().filter_map(|slice| key_of(&slice.metadata)).collect();
                let gone: Vec<Key> =
                    self.slice_owners.keys().filter(|key| !named.contains(*key)).cloned().collect();
                all.into_iter().for_each(|slice| self.set_slice(slice));
                gone.iter().for_each(|key| self.remove_slice(key));
                self.slices_synced = true;
            }
        }
    }

    fn set_service(&mut self, service: objects::Service) {
        let Some(key) = key_of(&service.metadata) else { return };
        if (&*key.0, &*key.1) == API_SERVICE
            && let Some(uid) = &service.metadata.uid
        {
            self.view.cluster_id = uid.to_ascii_lowercase().into();
        }
        self.entries.entry(key.clone()).or_default().spec = Some(service.spec);
        self.recompute(&key);
    }

    fn remove_service(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.spec = None;
        }
        self.recompute(key);
    }

    fn set_slice(&mut self, slice: EndpointSlice) {
        let Some(key) = key_of(&slice.metadata) else { return };
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let owner: Option<Arc<str>> = label.map(|name| name.as_str().into());
        if self.slice_owners.get(&key) != owner.as_ref() {
            self.remove_slice(&key);
        }
        let Some(owner) = owner else { return };
        let service = (Arc::clone(&key.0), Arc::clone(&owner));
        let ports = slice.ports.iter().filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            Some(new_port(port.name.as_deref().unwrap_or_default(), protocol, port.port?))
        });
        let kept = Slice { ports: ports.collect(), endpoints: slice.endpoints };
        self.entries.entry(service.clone()).or_default().slices.insert(Arc::clone(&key.1), kept);
        self.slice_owners.insert(key, owner);
        self.recompute(&service);
    }

    fn remove_slice(&mut self, key: &Key) {
        let Some(owner) = self.slice_owners.remove(key) else { return };
        let service = (Arc::clone(&key.0), owner);
        if let Some(entry) = self.entries.get_mut(&service) {
            entry.slices.remove(&key.1);
        }
        self.recompute(&service);
    }

    fn recompute(&mut self, key: &Key) {
        let service = match self.entries.get(key) {
            None => None,
            Some(entry) if entry.spec.is_none() && entry.slices.is_empty() => {
                self.entries.remove(key);
                None
            }
            Some(entry) => entry.spec.as_ref().map(|spec| service(spec, &entry.slices)),
        };
        self.view.set(&key.0, &key.1, service);
    }
}

fn key_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Key> {
    let lower = |text: &String| Arc::from(text.to_ascii_lowercase());
    Some((meta.namespace.as_ref().map(lower)?, meta.name.as_ref().map(lower)?))
}

fn new_port(name: &str, protocol: &str, number: u16) -> Port {
    let lower = |text: &str| text.to_ascii_lowercase().into_boxed_str();
    Port { name: lower(name), protocol: lower(protocol), number }
}

fn service(spec: &objects::ServiceSpec, slices: &BTreeMap<Arc<str>, Slice>) -> Service {
    if spec.kind == "ExternalName" {
        return match external(&spec.external_name) {
            Some(target) => Service::External { target },
            // Nothing to lead to: the name exists and holds nothing.
            None => Service::ClusterIp { addresses: vec![], ports: vec![] },
        };
    }
    if spec.cluster_ip == "None" {
        return Service::Headless { endpoints: published(spec, slices) };
    }
    let mut texts: Vec<&String> = spec.cluster_ips.iter().collect();
    if texts.is_empty() {
        texts.push(&spec.cluster_ip);
    }
    let ports = spec.ports.iter().map(|port| new_port(&port.name, &port.protocol, port.port));
    Service::ClusterIp {
        addresses: texts.iter().filter_map(|text| text.parse().ok()).collect(),
        ports: ports.collect(),
    }
}

fn external(text: &str) -> Option<Name> {
    if text.is_empty() {
        return None;
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn published(spec: &objects::ServiceSpec, slices: &BTreeMap<Arc<str>, Slice>) -> Vec<Endpoint> {
    let mut published: Vec<Endpoint> = vec![];
    for slice in slices.values() {
        let ready = slice.endpoints.iter().filter(|endpoint| {
            spec.publish_not_ready_addresses || endpoint.conditions.ready.unwrap_or(true)
        });
        for endpoint in ready {
            published.extend(endpoint.addresses.iter().map(|address| Endpoint {
                hostname: hostname(endpoint, *address),
                address: *address,
                ports: Arc::clone(&slice.ports),
            }));
        }
    }
    // While endpoints move between slices, both may hold one.
    published.sort_by(|a, b| (a.address, &a.hostname).cmp(&(b.address, &b.hostname)));
    published.dedup();
    published
}

fn hostname(endpoint: &objects::Endpoint, address: IpAddr) -> Arc<str> {
    match &endpoint.hostname {
        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase().into(),
        _ => dash(address).into(),
    }
}

#[cfg(test)]
mod tests;
