//! Volumes, claims and their classes.

use serde_json::Value;

use super::Cells;
use super::cell::{NONE, Row, UNSET, text_of, texts};

pub(super) fn layout(kind: &str) -> Option<(&'static str, Cells)> {
    Some(match kind {
        "PersistentVolume" => (
            "Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass\
             |VolumeAttributesClass|Reason|Age|VolumeMode+",
            volume,
        ),
        "PersistentVolumeClaim" => (
            "Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age\
             |VolumeMode+",
            claim,
        ),
        "StorageClass" => (
            "Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age",
            storage_class,
        ),
        "CSIDriver" => (
            "Name|AttachRequired|PodInfoOnMount|StorageCapacity|TokenRequests|RequiresRepublish\
             |Modes|Age",
            driver,
        ),
        "CSINode" => ("Name|Drivers#|Age", |row| {
            vec![row.name(), row.list("/spec/drivers").len().into(), row.age()]
        }),
        "CSIStorageCapacity" => ("Name|StorageClassName|Capacity", |row| {
            vec![row.name(), row.or("/storageClassName", NONE), row.or("/capacity", UNSET)]
        }),
        "VolumeAttachment" => ("Name|Attacher|PV|Node|Attached|Age", |row| {
            vec![
                row.name(),
                row.text("/spec/attacher").into(),
                row.text("/spec/source/persistentVolumeName").into(),
                row.text("/spec/nodeName").into(),
                (row.at("/status/attached") == true).into(),
                row.age(),
            ]
        }),
        "VolumeAttributesClass" => ("Name|DriverName|Age", |row| {
            vec![row.name(), row.text("/driverName").into(), row.age()]
        }),
        _ => return None,
    })
}

/// `RWO,ROX`
fn access_modes(row: &Row<'_>, pointer: &str) -> String {
    let modes = texts(row.list(pointer));
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let short = known.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode));
    short.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn phase(row: &Row<'_>) -> Value {
    if row.at("/metadata/deletionTimestamp").is_null() {
        row.text("/status/phase").into()
    } else {
        "Terminating".into()
    }
}

/// The class of a volume or claim: an old annotation comes before the field.
fn class<'a>(row: &Row<'a>) -> &'a str {
    let annotation = row.at("/metadata/annotations").get("volume.beta.kubernetes.io/storage-class");
    annotation.and_then(Value::as_str).unwrap_or_else(|| row.text("/spec/storageClassName"))
}

fn volume(row: &Row<'_>) -> Vec<Value> {
    let reference = row.at("/spec/claimRef");
    let claim = if reference.is_null() {
        String::new()
    } else {
        format!("{}/{}", text_of(reference, "namespace"), text_of(reference, "name"))
    };
    vec![
        row.name(),
        row.text("/spec/capacity/storage").into(),
        access_modes(row, "/spec/accessModes").into(),
        row.text("/spec/persistentVolumeReclaimPolicy").into(),
        phase(row),
        claim.into(),
        class(row).into(),
        row.or("/spec/volumeAttributesClassName", UNSET),
        row.text("/status/reason").into(),
        row.age(),
        row.or("/spec/volumeMode", UNSET),
    ]
}

fn claim(row: &Row<'_>) -> Vec<Value> {
    let bound = !row.text("/spec/volumeName").is_empty();
    let modes = if bound { access_modes(row, "/status/accessModes") } else { String::new() };
    let capacity = if bound { row.text("/status/capacity/storage") } else { "" };
    vec![
        row.name(),
        phase(row),
        row.text("/spec/volumeName").into(),
        capacity.into(),
        modes.into(),
        class(row).into(),
        row.or("/spec/volumeAttributesClassName", UNSET),
        row.age(),
        row.or("/spec/volumeMode", UNSET),
    ]
}

fn storage_class(row: &Row<'_>) -> Vec<Value> {
    let annotations = row.at("/metadata/annotations");
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|a| text_of(annotations, a) == "true");
    let name = row.text("/metadata/name");
    let name = if default { format!("{name} (default)") } else { name.to_owned() };
    vec![
        name.into(),
        row.text("/provisioner").into(),
        row.or("/reclaimPolicy", "Delete"),
        row.or("/volumeBindingMode", "Immediate"),
        (row.at("/allowVolumeExpansion") == true).into(),
        row.age(),
    ]
}

fn driver(row: &Row<'_>) -> Vec<Value> {
    let audiences: Vec<String> =
        row.list("/spec/tokenRequests").iter().map(|t| text_of(t, "audience").to_owned()).collect();
    let modes = texts(row.list("/spec/volumeLifecycleModes"));
    vec![
        row.name(),
        (row.at("/spec/attachRequired") != false).into(),
        (row.at("/spec/podInfoOnMount") == true).into(),
        (row.at("/spec/storageCapacity") == true).into(),
        if audiences.is_empty() { UNSET.into() } else { audiences.join(",").into() },
        (row.at("/spec/requiresRepublish") == true).into(),
        if modes.is_empty() { NONE.into() } else { modes.join(",").into() },
        row.age(),
    ]
}
