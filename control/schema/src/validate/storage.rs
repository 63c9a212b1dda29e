//! Volumes, claims and classes.

use bowline_api::words;

use super::cursor::{Cursor, Errors};
use super::{meta, placement, volume};

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Cursor<'_>, errors: &mut Errors) {
    let modes = spec.field("accessModes");
    if modes.len() == 0 {
        errors.required(&modes, "at least 1 access mode is required");
    }
    for mode in modes.items() {
        errors.one_of(&mode, &ACCESS_MODES);
    }
    let once = modes.items().any(|m| m.is("ReadWriteOncePod"));
    if once && modes.len() > 1 {
        errors.forbidden(&modes, "may not use ReadWriteOncePod with other access modes");
    }
}

/// A `PersistentVolumeClaimSpec`.
pub(super) fn claim(spec: &Cursor<'_>, errors: &mut Errors) {
    access_modes(spec, errors);
    meta::selector(&spec.field("selector"), errors);
    let storage = spec.field("resources").field("requests").key("storage");
    match errors.amount(&storage) {
        None => errors.required(&storage, ""),
        Some(amount) if amount.is_zero() => errors.invalid(&storage, "must be greater than zero"),
        Some(_) => {}
    }
    errors.follows(&spec.field("storageClassName"), words::dns_subdomain);
    errors.one_of(&spec.field("volumeMode"), &["Block", "Filesystem"]);
}

/// A `PersistentVolume`: everything in its spec but these and the volume's mode names a source.
pub(super) const NOT_SOURCES: [&str; 8] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
];

pub(super) fn volume(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    access_modes(&spec, errors);
    let capacity = spec.field("capacity");
    if capacity.value.get("storage").is_none() {
        errors.required(&capacity, "");
    }
    for (name, _) in capacity.entries() {
        errors.amount(&capacity.key(name));
    }
    errors.one_of(&spec.field("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
    errors.one_of(&spec.field("volumeMode"), &["Block", "Filesystem"]);
    errors.follows(&spec.field("storageClassName"), words::dns_subdomain);
    let is_source = |name: &&str| !NOT_SOURCES.contains(name) && *name != "volumeMode";
    let sources: Vec<&str> = spec.entries().map(|(name, _)| name).filter(is_source).collect();
    match sources.as_slice() {
        [] => errors.required(&spec, "must specify a volume type"),
        [one] => {
            if *one == "hostPath" {
                volume::host_path(&spec.field(one), errors);
            }
        }
        [_, more @ ..] => {
            for name in more {
                errors.forbidden(&spec.field(name), "may not specify more than 1 volume type");
            }
        }
    }
    let required = spec.field("nodeAffinity").field("required");
    if !required.value.is_null() {
        placement::node_selector(&required, errors);
    } else if sources.contains(&"local") {
        errors.required(&spec.field("nodeAffinity"), "Local volume requires node affinity");
    }
}

pub(super) fn class(root: &Cursor<'_>, errors: &mut Errors) {
    errors.require_follows(&root.field("provisioner"), words::qualified_name);
    errors.one_of(&root.field("reclaimPolicy"), &["Delete", "Retain"]);
    errors.require_one_of(&root.field("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
}
