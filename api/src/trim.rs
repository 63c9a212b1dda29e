//! What caches of pods can do without: pods are most of a cluster's objects, and most of a pod is
//! for its kubelet alone.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Keeps of a pod's containers their names, ports, resources and restart policies, and drops its
/// volumes and ephemeral containers.
///
/// A pod that was trimmed may still be written back to its `status`, where the spec is not read.
pub fn containers(spec: &mut PodSpec) {
    spec.volumes = None;
    spec.ephemeral_containers = None;
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        *container = Container {
            name: std::mem::take(&mut container.name),
            ports: container.ports.take(),
            resources: container.resources.take(),
            restart_policy: container.restart_policy.take(),
            ..Default::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_schedulers_and_services_read_stays() {
        let kept = json!({"name": "c", "ports": [{"containerPort": 80}],
            "resources": {"requests": {"cpu": "1"}}});
        let mut full = kept.clone();
        full["env"] = json!([{"name": "A", "value": "b"}]);
        full["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let spec = |containers: [serde_json::Value; 2], more: serde_json::Value| -> PodSpec {
            let [own, init] = containers;
            let mut spec = json!({"containers": [own], "initContainers": [init],
                "nodeName": "n", "hostname": "h"});
            if !more.is_null() {
                spec["volumes"] = more;
            }
            serde_json::from_value(spec).expect("a valid spec")
        };
        let mut trimmed = spec([full.clone(), full], json!([{"name": "v", "emptyDir": {}}]));
        containers(&mut trimmed);
        assert_eq!(trimmed, spec([kept.clone(), kept], json!(null)));
    }
}
