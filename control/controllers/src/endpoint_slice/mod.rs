//! Keeps the endpoint slices of every service with a selector: what proxies and DNS read.
//!
//! A pod's change reaches its slices in one pass without a fixed delay; changes that come while a
//! pass runs are taken together by the next.

mod desired;
mod diff;
mod legacy;
pub(crate) mod mirror;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bowline_api::informer::{Change, Informer, Key};
use bowline_api::matching;
use bowline_api::names::{
    LABEL_ENDPOINT_SLICE_MANAGED_BY, LABEL_HEADLESS_SERVICE, LABEL_SERVICE_NAME, LABEL_ZONE,
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};

use self::desired::Group;
use crate::context::{Context, Error, Reconciled, is_code};
use crate::owners::{controller_reference, controls};
use crate::pods;
use crate::queue::Queue;

const MANAGER: &str = "endpointslice-controller.k8s.io";
/// When the change that the object shows happened; proxies measure their latency from it.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Keys are services.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.services.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.pods.on_change(move |change| {
        if let Some(context) = weak.upgrade()
            && matters(change)
        {
            services_of(&context, change).into_iter().for_each(|key| adds.add(key));
        }
    });
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.nodes.on_change(move |change| {
        let zone = |node: &Arc<Node>| node.labels().get(LABEL_ZONE).cloned();
        let (old, new) = (change.old.as_ref().and_then(zone), change.new.as_ref().and_then(zone));
        if let Some(context) = weak.upgrade()
            && old != new
        {
            let services = context.caches.services.keys();
            services.iter().for_each(|key| adds.add(Key::clone(key)));
        }
    });
    // Endpoints whose service went while nobody looked are noticed by themselves.
    let (adds, weak) = (queue.clone(), Arc::downgrade(context));
    context.caches.endpoints.on_change(move |change| {
        let key = Key::of(change.object().as_ref());
        if let (Some(context), Some(_)) = (weak.upgrade(), &change.new)
            && context.caches.services.get(&key).is_none()
        {
            adds.add(key);
        }
    });
    // Someone else's edits of our slices are undone.
    let adds = queue.clone();
    context.caches.slices.on_change(move |change| {
        let slice = change.object();
        if is_ours(slice)
            && let Some(service) = slice.labels().get(LABEL_SERVICE_NAME)
        {
            adds.add(Key::new(slice.namespace().unwrap_or_default(), service.as_str()));
        }
    });
    queue
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(LABEL_ENDPOINT_SLICE_MANAGED_BY).is_some_and(|by| by == MANAGER)
}

/// Whether a pod's change shows in endpoints.
fn matters(change: &Change<Pod>) -> bool {
    let shown = |pod: &Arc<Pod>| {
        let status = pod.status.as_ref();
        let spec = pod.spec.as_ref();
        (
            status.map(|status| (status.pod_ip.clone(), status.pod_ips.clone())),
            pods::is_ready(pod),
            desired::is_candidate(pod),
            pod.metadata.deletion_timestamp.is_some(),
            pod.metadata.labels.clone(),
            spec.map(|spec| (spec.hostname.clone(), spec.subdomain.clone())),
            pod.metadata.uid.clone(),
        )
    };
    change.old.as_ref().map(shown) != change.new.as_ref().map(shown)
}

/// Index of services by one label that their pods must have.
const SELECTOR: &str = "selector";

pub(crate) fn index(services: &Informer<Service>) {
    services.index(SELECTOR, |service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let first = selector.and_then(BTreeMap::first_key_value);
        let namespace = service.namespace().unwrap_or_default();
        first.map(|(label, value)| wanted_label(&namespace, label, value)).into_iter().collect()
    });
}

fn wanted_label(namespace: &str, label: &str, value: &str) -> String {
    format!("{namespace}/{label}={value}")
}

fn services_of(context: &Context, change: &Change<Pod>) -> HashSet<Key> {
    let mut keys = HashSet::new();
    for pod in change.sides() {
        let (namespace, labels) =
            (pod.namespace().unwrap_or_default(), pod.metadata.labels.as_ref());
        for (label, value) in labels.into_iter().flatten() {
            let some = wanted_label(&namespace, label, value);
            let mut services = context.caches.services.by(SELECTOR, &some);
            services.retain(|service| {
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                matching::selects_map(selector, labels)
            });
            keys.extend(services.iter().map(|service| Key::of(service.as_ref())));
        }
    }
    keys
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(service) = context.caches.services.get(&key) else {
        // The slices of a deleted service are their owner's collector's; Endpoints have no owner.
        return legacy::remove(&context, &key).await.map(|()| None);
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let Some(spec) = &service.spec else { return Ok(None) };
    let mut existing = context.caches.slices.by("service", &key.to_string());
    // Slices of an earlier service of this name are not ours: they go with it.
    existing.retain(|slice| {
        is_ours(slice)
            && slice.metadata.deletion_timestamp.is_none()
            && controls(service.as_ref(), slice.as_ref())
    });
    if spec.type_.as_deref() == Some("ExternalName") {
        for slice in existing {
            delete(&context, &slice).await?;
        }
        return Ok(None);
    }
    // Without a selector the endpoints are the user's.
    let Some(selector) = spec.selector.as_ref().filter(|one| !one.is_empty()) else {
        return Ok(None);
    };
    let mut pods = context.caches.pods.in_namespace(&key.namespace);
    pods.retain(|pod| matching::selects_map(Some(selector), pod.metadata.labels.as_ref()));
    let nodes: HashMap<String, Arc<Node>> = pods
        .iter()
        .filter_map(|pod| context.caches.nodes.named(pods::node(pod)))
        .map(|node| (node.name_any(), node))
        .collect();
    let wanted = desired::endpoints(&service, &pods, &nodes);
    let plan = diff::plan(wanted, existing, &desired::address_types(&service));
    let writer =
        Writer { context: &context, service: &service, trigger: trigger_time(&service, &pods) };
    writer.write(plan).await?;
    legacy::write(&context, &service, &pods, writer.trigger).await?;
    Ok(None)
}

/// The latest change that we know the time of: a pod became ready or unready, or the service was
/// made.
fn trigger_time(service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
    let ready = pods.iter().filter_map(|pod| {
        pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0)
    });
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    ready.chain(created).max()
}

struct Writer<'c> {
    context: &'c Context,
    service: &'c Service,
    trigger: Option<Timestamp>,
}

impl Writer<'_> {
    /// Additions go before removals, so that an endpoint that moves is never in no slice.
    async fn write(&self, plan: diff::Diff) -> Result<(), Error> {
        let creates = plan.create.into_iter().map(|(group, list)| self.create(group, list));
        for result in join_all(creates).await {
            result?;
        }
        let updates = plan.update.into_iter().map(|(slice, list)| self.update(slice, Some(list)));
        for result in join_all(updates).await {
            result?;
        }
        for slice in plan.keep {
            self.update(slice, None).await?;
        }
        for slice in plan.delete {
            delete(self.context, &slice).await?;
        }
        Ok(())
    }

    fn api(&self) -> Api<EndpointSlice> {
        let namespace = self.service.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.service.labels().clone();
        labels.remove(LABEL_HEADLESS_SERVICE);
        labels.insert(LABEL_SERVICE_NAME.to_owned(), self.service.name_any());
        labels.insert(LABEL_ENDPOINT_SLICE_MANAGED_BY.to_owned(), MANAGER.to_owned());
        if desired::is_headless(self.service) {
            labels.insert(LABEL_HEADLESS_SERVICE.to_owned(), String::new());
        }
        labels
    }

    async fn create(&self, group: Group, endpoints: Vec<Endpoint>) -> Result<(), Error> {
        let mut slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", self.service.name_any())),
                namespace: self.service.namespace(),
                labels: Some(self.labels()),
                owner_references: Some(vec![controller_reference(self.service)]),
                ..Default::default()
            },
            address_type: group.address_type,
            endpoints,
            ports: Some(group.ports.iter().map(desired::Port::to_api).collect()),
        };
        stamp(&mut slice.metadata, self.trigger);
        let created = self.api().create(&PostParams::default(), &slice).await?;
        self.context.caches.slices.observe(created);
        Ok(())
    }

    /// Writes new endpoints, or only what else differs.
    async fn update(
        &self,
        slice: Arc<EndpointSlice>,
        endpoints: Option<Vec<Endpoint>>,
    ) -> Result<(), Error> {
        let labels = self.labels();
        if endpoints.is_none() && slice.metadata.labels.as_ref() == Some(&labels) {
            return Ok(());
        }
        let mut changed = EndpointSlice::clone(&slice);
        changed.metadata.labels = Some(labels);
        stamp(&mut changed.metadata, self.trigger);
        if let Some(endpoints) = endpoints {
            changed.endpoints = endpoints;
        }
        let name = slice.name_any();
        let written = self.api().replace(&name, &PostParams::default(), &changed).await?;
        self.context.caches.slices.observe(written);
        Ok(())
    }
}

async fn delete(context: &Context, slice: &EndpointSlice) -> Result<(), Error> {
    let api: Api<EndpointSlice> =
        Api::namespaced(context.client.clone(), &slice.namespace().unwrap_or_default());
    match api.delete(&slice.name_any(), &DeleteParams::default()).await {
        Ok(_) => {}
        Err(error) if is_code(&error, 404) => {}
        Err(error) => return Err(error.into()),
    }
    context.caches.slices.forget(&Key::of(slice), &slice.uid().unwrap_or_default());
    Ok(())
}

/// Says when the change happened; nothing, when that is not known to be newer than the last one.
pub(crate) fn stamp(meta: &mut ObjectMeta, trigger: Option<Timestamp>) {
    let annotations = meta.annotations.get_or_insert_default();
    let old = annotations.remove(TRIGGER_TIME).and_then(|text| text.parse::<Timestamp>().ok());
    if let Some(trigger) = trigger.filter(|trigger| old.is_none_or(|old| *trigger > old)) {
        annotations.insert(TRIGGER_TIME.to_owned(), trigger.to_string());
    }
    if annotations.is_empty() {
        meta.annotations = None;
    }
}
