//! Pods that the API server has bound to this node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::view;
use bowline_api::chain::chain;

/// Wait before a broken watch is begun again.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// What became of a pod.
#[derive(Clone, Debug)]
pub enum Change {
    Applied(Arc<Pod>),
    /// The object with this UID no longer exists.
    Gone(String),
    /// The first list is complete: what was not applied before does not exist.
    Synced,
}

/// Sends changes until `shutdown`; a relist tells what has gone meanwhile.
pub async fn watch(
    client: kube::Client,
    node: String,
    to: mpsc::Sender<Change>,
    shutdown: CancellationToken,
) {
    let api: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut known: HashSet<String> = HashSet::new();
    let mut listed = HashSet::new();
    let mut wait = RETRY;
    let mut events = std::pin::pin!(watcher::watcher(api, config));
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let changes = match event {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(error = %chain(&error), "the watch of pods broke, trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LONGEST);
                continue;
            }
            Some(Ok(Event::Init)) => {
                listed.clear();
                Vec::new()
            }
            Some(Ok(Event::InitApply(pod))) => {
                listed.insert(view::uid(&pod).to_owned());
                known.insert(view::uid(&pod).to_owned());
                vec![Change::Applied(Arc::new(pod))]
            }
            Some(Ok(Event::InitDone)) => {
                wait = RETRY;
                let gone: Vec<_> = known.difference(&listed).cloned().collect();
                known.retain(|uid| listed.contains(uid));
                gone.into_iter().map(Change::Gone).chain([Change::Synced]).collect()
            }
            Some(Ok(Event::Apply(pod))) => {
                known.insert(view::uid(&pod).to_owned());
                vec![Change::Applied(Arc::new(pod))]
            }
            Some(Ok(Event::Delete(pod))) => {
                known.remove(view::uid(&pod));
                vec![Change::Gone(view::uid(&pod).to_owned())]
            }
        };
        for change in changes {
            if to.send(change).await.is_err() {
                return;
            }
        }
    }
}
