//! Tells the API server a pod's status, and in the end that the pod may go.
//!
//! A task of its own for each pod: the API server may be away for hours, and the pod goes on. Only
//! the latest status counts; what was not sent before it is never sent.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::view;
use crate::context::Context;
use crate::source::files;
use bowline_api::chain::chain;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What the API server should know.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub status: Option<Arc<PodStatus>>,
    /// The pod is being deleted and nothing of it is left: remove the object.
    pub delete: bool,
    /// The object no longer exists: nothing is left to tell.
    pub gone: bool,
}

/// The last status that the API server has taken.
pub type Told = watch::Sender<Option<Arc<PodStatus>>>;

/// Sends what `wanted` says until the object is deleted or its sender is dropped.
pub async fn run(
    ctx: Arc<Context>,
    pod: Arc<Pod>,
    mut wanted: watch::Receiver<Wanted>,
    told: Told,
) {
    if ctx.config.standalone {
        let _ = wanted.wait_for(|w| w.gone || w.delete).await;
        return;
    }
    let writer = Writer::new(&ctx, &pod);
    let mut wait = RETRY_FIRST;
    loop {
        let now = wanted.borrow_and_update().clone();
        if now.gone {
            return;
        }
        match writer.send(&now, &told).await {
            Ok(true) => return,
            Ok(false) => wait = RETRY_FIRST,
            Err(error) => {
                tracing::debug!(pod = view::folder(&pod), error = %chain(&error),
                    "the status could not be written, trying again");
                tokio::select! {
                    changed = wanted.wait_for(|w| w.gone) => if changed.is_ok() { return },
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(RETRY_LONGEST);
                continue;
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

struct Writer {
    api: Api<Pod>,
    name: String,
    /// Absent for static pods, whose picture in the API server has a UID of its own.
    uid: Option<String>,
}

impl Writer {
    fn new(ctx: &Context, pod: &Pod) -> Self {
        Self {
            api: Api::namespaced(ctx.config.client.clone(), view::namespace(pod)),
            name: view::name(pod).to_owned(),
            uid: (!files::is_static(pod)).then(|| view::uid(pod).to_owned()),
        }
    }

    /// True when the object is gone.
    async fn send(&self, wanted: &Wanted, told: &Told) -> Result<bool, kube::Error> {
        if let Some(status) = wanted.status.as_ref().filter(|s| told.borrow().as_ref() != Some(*s))
        {
            match self.patch(status).await {
                Err(e) if is_gone(&e) && self.uid.is_some() => return Ok(true),
                other => other?,
            }
            told.send_replace(Some(Arc::clone(status)));
        }
        if !wanted.delete {
            return Ok(false);
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: self
                .uid
                .clone()
                .map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.name, &params).await {
            Err(e) if !is_gone(&e) => Err(e),
            _ => Ok(true),
        }
    }

    async fn patch(&self, status: &PodStatus) -> Result<(), kube::Error> {
        let mut body = json!({"status": with_nulls(status)});
        // These lists merge by address, so an old address would stay beside its successor.
        for list in ["podIPs", "hostIPs"] {
            if let Some(all) = body["status"][list].as_array_mut() {
                all.insert(0, json!({"$patch": "replace"}));
            }
        }
        if let Some(uid) = &self.uid {
            body["metadata"] = json!({"uid": uid});
        }
        let params = PatchParams::default();
        self.api.patch_status(&self.name, &params, &Patch::Strategic(body)).await.map(drop)
    }
}

/// No such object, or one of the same name with another UID.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

/// A patch that also clears what this kubelet owns and the new status lacks. Conditions merge by
/// type, so that those of others stay.
fn with_nulls(status: &PodStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or(Value::Null);
    for key in [
        "message",
        "reason",
        "podIP",
        "podIPs",
        "hostIP",
        "hostIPs",
        "initContainerStatuses",
        "containerStatuses",
        "ephemeralContainerStatuses",
    ] {
        if let Value::Object(map) = &mut body {
            map.entry(key).or_insert(Value::Null);
        }
    }
    if let Some(conditions) = body["conditions"].as_array_mut() {
        for condition in conditions {
            for key in ["reason", "message"] {
                if let Value::Object(map) = condition {
                    map.entry(key).or_insert(Value::Null);
                }
            }
        }
    }
    body
}
