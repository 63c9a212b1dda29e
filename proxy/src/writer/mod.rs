//! The one writer of the service table: it takes what the sources say, in transactions, and turns it
//! into rows, one for each service port and family.
//!
//! Nothing is written until every source has told its whole state once: a service without its
//! slices looks like a service without endpoints, and refusing its clients would break what the
//! agent before us has left running. From then on a transaction is applied at once and touches only
//! the services that it names.

mod claims;
mod derive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use crate::model::{Family, NodeView, ObjectName, Protocol, ServiceConfig, ServicePortName, Slice};
use crate::select::Policies;
use crate::table::Table;
use claims::Claims;

/// Desired state: what the kernel shall hold.
pub type ServiceTable = Table<ServicePortName, ServicePort>;

/// What a frontend's address is, which decides the policy that its traffic is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

/// An address that clients may use for a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    pub kind: FrontendKind,
    /// None for a node port: all of the node's addresses.
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// A backend of a service port and its endpoint's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub address: SocketAddr,
    pub condition: crate::model::Condition,
    /// Runs on this node.
    pub local: bool,
}

/// A row: all that the kernel must know of one service port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePort {
    /// Sorted; each belongs to no other row.
    pub frontends: Box<[Frontend]>,
    /// Sorted by address; not all of them are reachable.
    pub backends: Box<[Backend]>,
    /// Indices into `backends`: see [`crate::select::Reachable`].
    pub cluster: Box<[u32]>,
    pub local: Box<[u32]>,
    pub policies: Policies,
    /// 0 for none.
    pub affinity_seconds: u32,
    /// Sorted; who may use the load balancer's addresses, empty for all.
    pub source_ranges: Box<[IpNetwork]>,
}

/// The kinds of source, each of which must have told its whole state before rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Services,
    Slices,
    Node,
}

/// One fact from a source.
#[derive(Debug, Clone)]
pub enum Update {
    Service(ObjectName, ServiceConfig),
    ServiceGone(ObjectName),
    Slice(ObjectName, Slice),
    SliceGone(ObjectName),
    Node(NodeView),
    /// When the change happened that the transaction tells of: for metrics only.
    Triggered(SystemTime),
    /// All of this source's present state has been told.
    Synced(Source),
}

/// What a load balancer's health check of a service asks this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub service: ObjectName,
    pub port: u16,
    pub local_ready: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Writer {
    node: NodeView,
    unsynced: Unsynced,
    services: HashMap<ObjectName, ServiceConfig>,
    slices: HashMap<ObjectName, Slice>,
    /// The slices of each service, by the service's name.
    by_service: HashMap<ObjectName, Vec<ObjectName>>,
    claims: Claims,
    rows_of: HashMap<ObjectName, Box<[ServicePortName]>>,
    health: BTreeMap<ObjectName, HealthCheck>,
    health_changed: bool,
    table: ServiceTable,
}

#[derive(Debug)]
struct Unsynced(HashSet<Source>);

impl Default for Unsynced {
    fn default() -> Self {
        Self(HashSet::from([Source::Services, Source::Slices, Source::Node]))
    }
}

impl Writer {
    pub fn table(&self) -> &ServiceTable {
        &self.table
    }

    /// The reconciler's way to report statuses; rows themselves are the writer's alone.
    pub fn table_mut(&mut self) -> &mut ServiceTable {
        &mut self.table
    }

    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// Every source has told its whole state: what the table lacks now may be pruned.
    pub fn is_synced(&self) -> bool {
        self.unsynced.0.is_empty()
    }

    /// Applies one transaction: all of it, before anybody sees a row of it.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        let was_synced = self.is_synced();
        let mut dirty = HashSet::new();
        let mut all = false;
        for update in updates {
            match update {
                Update::Node(node) => {
                    all |= self.node != node;
                    self.node = node;
                }
                Update::Synced(source) => {
                    self.unsynced.0.remove(&source);
                }
                other => self.record(other, &mut dirty),
            }
        }
        if !self.is_synced() {
            return;
        }
        if all || !was_synced {
            dirty.extend(self.services.keys().cloned());
        }
        self.rewrite(dirty);
    }

    /// Every health check that load balancers may ask this node for, if any of them changed since
    /// the last call.
    pub fn changed_health_checks(&mut self) -> Option<Vec<HealthCheck>> {
        std::mem::take(&mut self.health_changed).then(|| self.health.values().cloned().collect())
    }

    fn record(&mut self, update: Update, dirty: &mut HashSet<ObjectName>) {
        match update {
            Update::Service(name, config) => {
                if self.services.get(&name) != Some(&config) {
                    dirty.insert(name.clone());
                    self.services.insert(name, config);
                }
            }
            Update::ServiceGone(name) => {
                self.services.remove(&name);
                dirty.insert(name);
            }
            Update::Slice(name, slice) => {
                if self.slices.get(&name) == Some(&slice) {
                    return;
                }
                self.unlink_slice(&name, dirty);
                dirty.insert(slice.service.clone());
                // Most services have one slice.
                let names = self.by_service.entry(slice.service.clone());
                names.or_insert_with(|| Vec::with_capacity(1)).push(name.clone());
                self.slices.insert(name, slice);
            }
            Update::SliceGone(name) => self.unlink_slice(&name, dirty),
            Update::Node(_) | Update::Synced(_) | Update::Triggered(_) => {}
        }
    }

    fn unlink_slice(&mut self, name: &ObjectName, dirty: &mut HashSet<ObjectName>) {
        let Some(slice) = self.slices.remove(name) else { return };
        if let Some(names) = self.by_service.get_mut(&slice.service) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.by_service.remove(&slice.service);
            }
        }
        dirty.insert(slice.service);
    }

    fn slices_of<'a>(&'a self, service: &ObjectName) -> impl Iterator<Item = &'a Slice> + Clone {
        let names = self.by_service.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name))
    }

    /// Rewrites the rows of these services, and of those whose claims move because of them.
    fn rewrite(&mut self, mut dirty: HashSet<ObjectName>) {
        let mut moved = HashSet::new();
        for service in &dirty {
            let config = self.services.get(service);
            let wanted = config.map(derive::claims_of).unwrap_or_default();
            let created = config.map_or(0, |config| config.created);
            self.claims.set(service, created, wanted, &mut moved);
        }
        dirty.extend(moved);
        for service in &dirty {
            self.write_rows(service);
            self.check_health(service);
        }
    }

    fn check_health(&mut self, service: &ObjectName) {
        let config = self.services.get(service).filter(|s| s.health_check_node_port != 0);
        let check = config.map(|config| HealthCheck {
            service: service.clone(),
            port: config.health_check_node_port,
            local_ready: derive::local_ready(self.slices_of(service), &self.node),
        });
        if self.health.get(service) != check.as_ref() {
            self.health_changed = true;
            match check {
                Some(check) => self.health.insert(service.clone(), check),
                None => self.health.remove(service),
            };
        }
    }

    fn write_rows(&mut self, service: &ObjectName) {
        let rows = match self.services.get(service) {
            Some(config) => {
                let slices = self.slices_of(service);
                derive::rows(service, config, slices, &self.node, &self.claims)
            }
            None => Vec::new(),
        };
        let names: Box<[ServicePortName]> = rows.iter().map(|(name, _)| name.clone()).collect();
        let old = match names.is_empty() {
            true => self.rows_of.remove(service),
            false => self.rows_of.insert(service.clone(), names.clone()),
        };
        for name in old.iter().flatten().filter(|name| !names.contains(name)) {
            self.table.delete(name);
        }
        for (name, row) in rows {
            self.table.upsert(name, row);
        }
    }
}

/// A frontend as clients name it: what two service ports can't both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendAddress {
    /// None for a node port.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    /// Tells the two families' wildcards of a node port apart.
    pub family: Family,
}
