//! Jobs select their pods by their own uid.

use serde_json::{Value, json};

use super::Strategy;
use crate::authn::User;
use crate::object::{self, child};

pub(crate) struct Job;

impl Strategy for Job {
    fn prepare_create(&self, object: &mut Value, _user: &User) {
        let manual = object.pointer("/spec/manualSelector").and_then(Value::as_bool);
        if manual == Some(true) {
            return;
        }
        let (name, uid) = (object::name(object).to_owned(), object::uid(object).to_owned());
        let spec = child(object, "spec");
        spec.insert(
            "selector".into(),
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        );
        let template = object::as_map(spec.entry("template").or_insert(Value::Null));
        let metadata = object::as_map(template.entry("metadata").or_insert(Value::Null));
        let labels = object::as_map(metadata.entry("labels").or_insert(Value::Null));
        for prefix in ["", "batch.kubernetes.io/"] {
            labels.insert(format!("{prefix}controller-uid"), uid.clone().into());
            labels.insert(format!("{prefix}job-name"), name.clone().into());
        }
    }
}
