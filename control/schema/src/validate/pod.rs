//! Pod specs and templates.

use bowline_api::words;

use super::cursor::{Cursor, Errors};
use super::{container, meta, placement, volume};

pub(super) const DNS_POLICIES: [&str; 4] =
    ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// A `PodTemplateSpec`.
pub(super) fn template(template: &Cursor<'_>, errors: &mut Errors) {
    let metadata = template.field("metadata");
    meta::labels(&metadata.field("labels"), errors);
    meta::annotations(&metadata.field("annotations"), errors);
    spec(&template.field("spec"), errors);
    if template.field("spec").field("ephemeralContainers").len() > 0 {
        let at = template.field("spec").field("ephemeralContainers");
        errors.forbidden(&at, "ephemeral containers not allowed in pod template");
    }
}

/// What only holds for a new pod.
pub(super) fn create(root: &Cursor<'_>, errors: &mut Errors) {
    let spec = root.field("spec");
    let ephemeral = spec.field("ephemeralContainers");
    if ephemeral.len() > 0 {
        errors.forbidden(&ephemeral, "cannot be set on create");
    }
    if spec.field("schedulingGates").len() > 0 && spec.field("nodeName").is_set() {
        let at = spec.field("nodeName");
        errors.forbidden(&at, "cannot be set until all schedulingGates have been cleared");
    }
}

pub(super) fn spec(spec: &Cursor<'_>, errors: &mut Errors) {
    let volumes = volume::volumes(&spec.field("volumes"), errors);
    container::all(spec, &volumes, errors);
    errors.require_one_of(&spec.field("restartPolicy"), &["Always", "OnFailure", "Never"]);
    errors.require_one_of(&spec.field("dnsPolicy"), &DNS_POLICIES);
    dns_config(spec, errors);
    errors.not_negative(&spec.field("terminationGracePeriodSeconds"));
    errors.between(&spec.field("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    errors.follows(&spec.field("serviceAccountName"), words::dns_subdomain);
    errors.follows(&spec.field("nodeName"), words::dns_subdomain);
    errors.follows(&spec.field("priorityClassName"), words::dns_subdomain);
    errors.follows(&spec.field("runtimeClassName"), words::dns_subdomain);
    errors.follows(&spec.field("schedulerName"), words::dns_subdomain);
    errors.follows(&spec.field("hostname"), words::dns_label);
    errors.follows(&spec.field("subdomain"), words::dns_label);
    errors.one_of(&spec.field("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
    meta::labels(&spec.field("nodeSelector"), errors);
    placement::affinity(&spec.field("affinity"), errors);
    placement::tolerations(&spec.field("tolerations"), errors);
    placement::spread(&spec.field("topologySpreadConstraints"), errors);
    security_context(spec, errors);
    for secret in spec.field("imagePullSecrets").items() {
        errors.require(&secret.field("name"));
    }
    for alias in spec.field("hostAliases").items() {
        let ip = alias.field("ip");
        if ip.text().parse::<std::net::IpAddr>().is_err() {
            errors.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        for name in alias.field("hostnames").items() {
            errors.problems(&name, words::dns_subdomain(name.text()));
        }
    }
    for gate in spec.field("readinessGates").items() {
        errors.require_follows(&gate.field("conditionType"), words::qualified_name);
    }
    for gate in spec.field("schedulingGates").items() {
        errors.require_follows(&gate.field("name"), words::qualified_name);
    }
    errors.unique(&spec.field("schedulingGates"), "name");
    let os = spec.field("os");
    if !os.value.is_null() {
        errors.require_one_of(&os.field("name"), &["linux", "windows"]);
    }
    for (name, _) in spec.field("overhead").entries() {
        errors.amount(&spec.field("overhead").key(name));
    }
}

fn dns_config(spec: &Cursor<'_>, errors: &mut Errors) {
    let config = spec.field("dnsConfig");
    let servers = config.field("nameservers");
    if spec.field("dnsPolicy").is("None") {
        let at = Cursor { path: config.path.clone(), value: config.value };
        if config.value.is_null() {
            errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.len() == 0 {
            errors.required(
                &servers,
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(&servers, format!("must not have more than {MAX_NAMESERVERS} nameservers"));
    }
    for server in servers.items() {
        if server.text().parse::<std::net::IpAddr>().is_err() {
            errors
                .invalid(&server, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    let searches = config.field("searches");
    if searches.len() > MAX_SEARCHES {
        errors.invalid(&searches, format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    for option in config.field("options").items() {
        errors.require(&option.field("name"));
    }
}

fn security_context(spec: &Cursor<'_>, errors: &mut Errors) {
    let context = spec.field("securityContext");
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        errors.between(&context.field(name), 0, i64::from(i32::MAX));
    }
    errors.one_of(&context.field("fsGroupChangePolicy"), &["OnRootMismatch", "Always"]);
    container::seccomp(&context.field("seccompProfile"), errors);
    for sysctl in context.field("sysctls").items() {
        errors.require(&sysctl.field("name"));
    }
    errors.unique(&context.field("sysctls"), "name");
    if spec.field("shareProcessNamespace").is_true() && spec.field("hostPID").is_true() {
        let at = spec.field("shareProcessNamespace");
        errors.invalid(&at, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    if spec.field("hostUsers").value == &serde_json::Value::Bool(false) {
        for name in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.field(name).is_true() {
                errors.forbidden(&spec.field(name), "when `hostUsers` is false");
            }
        }
    }
}

/// New ephemeral containers are valid, old ones unchanged, and nothing else differs.
pub(super) fn ephemeral_containers(new: &Cursor<'_>, old: &Cursor<'_>, errors: &mut Errors) {
    let (new_spec, old_spec) = (new.field("spec"), old.field("spec"));
    let list = new_spec.field("ephemeralContainers");
    for before in old_spec.field("ephemeralContainers").items() {
        let name = before.field("name");
        match list.items().find(|c| c.field("name").value == name.value) {
            Some(now) if now.value == before.value => {}
            Some(now) => errors.forbidden(&now, "may not be changed"),
            None => errors.forbidden(&list, "existing ephemeral containers may not be removed"),
        }
    }
    let volumes = volume::names(&new_spec.field("volumes"));
    container::ephemeral(&new_spec, &volumes, errors);
}
