//! The node's own object: made once, kept true, and its lease.

pub mod facts;
pub mod lease;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use crate::context::Context;
use bowline_api::chain::chain;
use facts::Facts;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How often the node's state is measured and compared with what the server has; it is sent only
/// when they differ.
const MEASURE_PERIOD: Duration = Duration::from_secs(10);

/// Registers the node and keeps its status true until shutdown.
pub async fn run(ctx: Arc<Context>, mut network: watch::Receiver<Option<String>>) {
    let version = ctx.runtime.version().await;
    let runtime = version.map(|v| format!("{}://{}", v.name, v.version)).unwrap_or_default();
    let facts = Facts::read(&ctx, runtime);
    let api: Api<Node> = Api::all(ctx.config.client.clone());
    let mut wait = RETRY_FIRST;
    let mut told = false;
    let mut sent = loop {
        match register(&ctx, &api, &facts).await {
            Ok(status) => break status,
            Err(error) => {
                if !told {
                    tracing::warn!(error = %chain(&error), "the node can't be registered yet");
                    told = true;
                }
                if sleep(&ctx, wait).await.is_none() {
                    return;
                }
                wait = (wait * 2).min(RETRY_LONGEST);
            }
        }
    };
    let mut sent_at = tokio::time::Instant::now();
    loop {
        let missing = network.borrow_and_update().clone();
        match api.get_opt(&ctx.config.node_name).await {
            // Others write it, too: the node controller marks a node that was not heard of.
            Ok(Some(node)) => sent = node.status.unwrap_or_default(),
            // Somebody deleted the node; it is here all the same.
            Ok(None) => sent = register(&ctx, &api, &facts).await.unwrap_or_default(),
            Err(error) => tracing::debug!(error = %chain(&error), "the node could not be read"),
        }
        let status = status::make(&ctx, &facts, missing.as_deref(), &sent, Timestamp::now()).await;
        let due = sent_at.elapsed() >= ctx.config.node_status_period;
        let mut next = MEASURE_PERIOD;
        if due || !status::same(&status, &sent) {
            match patch(&ctx, &api, &status).await {
                Ok(()) => (sent, sent_at) = (status, tokio::time::Instant::now()),
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "the node's status could not be written");
                    next = RETRY_LONGEST.min(RETRY_FIRST * 10);
                }
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            changed = network.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn sleep(ctx: &Context, wait: Duration) -> Option<()> {
    ctx.shutdown.run_until_cancelled(tokio::time::sleep(wait)).await
}

/// Makes the Node, or brings an older one's labels up to date. Returns its last status.
async fn register(
    ctx: &Context,
    api: &Api<Node>,
    facts: &Facts,
) -> Result<NodeStatus, kube::Error> {
    let labels = labels(ctx, facts);
    let mut taints = ctx.config.node_taints.clone();
    // Nothing is scheduled here before the node says that it is ready.
    taints.push(Taint {
        key: bowline_api::names::TAINT_NOT_READY.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    });
    let missing = ctx.network_missing.borrow().clone();
    let status =
        status::make(ctx, facts, missing.as_deref(), &NodeStatus::default(), Timestamp::now())
            .await;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(ctx.config.node_name.clone()),
            labels: Some(labels.clone()),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: ctx.config.provider_id.clone(),
            taints: Some(taints),
            ..NodeSpec::default()
        }),
        status: Some(status),
    };
    match api.create(&PostParams::default(), &node).await {
        // Whether a server takes the status of a new object is its choice: it is sent again.
        Ok(_) => {
            tracing::info!(node = ctx.config.node_name, "the node is registered");
            Ok(NodeStatus::default())
        }
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            let body = json!({"metadata": {"labels": labels}});
            let name = &ctx.config.node_name;
            let old = api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await?;
            Ok(old.status.unwrap_or_default())
        }
        Err(error) => Err(error),
    }
}

fn labels(ctx: &Context, facts: &Facts) -> BTreeMap<String, String> {
    use bowline_api::names::{LABEL_ARCH, LABEL_HOSTNAME, LABEL_OS};
    let mut labels = BTreeMap::from([
        (LABEL_HOSTNAME.to_owned(), ctx.config.node_name.clone()),
        (LABEL_OS.to_owned(), "linux".to_owned()),
        (LABEL_ARCH.to_owned(), facts.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), facts.architecture.clone()),
    ]);
    labels.extend(ctx.config.node_labels.clone());
    labels
}

async fn patch(ctx: &Context, api: &Api<Node>, status: &NodeStatus) -> Result<(), kube::Error> {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    // Addresses merge by type alone, which would mix those of two families.
    if let Some(addresses) = body["addresses"].as_array_mut() {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    let body = json!({"status": body});
    let name = &ctx.config.node_name;
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(body)).await.map(drop)
}
