//! The older form of the same: one `Endpoints` object a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_api::informer::Key;
use bowline_api::names::LABEL_HEADLESS_SERVICE;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use super::desired::{self, Port};
use super::stamp;
use crate::context::{Context, Error, is_code};
use crate::pods;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// More than this are cut off, and the annotation says so.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub(super) async fn write(
    context: &Context,
    service: &Service,
    pods: &[Arc<Pod>],
    trigger: Option<Timestamp>,
) -> Result<(), Error> {
    let (subsets, cut) = subsets(service, pods);
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.remove(LABEL_HEADLESS_SERVICE);
    if desired::is_headless(service) {
        labels.insert(LABEL_HEADLESS_SERVICE.to_owned(), String::new());
    }
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let key = Key::of(service);
    let old = context.caches.endpoints.get(&key);
    if let Some(old) = &old
        && old.subsets.clone().filter(|list| !list.is_empty()) == subsets
        && old.metadata.labels.as_ref() == Some(&labels)
    {
        return Ok(());
    }
    let mut metadata = old.as_ref().map_or_else(
        || ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            ..Default::default()
        },
        |old| old.metadata.clone(),
    );
    metadata.labels = Some(labels);
    if cut {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    stamp(&mut metadata, trigger);
    let endpoints = Endpoints { metadata, subsets };
    let api: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
    let parameters = PostParams::default();
    let written = match old {
        Some(_) => api.replace(&key.name, &parameters, &endpoints).await,
        None => api.create(&parameters, &endpoints).await,
    };
    match written {
        Ok(written) => context.caches.endpoints.observe(written),
        // Deleted with its service meanwhile.
        Err(error) if is_code(&error, 404) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Removes the Endpoints that were written for a service which is gone. Those that users keep stay.
pub(super) async fn remove(context: &Context, key: &Key) -> Result<(), Error> {
    let Some(endpoints) = context.caches.endpoints.get(key) else { return Ok(()) };
    if endpoints.labels().get(MANAGED_BY).is_none_or(|by| by != MANAGER) {
        return Ok(());
    }
    let uid = endpoints.uid().unwrap_or_default();
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
        ..Default::default()
    };
    let api: Api<Endpoints> = Api::namespaced(context.client.clone(), &key.namespace);
    match api.delete(&key.name, &parameters).await {
        Ok(_) => {}
        Err(error) if is_code(&error, 404) => {}
        Err(error) => return Err(error.into()),
    }
    context.caches.endpoints.forget(key, &uid);
    Ok(())
}

/// Addresses by the ports that they serve, and whether some were cut off.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let families = desired::address_types(service);
    let family = families.first().map_or("IPv4", String::as_str);
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses);
    let publish = publish == Some(true);
    let mut groups: BTreeMap<Vec<Port>, EndpointSubset> = BTreeMap::new();
    let mut sorted: Vec<_> = pods.iter().filter(|pod| desired::is_candidate(pod)).collect();
    sorted.sort_by_key(|pod| pod.name_any());
    let cut = sorted.len() > MOST;
    sorted.truncate(MOST);
    for pod in sorted {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let Some(ip) = desired::address(pod, family).filter(|_| publish || !leaving) else {
            continue;
        };
        let address = EndpointAddress {
            ip,
            hostname: desired::hostname(service, pod),
            node_name: Some(pods::node(pod).to_owned()),
            target_ref: Some(desired::target(pod)),
        };
        let subset = groups.entry(desired::ports(service, pod)).or_default();
        let ready = publish || pods::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let subset = |(ports, mut subset): (Vec<Port>, EndpointSubset)| {
        let ports: Vec<_> = ports.iter().map(port).collect();
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        subset
    };
    (groups.into_iter().map(subset).collect(), cut)
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.port.unwrap_or(0),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}
