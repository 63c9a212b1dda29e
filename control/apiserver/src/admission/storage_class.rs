//! A claim without a class gets the default one.

use serde_json::Value;

use crate::kinds;
use crate::object::{self, child, text};
use crate::rest::Call;

const DEFAULT: &str = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";

pub(super) fn apply(call: &Call, claim: &mut Value) {
    if claim.pointer("/spec/storageClassName").is_some() {
        return;
    }
    let all = call.app.cache.all(&kinds::prefix("storage.k8s.io", "storageclasses"));
    let classes = all.iter().map(|entry| entry.value());
    let defaults = classes.filter(|class| text(class, DEFAULT) == "true");
    // The newest of several, as upstream.
    let chosen = defaults.max_by_key(|c| text(c, "/metadata/creationTimestamp").to_owned());
    if let Some(class) = chosen {
        child(claim, "spec").insert("storageClassName".into(), object::name(&class).into());
    }
}
