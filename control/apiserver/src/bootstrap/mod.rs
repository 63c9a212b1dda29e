//! What every cluster begins with, made if it is not there, and the Service `default/kubernetes`,
//! which this server keeps for as long as it runs.

mod kubernetes;
mod reconcile;
mod roles;

use std::sync::Arc;
use std::time::Duration;

use bowline_store::{Expect, Operation, StoreError};
use serde_json::{Value, json};

use crate::app::App;
use crate::object;
use crate::rest::write;

/// How often `default/kubernetes` is looked after.
const KEEP_EVERY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes the objects, then keeps the Service until the server stops.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        let round = round(&app).await;
        let pause = match round {
            Ok(()) => {
                app.set_ready();
                KEEP_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the objects that every cluster has could not be made");
                RETRY
            }
        };
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(app: &App) -> Result<(), StoreError> {
    for name in NAMESPACES {
        ensure(app, namespace(name)).await?;
    }
    if !app.ready.load(std::sync::atomic::Ordering::Acquire) {
        for class in priority_classes() {
            ensure(app, class).await?;
        }
        for object in roles::all() {
            bring_up_to_date(app, &object).await?;
            ensure(app, object).await?;
        }
        for (index, cidr) in app.config.service_cidrs.iter().enumerate() {
            let name =
                if index == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{index}") };
            ensure(
                app,
                json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                    "metadata": {"name": name}, "spec": {"cidrs": [cidr.to_string()]},
                    "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "",
                        "message": "Kubernetes Service CIDR is ready",
                        "lastTransitionTime": object::now()}]},
                }),
            )
            .await?;
        }
    }
    kubernetes::keep(app).await
}

/// Adds to a role or binding that an older server made what it lacks.
async fn bring_up_to_date(app: &App, wanted: &Value) -> Result<(), StoreError> {
    let gvk = bowline_schema::Gvk::of(wanted);
    let Some(kind) = gvk.and_then(|gvk| app.kinds.of_gvk(&gvk)) else { return Ok(()) };
    let key = kind.key(object::namespace(wanted), object::name(wanted));
    let Some(entry) = app.cache.get(&key) else { return Ok(()) };
    let Some(new) = reconcile::updated(&entry.value(), wanted) else { return Ok(()) };
    let value = object::encode(&new);
    let put = Operation::Put { key: key.into(), value, expect: Expect::At(entry.revision) };
    match app.store.commit(vec![put]).await {
        // Somebody else wrote it just now; the next start looks again.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Stores an object that is not there.
async fn ensure(app: &App, mut object: Value) -> Result<(), StoreError> {
    let gvk = bowline_schema::Gvk::of(&object);
    let Some(kind) = gvk.and_then(|gvk| app.kinds.of_gvk(&gvk)) else { return Ok(()) };
    let key = kind.key(object::namespace(&object), object::name(&object));
    let generation = kind.generation;
    bowline_schema::default::apply(&kind.storage, &mut object);
    let metadata = object::metadata(&mut object);
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), object::now().into());
    if generation {
        metadata.insert("generation".into(), 1.into());
    }
    write::ensure(app, key, &object).await.map(|_| ())
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    })
}

fn priority_classes() -> [Value; 2] {
    [
        ("system-cluster-critical", 2_000_000_000, "cluster"),
        ("system-node-critical", 2_000_001_000, "node"),
    ]
    .map(|(name, value, what)| {
        let description = match what {
            "node" => {
                "Used for system critical pods that must not be moved from their current node."
            }
            _ => {
                "Used for system critical pods that must run in the cluster, but can be moved to \
                 another node if necessary."
            }
        };
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value, "globalDefault": false,
            "description": description,
        })
    })
}
