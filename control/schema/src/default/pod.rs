//! Pods, their containers and volumes.

use serde_json::{Value, json};

use super::fill::{Object, each, number, object_at, object_made, text, value};

/// `PodTemplateSpec` in field `template` of `object`.
pub(super) fn template(object: &mut Object) {
    if let Some(spec) = object_at(object, "template").and_then(|t| object_made(t, "spec")) {
        self::spec(spec);
    }
}

pub(super) fn spec(spec: &mut Object) {
    text(spec, "dnsPolicy", "ClusterFirst");
    text(spec, "restartPolicy", "Always");
    value(spec, "terminationGracePeriodSeconds", 30);
    object_made(spec, "securityContext");
    text(spec, "schedulerName", "default-scheduler");
    // The deprecated name of serviceAccountName is kept equal to it.
    let account = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned();
    if let Some(account) = account.filter(|a| *a != "") {
        spec.insert("serviceAccountName".into(), account.clone());
        spec.insert("serviceAccount".into(), account);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for name in ["initContainers", "containers", "ephemeralContainers"] {
        for item in each(spec, name) {
            container(item, host_network && name != "ephemeralContainers");
        }
    }
    each(spec, "volumes").for_each(volume);
}

fn container(container: &mut Object, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    text(container, "imagePullPolicy", policy);
    text(container, "terminationMessagePath", "/dev/termination-log");
    text(container, "terminationMessagePolicy", "File");
    object_made(container, "resources");
    for port in each(container, "ports") {
        text(port, "protocol", "TCP");
        if let Some(number) = port.get("containerPort").cloned().filter(|_| host_network) {
            super::fill::number(port, "hostPort", number.as_i64().unwrap_or_default());
        }
    }
    for variable in each(container, "env") {
        if let Some(from) = object_at(variable, "valueFrom") {
            if let Some(reference) = object_at(from, "fieldRef") {
                text(reference, "apiVersion", "v1");
            }
            if let Some(reference) = object_at(from, "resourceFieldRef") {
                value(reference, "divisor", "0");
            }
            if let Some(reference) = object_at(from, "fileKeyRef") {
                value(reference, "optional", false);
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object_at(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = object_at(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(get) = object_at(lifecycle, name).and_then(|h| object_at(h, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// No tag, or `latest`, and no digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None => true,
        Some((_, tag)) => tag == "latest",
    }
}

fn probe(probe: &mut Object) {
    number(probe, "timeoutSeconds", 1);
    number(probe, "periodSeconds", 10);
    number(probe, "successThreshold", 1);
    number(probe, "failureThreshold", 3);
    if let Some(get) = object_at(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = object_at(probe, "grpc") {
        value(grpc, "service", "");
    }
}

fn http_get(get: &mut Object) {
    text(get, "path", "/");
    text(get, "scheme", "HTTP");
}

fn volume(volume: &mut Object) {
    // A volume that names no source is an emptyDir.
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["configMap", "secret"] {
        if let Some(source) = object_at(volume, source) {
            value(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = object_at(volume, "downwardAPI") {
        value(source, "defaultMode", 0o644);
        each(source, "items").for_each(downward_item);
    }
    if let Some(source) = object_at(volume, "projected") {
        value(source, "defaultMode", 0o644);
        for projection in each(source, "sources") {
            if let Some(token) = object_at(projection, "serviceAccountToken") {
                value(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object_at(projection, "downwardAPI") {
                each(downward, "items").for_each(downward_item);
            }
        }
    }
    if let Some(source) = object_at(volume, "hostPath") {
        value(source, "type", "");
    }
    if let Some(claim) =
        object_at(volume, "ephemeral").and_then(|e| object_at(e, "volumeClaimTemplate"))
        && let Some(spec) = object_at(claim, "spec")
    {
        text(spec, "volumeMode", "Filesystem");
    }
    if let Some(source) = object_at(volume, "iscsi") {
        text(source, "iscsiInterface", "default");
    }
    if let Some(source) = object_at(volume, "image") {
        let reference = source.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = if is_latest(reference) { "Always" } else { "IfNotPresent" };
        text(source, "pullPolicy", policy);
    }
}

fn downward_item(item: &mut Object) {
    if let Some(reference) = object_at(item, "fieldRef") {
        text(reference, "apiVersion", "v1");
    }
    if let Some(reference) = object_at(item, "resourceFieldRef") {
        value(reference, "divisor", "0");
    }
}

/// Requests that are absent equal the limits: for pods only, a template keeps what was written.
pub(super) fn resources_from_limits(spec: &mut Object) {
    for name in ["initContainers", "containers"] {
        for container in each(spec, name) {
            if let Some(resources) = object_at(container, "resources") {
                requests_from_limits(resources);
            }
        }
    }
    if let Some(resources) = object_at(spec, "resources") {
        requests_from_limits(resources);
    }
    value(spec, "enableServiceLinks", true);
}

fn requests_from_limits(resources: &mut Object) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = object_made(resources, "requests") {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}
