//! Mirrors the `Endpoints` that users keep for services without a selector into slices, which are
//! all that proxies read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_api::informer::Key;
use bowline_api::names::{LABEL_ENDPOINT_SLICE_MANAGED_BY, LABEL_SERVICE_NAME};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};

use super::desired::{Group, Port};
use super::diff;
use crate::context::{Context, Error, Reconciled, is_code};
use crate::owners::{controller_reference, controls};
use crate::queue::Queue;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Set by users, or by leader election, on Endpoints that are none.
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset beyond this are not mirrored.
const MOST: usize = 1000;

/// Keys are Endpoints, and so services.
pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.endpoints.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let adds = queue.clone();
    context.caches.services.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    queue
}

fn is_mirrored(context: &Context, key: &Key, endpoints: &Endpoints) -> bool {
    let Some(service) = context.caches.services.get(key) else { return false };
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty)
        && endpoints.metadata.deletion_timestamp.is_none()
        && endpoints.labels().get(SKIP_LABEL).is_none_or(|skip| skip != "true")
        && !endpoints.annotations().contains_key(LEADER)
        // The apiserver keeps its own slice beside its Endpoints.
        && !(key.namespace == "default" && key.name == "kubernetes")
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let mut existing = context.caches.slices.by("service", &key.to_string());
    existing.retain(|slice| {
        slice.labels().get(LABEL_ENDPOINT_SLICE_MANAGED_BY).is_some_and(|by| by == MANAGER)
    });
    let endpoints = context.caches.endpoints.get(&key);
    let endpoints = endpoints.filter(|endpoints| is_mirrored(&context, &key, endpoints));
    let wanted = endpoints.as_ref().map(|one| desired(one)).unwrap_or_default();
    if let Some(endpoints) = &endpoints {
        existing.retain(|slice| controls(endpoints.as_ref(), slice.as_ref()));
    }
    let plan = diff::plan(wanted, existing, &[]);
    if let Some(endpoints) = &endpoints {
        for (group, list) in plan.create {
            create(&context, endpoints, group, list).await?;
        }
    }
    for (slice, list) in plan.update {
        update(&context, &slice, list).await?;
    }
    for slice in plan.delete {
        let api = slices(&context, &key.namespace);
        match api.delete(&slice.name_any(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            Err(error) => return Err(error.into()),
        }
        let key = Key::of(slice.as_ref());
        context.caches.slices.forget(&key, &slice.uid().unwrap_or_default());
    }
    Ok(None)
}

fn slices(context: &Context, namespace: &str) -> Api<EndpointSlice> {
    Api::namespaced(context.client.clone(), namespace)
}

fn desired(endpoints: &Endpoints) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|one| (one, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|one| (one, false));
        for (address, ready) in ready.chain(not_ready).take(MOST) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let address_type = if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned();
            let group = Group { address_type, ports: ports(subset) };
            groups.entry(group).or_default().push(endpoint(address, ready));
        }
    }
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let ports = subset.ports.iter().flatten();
    let mut ports: Vec<Port> = ports
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: Some(port.port),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

async fn create(
    context: &Context,
    endpoints: &Endpoints,
    group: Group,
    list: Vec<Endpoint>,
) -> Result<(), Error> {
    let mut labels = endpoints.labels().clone();
    labels.insert(LABEL_SERVICE_NAME.to_owned(), endpoints.name_any());
    labels.insert(LABEL_ENDPOINT_SLICE_MANAGED_BY.to_owned(), MANAGER.to_owned());
    let namespace = endpoints.namespace().unwrap_or_default();
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name_any())),
            namespace: Some(namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..Default::default()
        },
        address_type: group.address_type,
        endpoints: list,
        ports: Some(group.ports.iter().map(Port::to_api).collect()),
    };
    let created = slices(context, &namespace).create(&PostParams::default(), &slice).await?;
    context.caches.slices.observe(created);
    Ok(())
}

async fn update(
    context: &Context,
    slice: &EndpointSlice,
    list: Vec<Endpoint>,
) -> Result<(), Error> {
    let mut changed = slice.clone();
    changed.endpoints = list;
    let api = slices(context, &slice.namespace().unwrap_or_default());
    let written = api.replace(&slice.name_any(), &PostParams::default(), &changed).await?;
    context.caches.slices.observe(written);
    Ok(())
}
