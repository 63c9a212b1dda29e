//! What a kind does that is not common to all: how an object of it is made ready to be stored.

mod job;
mod pod;
mod service;

use serde_json::{Value, json};

use crate::authn::User;
use crate::object::{self, child, keep};

pub(crate) use job::Job;
pub(crate) use pod::{Pod, is_ready, is_terminal};
pub(crate) use service::Service;

/// The moments of a write in which a kind has a say. All work on the storage version, after
/// decoding, defaulting, and what is common to all kinds (uid, times, generation).
pub(crate) trait Strategy: Send + Sync {
    /// Sets what the client may not choose. The kind's status was removed already.
    fn prepare_create(&self, object: &mut Value, user: &User) {
        let _ = (object, user);
    }

    /// Whether a status given at creation stays.
    fn keeps_status_at_creation(&self) -> bool {
        false
    }

    /// Brings back what an update of the main resource may not change. The status is the old one
    /// already.
    fn prepare_update(&self, old: &Value, new: &mut Value) {
        let _ = (old, new);
    }

    /// Seconds between the request to delete and the removal; `None` removes at once.
    fn deletion_grace(&self, object: &Value, requested: Option<u64>) -> Option<u64> {
        let _ = (object, requested);
        None
    }

    /// Called when an object is marked as being deleted.
    fn mark_deleted(&self, object: &mut Value) {
        let _ = object;
    }

    /// Whether something of the object's own (besides finalizers) still holds it.
    fn holds_deletion(&self, object: &Value) -> bool {
        let _ = object;
        false
    }
}

pub(crate) struct Plain;

impl Strategy for Plain {}

pub(crate) struct Namespace;

impl Strategy for Namespace {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        child(object, "spec").insert("finalizers".into(), json!(["kubernetes"]));
        child(object, "status").insert("phase".into(), "Active".into());
        name_by_label(object);
    }

    fn prepare_update(&self, old: &Value, new: &mut Value) {
        keep(new, "spec", old.get("spec"));
        name_by_label(new);
    }

    fn mark_deleted(&self, object: &mut Value) {
        child(object, "status").insert("phase".into(), "Terminating".into());
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        !object::items(object, "/spec/finalizers").is_empty()
    }
}

/// Selectors find a namespace by its name through this label.
fn name_by_label(namespace: &mut Value) {
    let name = object::name(namespace).to_owned();
    let labels = object::metadata(namespace).entry("labels").or_insert(Value::Null);
    object::as_map(labels).insert("kubernetes.io/metadata.name".into(), name.into());
}

pub(crate) struct Node;

impl Strategy for Node {
    fn keeps_status_at_creation(&self) -> bool {
        true
    }
}

pub(crate) struct Secret;

impl Strategy for Secret {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        fold_string_data(object);
    }

    fn prepare_update(&self, _old: &Value, new: &mut Value) {
        fold_string_data(new);
    }
}

/// `stringData` is a way to write `data` without base64.
fn fold_string_data(secret: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(plain)) = object::as_map(secret).remove("stringData") else { return };
    let data = child(secret, "data");
    for (name, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD
            .encode(value.as_str().unwrap_or_default().as_bytes());
        data.insert(name, encoded.into());
    }
}

pub(crate) struct Claim;

impl Strategy for Claim {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        child(object, "status").insert("phase".into(), "Pending".into());
    }
}

pub(crate) struct Volume;

impl Strategy for Volume {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        child(object, "status").insert("phase".into(), "Pending".into());
    }
}

/// The signer must know who asks: the request says so itself, and nobody may change it.
pub(crate) struct SigningRequest;

impl Strategy for SigningRequest {
    fn prepare_create(&self, object: &mut Value, user: &User) {
        let spec = child(object, "spec");
        spec.insert("username".into(), user.name.clone().into());
        spec.insert("groups".into(), json!(user.groups));
        match &user.uid {
            Some(uid) => spec.insert("uid".into(), uid.clone().into()),
            None => spec.remove("uid"),
        };
        if user.extra.is_empty() {
            spec.remove("extra");
        } else {
            spec.insert("extra".into(), json!(user.extra));
        }
    }

    fn prepare_update(&self, old: &Value, new: &mut Value) {
        keep(new, "spec", old.get("spec"));
    }
}
