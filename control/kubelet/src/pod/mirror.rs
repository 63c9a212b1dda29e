//! Mirror pods: the API server's pictures of static pods, so that users and the scheduler see them.
//!
//! A picture is made when it is missing, and made anew when it shows an older manifest. Deleting one
//! does nothing to the pod: only its file does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use super::manager::Pods;
use super::view;
use crate::context::Context;
use crate::source::files::{self, HASH, MIRROR};
use bowline_api::chain::chain;

/// How often the pictures are compared with the pods.
const PERIOD: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the pictures true until shutdown.
pub async fn run(ctx: Arc<Context>, pods: Pods) {
    loop {
        let wait = match reconcile(&ctx, &pods).await {
            Ok(true) => PERIOD,
            Ok(false) => RETRY,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "mirror pods could not be compared");
                RETRY
            }
        };
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// True when nothing had to be done.
async fn reconcile(ctx: &Context, pods: &Pods) -> Result<bool, kube::Error> {
    let client = ctx.config.client.clone();
    let mut wanted: BTreeMap<(String, String), Arc<Pod>> = BTreeMap::new();
    for pod in pods.all().iter().map(super::manager::Handle::pod).filter(|p| files::is_static(p)) {
        wanted.insert((view::namespace(&pod).to_owned(), view::name(&pod).to_owned()), pod);
    }
    let all: Api<Pod> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={}", ctx.config.node_name));
    let mut same = true;
    for mirror in all.list(&params).await?.items.into_iter().filter(files::is_mirror) {
        let key = (view::namespace(&mirror).to_owned(), view::name(&mirror).to_owned());
        let shown = files::annotation(&mirror, MIRROR);
        let current = wanted.get(&key).and_then(|pod| files::annotation(pod, HASH));
        if shown == current && mirror.metadata.deletion_timestamp.is_none() {
            wanted.remove(&key);
            continue;
        }
        same = false;
        let api: Api<Pod> = Api::namespaced(client.clone(), &key.0);
        match api.delete(&key.1, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    let node: Api<Node> = Api::all(client.clone());
    let owner = match wanted.is_empty() {
        true => None,
        false => node.get_opt(&ctx.config.node_name).await?,
    };
    for ((namespace, _), pod) in wanted {
        same = false;
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        api.create(&PostParams::default(), &picture(&pod, owner.as_ref())).await?;
    }
    Ok(same)
}

fn picture(pod: &Pod, owner: Option<&Node>) -> Pod {
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    let annotations = meta.annotations.get_or_insert_default();
    if let Some(hash) = annotations.get(HASH).cloned() {
        annotations.insert(MIRROR.to_owned(), hash);
    }
    meta.owner_references = owner.and_then(|node| {
        Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.metadata.name.clone()?,
            uid: node.metadata.uid.clone()?,
            controller: Some(true),
            ..OwnerReference::default()
        }])
    });
    mirror
}
