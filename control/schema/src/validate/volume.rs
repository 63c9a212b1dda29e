//! Volumes of a pod.

use bowline_api::words;

use super::container::{RESOURCE_FIELDS, is_keyed};
use super::cursor::{Cursor, Errors};

/// A volume that mounts may name.
pub(super) struct VolumeName {
    pub name: String,
}

pub(super) fn names(volumes: &Cursor<'_>) -> Vec<VolumeName> {
    volumes.items().map(|v| VolumeName { name: v.field("name").text().to_owned() }).collect()
}

/// Checks the volumes of a pod spec and returns their names.
pub(super) fn volumes(volumes: &Cursor<'_>, errors: &mut Errors) -> Vec<VolumeName> {
    for volume in volumes.items() {
        errors.require_follows(&volume.field("name"), words::dns_label);
        let sources: Vec<&str> =
            volume.entries().map(|(name, _)| name).filter(|name| *name != "name").collect();
        match sources.as_slice() {
            [] => errors.required(&volume, "must specify a volume type"),
            [one] => source(one, &volume.field(one), errors),
            [_, more @ ..] => {
                for name in more {
                    let at = volume.field(name);
                    errors.forbidden(&at, "may not specify more than 1 volume type");
                }
            }
        }
    }
    errors.unique(volumes, "name");
    names(volumes)
}

fn source(kind: &str, at: &Cursor<'_>, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            errors.amount(&at.field("sizeLimit"));
        }
        "hostPath" => host_path(at, errors),
        "configMap" => {
            errors.require(&at.field("name"));
            mode(&at.field("defaultMode"), errors);
            keys_to_paths(&at.field("items"), errors);
        }
        "secret" => {
            errors.require(&at.field("secretName"));
            mode(&at.field("defaultMode"), errors);
            keys_to_paths(&at.field("items"), errors);
        }
        "persistentVolumeClaim" => {
            errors.require(&at.field("claimName"));
        }
        "downwardAPI" => {
            mode(&at.field("defaultMode"), errors);
            downward(&at.field("items"), errors);
        }
        "projected" => projected(at, errors),
        "nfs" => {
            errors.require(&at.field("server"));
            let path = at.field("path");
            if errors.require(&path) && !path.text().starts_with('/') {
                errors.invalid(&path, "must be an absolute path");
            }
        }
        "csi" => {
            errors.require(&at.field("driver"));
        }
        "image" => {
            errors.one_of(&at.field("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        "ephemeral" => {
            let template = at.field("volumeClaimTemplate");
            if template.value.is_null() {
                errors.required(&template, "");
            } else {
                super::storage::claim(&template.field("spec"), errors);
            }
        }
        _ => {}
    }
}

pub(super) fn host_path(at: &Cursor<'_>, errors: &mut Errors) {
    let path = at.field("path");
    if errors.require(&path) {
        no_back_steps(&path, errors);
    }
    errors.one_of(
        &at.field("type"),
        &[
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ],
    );
}

fn no_back_steps(path: &Cursor<'_>, errors: &mut Errors) {
    if path.text().split('/').any(|part| part == "..") {
        errors.invalid(path, "must not contain '..'");
    }
}

fn relative(path: &Cursor<'_>, errors: &mut Errors) {
    if !errors.require(path) {
        return;
    }
    if path.text().starts_with('/') {
        errors.invalid(path, "must be a relative path");
    }
    no_back_steps(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        errors.invalid(path, "must not start with '..'");
    }
}

fn mode(at: &Cursor<'_>, errors: &mut Errors) {
    if at.number().is_some_and(|n| !(0..=0o777).contains(&n)) {
        errors.invalid(at, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn keys_to_paths(items: &Cursor<'_>, errors: &mut Errors) {
    for item in items.items() {
        errors.require(&item.field("key"));
        relative(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
    }
}

fn downward(items: &Cursor<'_>, errors: &mut Errors) {
    for item in items.items() {
        relative(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        if !field.value.is_null() && !resource.value.is_null() {
            errors.invalid(
                &item,
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        } else if !field.value.is_null() {
            let path = field.field("fieldPath");
            if errors.require(&path) && !is_keyed(path.text()) {
                let supported = [
                    "metadata.annotations",
                    "metadata.labels",
                    "metadata.name",
                    "metadata.namespace",
                    "metadata.uid",
                ];
                errors.one_of(&path, &supported);
            }
        } else if !resource.value.is_null() {
            errors.require(&resource.field("containerName"));
            let at = resource.field("resource");
            if errors.require(&at) && !at.text().contains("hugepages-") {
                errors.one_of(&at, &RESOURCE_FIELDS);
            }
        } else {
            errors.required(&field, "one of fieldRef and resourceFieldRef is required");
        }
    }
}

/// The shortest life that a token may ask for, in seconds.
const MIN_TOKEN_SECONDS: i64 = 600;

fn projected(at: &Cursor<'_>, errors: &mut Errors) {
    mode(&at.field("defaultMode"), errors);
    for source in at.field("sources").items() {
        if source.len() > 1 {
            errors.forbidden(&source, "may not specify more than 1 volume type");
        }
        for name in ["configMap", "secret"] {
            let reference = source.field(name);
            if !reference.value.is_null() {
                errors.require(&reference.field("name"));
                keys_to_paths(&reference.field("items"), errors);
            }
        }
        downward(&source.field("downwardAPI").field("items"), errors);
        let token = source.field("serviceAccountToken");
        if !token.value.is_null() {
            relative(&token.field("path"), errors);
            let seconds = token.field("expirationSeconds");
            if seconds.number().is_some_and(|n| n < MIN_TOKEN_SECONDS) {
                errors.invalid(&seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds.number().is_some_and(|n| n > 1 << 32) {
                errors.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
            }
        }
    }
}
