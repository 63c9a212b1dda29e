//! Watches the API and hands what it says, converted, to the dataplane and to the routes.
//!
//! No event waits: what has arrived goes on at once, in one batch.

pub(crate) mod convert;
mod gate;
mod source;
pub(crate) mod types;

use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch};

use crate::model::ObjectName;
use crate::routes::Peers;
use crate::writer::{Source, Update};
use source::{Batch, Sink};
use types::{EndpointSlice, Service};

pub use types::{Node, Object};

/// The cluster autoscaler's mark on a node that it is about to remove: load balancers leave it.
const TAINT_TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Where the sources' news goes.
#[derive(Clone)]
pub struct Outlets {
    /// Transactions for the writer.
    pub updates: mpsc::Sender<Vec<Update>>,
    /// The cluster's nodes.
    pub peers: watch::Sender<Peers>,
    /// Whether load balancers may send to this node.
    pub eligible: watch::Sender<bool>,
}

/// Runs the three sources until it is dropped. `inherited`: how many service ports an earlier agent
/// had served, against which an empty first list is doubted.
pub async fn run(client: Client, node: Arc<str>, outlets: Outlets, inherited: usize) {
    let services = ServiceSink(outlets.updates.clone());
    let slices = SliceSink(outlets.updates.clone());
    let nodes = NodeSink { node, outlets, peers: Peers::default() };
    tokio::join!(
        source::run::<Service, _>(client.clone(), services, inherited),
        source::run::<EndpointSlice, _>(client.clone(), slices, 0),
        source::run::<Node, _>(client, nodes, 0),
    );
}

struct ServiceSink(mpsc::Sender<Vec<Update>>);

impl Sink<Service> for ServiceSink {
    async fn take(&mut self, batch: Batch<Service>) {
        let gone = batch.gone.into_iter().map(Update::ServiceGone);
        let set = batch.set.iter().map(|object| {
            let name = convert::name_of(object);
            match convert::service(object) {
                Some(config) => Update::Service(name, config),
                None => Update::ServiceGone(name),
            }
        });
        send(&self.0, gone.chain(set), batch.synced, Source::Services).await;
    }
}

struct SliceSink(mpsc::Sender<Vec<Update>>);

impl Sink<EndpointSlice> for SliceSink {
    async fn take(&mut self, batch: Batch<EndpointSlice>) {
        let gone = batch.gone.into_iter().map(Update::SliceGone);
        // What a list tells happened before, and says nothing of our own speed.
        let triggers = batch.set.iter().filter(|_| !batch.synced).filter_map(convert::trigger);
        let set = batch.set.iter().map(|object| {
            let name = convert::name_of(object);
            match convert::slice(object) {
                Some(slice) => Update::Slice(name, slice),
                None => Update::SliceGone(name),
            }
        });
        let all = gone.chain(set).chain(triggers.map(Update::Triggered));
        send(&self.0, all, batch.synced, Source::Slices).await;
    }

    fn weight(&self, object: &EndpointSlice) -> usize {
        object.endpoints.len()
    }
}

struct NodeSink {
    node: Arc<str>,
    outlets: Outlets,
    peers: Peers,
}

impl Sink<Node> for NodeSink {
    async fn take(&mut self, batch: Batch<Node>) {
        let mut updates = Vec::new();
        let mut peers = self.peers.clone();
        for ObjectName { name, .. } in &batch.gone {
            peers.remove(name);
            if *name == self.node {
                tracing::warn!(node = %name, "this node's Node object is gone; its rules stay");
            }
        }
        for object in &batch.set {
            if object.metadata.name == *self.node {
                updates.push(Update::Node(convert::node_view(object)));
                let deleting = object.metadata.deletion_timestamp.is_some();
                let tainted = object.spec.taints.iter().any(|t| t.key == TAINT_TO_BE_DELETED);
                self.outlets.eligible.send_replace(!deleting && !tainted);
            }
            peers.set(object);
        }
        if batch.synced {
            peers.complete = true;
        }
        if peers != self.peers {
            self.peers = peers.clone();
            self.outlets.peers.send_replace(peers);
        }
        let known = self.peers.contains(&self.node);
        if batch.synced && !known {
            tracing::warn!(node = %self.node, "no Node object has this name; check --node-name");
        }
        send(&self.outlets.updates, updates.into_iter(), known, Source::Node).await;
    }
}

/// One transaction. The channel is bounded: a slow dataplane slows the sources down.
async fn send(
    updates: &mpsc::Sender<Vec<Update>>,
    batch: impl Iterator<Item = Update>,
    synced: bool,
    source: Source,
) {
    let batch: Vec<Update> = batch.chain(synced.then_some(Update::Synced(source))).collect();
    if batch.is_empty() {
        return;
    }
    // The receiver goes only when the agent stops.
    let _stopping = updates.send(batch).await;
}
