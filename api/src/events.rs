//! Tells users what a component did or could not do: Events, as `kubectl describe` shows them.
//!
//! Contract: best effort. Repeats of one (object, reason, message) become one Event with a count;
//! under pressure, or when the apiserver refuses, events are lost and never block the caller.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;

/// Events waiting to be sent; more are dropped.
const WAITING: usize = 1024;
/// Events remembered for counting; when full, all are forgotten and repeats become new Events.
const REMEMBERED: usize = 4096;

/// Whether a user should worry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Occurrence {
    uid: String,
    field: String,
    reason: String,
    message: String,
}

struct Message {
    about: ObjectReference,
    severity: Severity,
    what: Occurrence,
    at: Timestamp,
}

/// Hands events to a task of its own. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Message>,
}

impl Recorder {
    /// Starts the sending task, which ends when the last clone is gone. `host` may be empty.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|host| !host.is_empty()),
        };
        tokio::spawn(send_all(client, source, receiver));
        Self { sender }
    }

    /// Records an event about `object`.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_about(reference(object), severity, reason, message);
    }

    /// Records an event about what `about` names (its `fieldPath` may name a container).
    pub fn event_about(
        &self,
        about: ObjectReference,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let what = Occurrence {
            uid: about.uid.clone().unwrap_or_default(),
            field: about.field_path.clone().unwrap_or_default(),
            reason: reason.to_owned(),
            message: message.into(),
        };
        let message = Message { about, severity, what, at: Timestamp::now() };
        if self.sender.try_send(message).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait to be sent");
        }
    }
}

/// A reference to `object`, as Events and targetRefs carry it.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

async fn send_all(client: Client, source: EventSource, mut receiver: mpsc::Receiver<Message>) {
    let mut sent: HashMap<Occurrence, (String, i32)> = HashMap::new();
    while let Some(message) = receiver.recv().await {
        // Events of cluster-scoped objects live in "default".
        let namespace = message.about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        if let Some((name, count)) = sent.get_mut(&message.what) {
            *count += 1;
            let patch = serde_json::json!({"count": count, "lastTimestamp": Time(message.at)});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => continue,
                Err(error) => {
                    // It expired, most likely: tell it anew.
                    tracing::debug!(%error, "can't count an event up");
                    sent.remove(&message.what);
                }
            }
        }
        let event = new_event(&message, &source, namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if sent.len() >= REMEMBERED {
                    sent.clear();
                }
                sent.insert(message.what, (name, 1));
            }
            Err(error) => tracing::debug!(%error, "can't record an event"),
        }
    }
}

fn new_event(message: &Message, source: &EventSource, namespace: &str) -> Event {
    let object = message.about.name.as_deref().unwrap_or("unknown");
    let at = Time(message.at);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{object}.{:x}", message.at.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: message.about.clone(),
        reason: Some(message.what.reason.clone()),
        message: Some(message.what.message.clone()),
        type_: Some(format!("{:?}", message.severity)),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        count: Some(1),
        ..Default::default()
    }
}
