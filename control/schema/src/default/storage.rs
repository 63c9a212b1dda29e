//! Volumes, claims, classes; namespaces.

use serde_json::json;

use super::fill::{Object, object_at, object_made, text, value};

pub(super) fn namespace(object: &mut Object) {
    // Every namespace carries its name as a label, for selectors of namespaces.
    let Some(metadata) = object_at(object, "metadata") else { return };
    if let Some(name) = metadata.get("name").cloned()
        && let Some(labels) = object_made(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".into(), name);
    }
}

pub(super) fn persistent_volume(object: &mut Object) {
    if let Some(spec) = object_at(object, "spec") {
        text(spec, "persistentVolumeReclaimPolicy", "Retain");
        text(spec, "volumeMode", "Filesystem");
        if let Some(path) = object_at(spec, "hostPath") {
            value(path, "type", "");
        }
    }
}

pub(super) fn persistent_volume_claim(object: &mut Object) {
    if let Some(spec) = object_at(object, "spec") {
        text(spec, "volumeMode", "Filesystem");
        object_made(spec, "resources");
    }
}

pub(super) fn storage_class(object: &mut Object) {
    text(object, "reclaimPolicy", "Delete");
    text(object, "volumeBindingMode", "Immediate");
}

pub(super) fn csi_driver(object: &mut Object) {
    let Some(spec) = object_at(object, "spec") else { return };
    value(spec, "attachRequired", true);
    value(spec, "podInfoOnMount", false);
    value(spec, "storageCapacity", false);
    value(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    value(spec, "volumeLifecycleModes", json!(["Persistent"]));
    value(spec, "requiresRepublish", false);
    value(spec, "seLinuxMount", false);
}
