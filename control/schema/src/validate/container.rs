//! Containers of a pod.

use bowline_api::words;

use super::cursor::{Cursor, Errors};
use super::probe;
use super::volume::VolumeName;

/// All containers of a pod spec: each on its own, and what they share (names, host ports).
pub(super) fn all(spec: &Cursor<'_>, volumes: &[VolumeName], errors: &mut Errors) {
    let containers = spec.field("containers");
    if containers.len() == 0 {
        errors.required(&containers, "");
    }
    let host_network = spec.field("hostNetwork").is_true();
    let mut names: Vec<&str> = Vec::new();
    let mut host_ports: Vec<String> = Vec::new();
    for item in spec.field("initContainers").items() {
        one(&item, volumes, host_network, errors);
        init(&item, errors);
        unique_name(&item, &mut names, errors);
    }
    for item in containers.items() {
        one(&item, volumes, host_network, errors);
        probe::probes(&item, errors);
        errors.one_of(&item.field("restartPolicy"), &["Always", "OnFailure", "Never"]);
        unique_name(&item, &mut names, errors);
        unique_host_ports(&item, &mut host_ports, errors);
    }
    for item in spec.field("ephemeralContainers").items() {
        unique_name(&item, &mut names, errors);
    }
}

/// The ephemeral containers of a pod spec.
pub(super) fn ephemeral(spec: &Cursor<'_>, volumes: &[VolumeName], errors: &mut Errors) {
    let lists = ["initContainers", "containers"];
    let mut names: Vec<&str> = lists
        .iter()
        .flat_map(|list| spec.field(list).items())
        .map(|c| c.field("name").text())
        .collect();
    for item in spec.field("ephemeralContainers").items() {
        one(&item, volumes, false, errors);
        unique_name(&item, &mut names, errors);
        for name in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if !item.field(name).value.is_null() {
                errors.forbidden(&item.field(name), "cannot be set for an Ephemeral Container");
            }
        }
        if item.field("resources").len() > 0 {
            errors.forbidden(&item.field("resources"), "cannot be set for an Ephemeral Container");
        }
        let target = item.field("targetContainerName");
        if target.is_set() && !names.contains(&target.text()) {
            errors.not_found(&target);
        }
    }
}

fn unique_name<'v>(item: &Cursor<'v>, names: &mut Vec<&'v str>, errors: &mut Errors) {
    let name = item.field("name");
    if !name.is_set() {
        return;
    }
    if names.contains(&name.text()) {
        errors.duplicate(&name);
    }
    names.push(name.text());
}

fn unique_host_ports(item: &Cursor<'_>, seen: &mut Vec<String>, errors: &mut Errors) {
    for port in item.field("ports").items() {
        let host = port.field("hostPort");
        let Some(number) = host.number().filter(|n| *n != 0) else { continue };
        let text =
            format!("{}/{}/{number}", port.field("protocol").text(), port.field("hostIP").text());
        if seen.contains(&text) {
            let shown = serde_json::Value::String(text.clone());
            errors.duplicate(&Cursor { path: host.path, value: &shown });
        }
        seen.push(text);
    }
}

fn init(item: &Cursor<'_>, errors: &mut Errors) {
    let policy = item.field("restartPolicy");
    if policy.is("Always") {
        probe::probes(item, errors);
        return;
    }
    errors.one_of(&policy, &["Always", "OnFailure", "Never"]);
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let at = item.field(name);
        if !at.value.is_null() {
            errors
                .forbidden(&at, "may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn one(item: &Cursor<'_>, volumes: &[VolumeName], host_network: bool, errors: &mut Errors) {
    errors.require_follows(&item.field("name"), words::dns_label);
    let image = item.field("image");
    if errors.require(&image) && image.text().trim() != image.text() {
        errors.invalid(&image, "must not have leading or trailing whitespace");
    }
    errors.require_one_of(&item.field("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    errors.one_of(&item.field("terminationMessagePolicy"), &["FallbackToLogsOnError", "File"]);
    ports(&item.field("ports"), host_network, errors);
    env(item, errors);
    mounts(item, volumes, errors);
    resources(&item.field("resources"), errors);
    security_context(&item.field("securityContext"), errors);
}

fn ports(ports: &Cursor<'_>, host_network: bool, errors: &mut Errors) {
    for port in ports.items() {
        errors.follows(&port.field("name"), words::port_name);
        let number = port.field("containerPort");
        match number.number() {
            None | Some(0) => errors.required(&number, ""),
            Some(n) => errors.problems(&number, words::port_number(n)),
        }
        let host = port.field("hostPort");
        if let Some(n) = host.number().filter(|n| *n != 0) {
            errors.problems(&host, words::port_number(n));
            if host_network && Some(n) != number.number() {
                errors.invalid(&host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
        errors.require_one_of(&port.field("protocol"), &["SCTP", "TCP", "UDP"]);
    }
    errors.unique(ports, "name");
}

const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
pub(super) const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn env(item: &Cursor<'_>, errors: &mut Errors) {
    for variable in item.field("env").items() {
        errors.require_follows(&variable.field("name"), words::env_name);
        let from = variable.field("valueFrom");
        if from.value.is_null() {
            continue;
        }
        if variable.field("value").is_set() {
            errors.invalid(&from, "may not be specified when `value` is not empty");
        }
        match from.len() {
            0 => errors.invalid(
                &from,
                "must specify one of: `fieldRef`, `resourceFieldRef`, \
                 `configMapKeyRef` or `secretKeyRef`",
            ),
            1 => env_source(&from, errors),
            _ => errors.invalid(&from, "may not have more than one field specified at a time"),
        }
    }
    for source in item.field("envFrom").items() {
        let (map, secret) = (source.field("configMapRef"), source.field("secretRef"));
        match (map.value.is_null(), secret.value.is_null()) {
            (true, true) => {
                errors.invalid(&source, "must specify one of: `configMapRef` or `secretRef`");
            }
            (false, false) => {
                errors.invalid(&source, "may not have more than one field specified at a time");
            }
            _ => {}
        }
        for reference in [map, secret].iter().filter(|r| !r.value.is_null()) {
            errors.require(&reference.field("name"));
        }
    }
}

fn env_source(from: &Cursor<'_>, errors: &mut Errors) {
    let field = from.field("fieldRef");
    if !field.value.is_null() {
        let path = field.field("fieldPath");
        let text = path.text();
        if errors.require(&path) && !is_keyed(text) {
            errors.one_of(&path, &FIELD_PATHS);
        }
    }
    let resource = from.field("resourceFieldRef");
    if !resource.value.is_null() {
        let at = resource.field("resource");
        if errors.require(&at) && !at.text().contains("hugepages-") {
            errors.one_of(&at, &RESOURCE_FIELDS);
        }
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let reference = from.field(name);
        if !reference.value.is_null() {
            errors.require(&reference.field("name"));
            errors.require_follows(&reference.field("key"), words::config_key);
        }
    }
}

/// `metadata.labels['a']`
pub(super) fn is_keyed(path: &str) -> bool {
    ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|prefix| path.starts_with(prefix) && path.ends_with("']"))
}

fn mounts(item: &Cursor<'_>, volumes: &[VolumeName], errors: &mut Errors) {
    let mounts = item.field("volumeMounts");
    for mount in mounts.items() {
        let name = mount.field("name");
        if errors.require(&name) && !volumes.iter().any(|v| v.name == name.text()) {
            errors.not_found(&name);
        }
        let path = mount.field("mountPath");
        errors.require(&path);
        for sub in ["subPath", "subPathExpr"] {
            let at = mount.field(sub);
            if at.text().starts_with('/') {
                errors.invalid(&at, "must be a relative path");
            } else if at.text().split('/').any(|part| part == "..") {
                errors.invalid(&at, "must not contain '..'");
            }
        }
        if mount.field("subPath").is_set() && mount.field("subPathExpr").is_set() {
            errors.invalid(
                &mount.field("subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        errors.one_of(
            &mount.field("mountPropagation"),
            &["Bidirectional", "HostToContainer", "None"],
        );
        let privileged = item.field("securityContext").field("privileged").is_true();
        if mount.field("mountPropagation").is("Bidirectional") && !privileged {
            let at = mount.field("mountPropagation");
            errors.forbidden(
                &at,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    // Two volumes can't be at one place.
    let mut seen: Vec<&str> = Vec::new();
    for mount in mounts.items() {
        let path = mount.field("mountPath");
        if path.is_set() && seen.contains(&path.text()) {
            errors.invalid(&path, "must be unique");
        }
        seen.push(path.text());
    }
    for device in item.field("volumeDevices").items() {
        let name = device.field("name");
        if errors.require(&name) && !volumes.iter().any(|v| v.name == name.text()) {
            errors.not_found(&name);
        }
        errors.require(&device.field("devicePath"));
    }
}

/// Names, amounts, and that no request is above its limit.
pub(super) fn resources(resources: &Cursor<'_>, errors: &mut Errors) {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    for list in [&limits, &requests] {
        for (name, _) in list.entries() {
            let at = list.key(name);
            if !is_resource_name(name) {
                errors.invalid_value(&at, name, "must be a standard resource for containers");
            }
            let amount = errors.amount(&at);
            if name.contains('/') && amount.is_some_and(|a| !a.is_whole()) {
                errors.invalid(&at, "must be an integer");
            }
        }
    }
    for (name, _) in requests.entries() {
        let (request, limit) = (requests.key(name), limits.key(name));
        let parse = |at: &Cursor<'_>| at.text().parse::<bowline_api::quantity::Quantity>().ok();
        match (parse(&request), parse(&limit)) {
            (Some(asked), Some(bound)) if asked > bound => {
                let detail =
                    format!("must be less than or equal to {name} limit of {}", limit.text());
                errors.invalid(&request, detail);
            }
            _ => {}
        }
    }
}

fn is_resource_name(name: &str) -> bool {
    if name.contains('/') {
        return words::qualified_name(name).is_empty();
    }
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn security_context(context: &Cursor<'_>, errors: &mut Errors) {
    for name in ["runAsUser", "runAsGroup"] {
        errors.between(&context.field(name), 0, i64::from(i32::MAX));
    }
    errors.one_of(&context.field("procMount"), &["Default", "Unmasked"]);
    seccomp(&context.field("seccompProfile"), errors);
    let escalation = context.field("allowPrivilegeEscalation");
    if *escalation.value == false && context.field("privileged").is_true() {
        errors.invalid(
            context,
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
}

pub(super) fn seccomp(profile: &Cursor<'_>, errors: &mut Errors) {
    if profile.value.is_null() {
        return;
    }
    let kind = profile.field("type");
    errors.require_one_of(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    let local = profile.field("localhostProfile");
    if kind.is("Localhost") && !local.is_set() {
        errors.required(&local, "must be set when seccomp type is Localhost");
    } else if !kind.is("Localhost") && local.is_set() {
        errors.invalid(&local, "can only be set when seccomp type is Localhost");
    }
}
