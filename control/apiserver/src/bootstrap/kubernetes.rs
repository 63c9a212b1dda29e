//! The Service `default/kubernetes`, its Endpoints and its EndpointSlice: how pods find this
//! server.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_store::{Expect, Operation, StoreError};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::app::App;
use crate::kinds;
use crate::object;

const NAME: &str = "kubernetes";

/// Brings all three to what they should be.
pub(super) async fn keep(app: &App) -> Result<(), StoreError> {
    service(app).await?;
    let address = app.config.advertise_address;
    let port = app.config.listen.port();
    let metadata = json!({"name": NAME, "namespace": "default"});
    put(
        app,
        "",
        "endpoints",
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": with_labels(&metadata, "endpointslice.kubernetes.io/skip-mirror", "true"),
            "subsets": [{"addresses": [{"ip": address.to_string()}],
                         "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
        }),
    )
    .await?;
    put(
        app,
        "discovery.k8s.io",
        "endpointslices",
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": with_labels(&metadata, "kubernetes.io/service-name", NAME),
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }),
    )
    .await
}

fn with_labels(metadata: &Value, label: &str, value: &str) -> Value {
    let mut metadata = metadata.clone();
    metadata["labels"] = json!({ label: value });
    metadata
}

/// The first address of a range is this Service's.
fn first(cidr: &IpNetwork) -> Option<IpAddr> {
    cidr.iter().nth(1)
}

async fn service(app: &App) -> Result<(), StoreError> {
    let prefix = kinds::prefix("", "services");
    let key: Arc<str> = format!("{prefix}default/{NAME}").into();
    let Some(cidr) = app.config.service_cidrs.first() else { return Ok(()) };
    let Some(address) = first(cidr) else { return Ok(()) };
    if app.cache.get(&key).is_some() {
        return Ok(());
    }
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": "default", "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": object::now(),
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()], "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP",
                       "targetPort": app.config.listen.port()}],
        },
        "status": {"loadBalancer": {}},
    });
    let operations = vec![
        Operation::Put { key, value: object::encode(&service), expect: Expect::Absent },
        crate::allocate::claim(address, &service),
    ];
    match app.store.commit(operations).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Stores the object if what is there differs in more than what the server itself sets.
async fn put(app: &App, group: &str, resource: &str, wanted: Value) -> Result<(), StoreError> {
    let key: Arc<str> = format!("{}default/{NAME}", kinds::prefix(group, resource)).into();
    let entry = app.cache.get(&key);
    let old = entry.as_ref().map(|entry| entry.value());
    let mut new = old.clone().unwrap_or_else(|| {
        let mut new = wanted.clone();
        let metadata = object::metadata(&mut new);
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".into(), object::now().into());
        new
    });
    for name in ["subsets", "addressType", "endpoints", "ports"] {
        object::keep(&mut new, name, wanted.get(name));
    }
    if old.as_ref() == Some(&new) {
        return Ok(());
    }
    let expect = entry.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
    let put = Operation::Put { key, value: object::encode(&new), expect };
    match app.store.commit(vec![put]).await {
        // Somebody else wrote it: the next round looks again.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
