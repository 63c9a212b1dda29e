//! The node's lease: the cheap sign of life.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;

use crate::context::Context;
use bowline_api::chain::chain;

const NAMESPACE: &str = "kube-node-lease";
const RETRY: Duration = Duration::from_millis(500);

/// Renews the lease until shutdown.
pub async fn run(ctx: Arc<Context>) {
    let client = ctx.config.client.clone();
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let mut lease: Option<Lease> = None;
    loop {
        let limit = ctx.config.lease_period;
        let renewed = tokio::time::timeout(limit, renew(&ctx, &api, &nodes, lease.take())).await;
        let wait = match renewed {
            Ok(Ok(new)) => {
                lease = Some(new);
                ctx.config.lease_period
            }
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), "the lease could not be renewed");
                RETRY.min(ctx.config.lease_period)
            }
            Err(_) => RETRY.min(ctx.config.lease_period),
        };
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(
    ctx: &Context,
    api: &Api<Lease>,
    nodes: &Api<Node>,
    held: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let name = &ctx.config.node_name;
    let old = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: i32::try_from(ctx.config.lease_duration.as_secs()).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let params = PostParams::default();
    if let Some(mut lease) = old {
        lease.spec = Some(spec);
        return api.replace(name, &params, &lease).await;
    }
    let owner = nodes.get_opt(name).await?.and_then(|n| n.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    api.create(&params, &lease).await
}
