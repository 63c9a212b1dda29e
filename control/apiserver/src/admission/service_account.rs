//! Pods run as a service account: its token, the cluster's CA and the namespace are mounted into
//! them.

use serde_json::{Value, json};

use crate::kinds;
use crate::object::{self, child, items, text};
use crate::rest::Call;
use crate::status::{ApiError, ApiResult};

const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that a mounted token lasts; the kubelet renews it before. (An hour and a bit, as
/// upstream.)
const TOKEN_SECONDS: u64 = 3607;

pub(super) fn apply(call: &Call, pod: &mut Value) -> ApiResult<()> {
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return mirror(call, pod);
    }
    let namespace = &call.target.namespace;
    let name = match text(pod, "/spec/serviceAccountName") {
        "" => "default".to_owned(),
        given => given.to_owned(),
    };
    let key = format!("{}{namespace}/{name}", kinds::prefix("", "serviceaccounts"));
    let Some(account) = call.app.cache.get(&key).map(|entry| entry.value()) else {
        return Err(ApiError::refused(
            &call.kind,
            pod,
            &format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" \
             not found"
            ),
        ));
    };
    let spec = child(pod, "spec");
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.into());
    let secrets = items(&account, "/imagePullSecrets");
    let own = spec.get("imagePullSecrets").and_then(Value::as_array);
    if own.is_none_or(Vec::is_empty) && !secrets.is_empty() {
        spec.insert("imagePullSecrets".into(), Value::Array(secrets.to_vec()));
    }
    let flag = |value: Option<&Value>| value.and_then(Value::as_bool);
    let wanted = flag(spec.get("automountServiceAccountToken"))
        .or_else(|| flag(account.get("automountServiceAccountToken")));
    if wanted != Some(false) {
        mount_token(pod);
    }
    Ok(())
}

/// A static pod's mirror has no identity of its own.
fn mirror(call: &Call, pod: &Value) -> ApiResult<()> {
    if text(pod, "/spec/serviceAccountName").is_empty() {
        return Ok(());
    }
    Err(ApiError::refused(&call.kind, pod, "a mirror pod may not reference service accounts"))
}

fn mount_token(pod: &mut Value) {
    let is_mounted = |container: &Value| {
        items(container, "/volumeMounts").iter().any(|mount| text(mount, "/mountPath") == MOUNT)
    };
    let lists = ["initContainers", "containers"];
    let all = lists.iter().flat_map(|list| items(pod, &format!("/spec/{list}")));
    if all.clone().all(is_mounted) {
        return;
    }
    let existing = items(pod, "/spec/volumes").iter().map(|volume| text(volume, "/name"));
    let existing = existing.into_iter().find(|name| name.starts_with("kube-api-access-"));
    let (name, add) = match existing {
        Some(name) => (name.to_owned(), false),
        None => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            (format!("kube-api-access-{}", &id[..5]), true)
        }
    };
    let spec = child(pod, "spec");
    for list in lists {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter(|container| !is_mounted(container)) {
            let mounts = object::as_map(container).entry("volumeMounts").or_insert(json!([]));
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
            }
        }
    }
    if add && let Some(volumes) = spec.entry("volumes").or_insert(json!([])).as_array_mut() {
        volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt",
                           "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}
