//! CPU and memory of containers and pods, as the kernel counts them.
//!
//! Conversions are the field's: 1024 shares a core, a quota for each 100 ms period. The runtime
//! translates to cgroup v2 where it must.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::cri::v1::LinuxContainerResources;
use crate::pod::qos::{Class, Side, amount, class};
use crate::pod::view::{self, Role};

/// Length of a CPU period, in microseconds.
pub const PERIOD: i64 = 100_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Smallest quota that the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;

/// Whom the kernel kills first: the values of the documentation's node-pressure page.
const OOM_BEST_EFFORT: i64 = 1000;
const OOM_GUARANTEED: i64 = -997;

/// Relative weight of `millis` of CPU.
pub fn shares(millis: u64) -> u64 {
    (millis * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of CPU in each period; none means no limit.
pub fn quota(millis: u64) -> Option<i64> {
    let quota = i64::try_from(millis).unwrap_or(i64::MAX / PERIOD) * PERIOD / 1000;
    (millis > 0).then_some(quota.max(MIN_QUOTA))
}

/// What one container is given. `lowest_oom` is the smallest oom_score_adj that may be asked for.
pub fn of_container(
    pod: &Pod,
    c: &Container,
    node_memory: u64,
    lowest_oom: i64,
) -> LinuxContainerResources {
    let memory = amount(c, "memory", Side::Limit);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(amount(c, "cpu", Side::Limit)).unwrap_or(0),
        cpu_shares: i64::try_from(shares(amount(c, "cpu", Side::Request))).unwrap_or(0),
        memory_limit_in_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
        oom_score_adj: oom_score(pod, c, node_memory).max(lowest_oom),
        ..LinuxContainerResources::default()
    }
}

fn oom_score(pod: &Pod, c: &Container, node_memory: u64) -> i64 {
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    if view::spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL) {
        return OOM_GUARANTEED;
    }
    match class(pod) {
        Class::Guaranteed => OOM_GUARANTEED,
        Class::BestEffort => OOM_BEST_EFFORT,
        Class::Burstable => {
            let asked = amount(c, "memory", Side::Request);
            let part = i64::try_from(1000 * asked / node_memory.max(1)).unwrap_or(1000);
            (1000 - part).clamp(3, 999)
        }
    }
}

/// What a whole pod is given by its own cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodResources {
    pub cpu_shares: u64,
    /// Microseconds in each [`PERIOD`], when all containers have a limit.
    pub cpu_quota: Option<i64>,
    /// Bytes, when all containers have a limit.
    pub memory_limit: Option<u64>,
}

/// Sums of the containers; the largest init container counts where it asks for more, and sidecars
/// count beside everything that follows them.
pub fn of_pod(pod: &Pod) -> PodResources {
    let sum = |resource: &str, side: Side| -> u64 {
        let main: u64 = view::main_containers(pod).map(|c| amount(c, resource, side)).sum();
        let (mut sidecars, mut peak) = (0, 0);
        for (role, c) in view::init_containers(pod) {
            let own = amount(c, resource, side);
            if role == Role::Sidecar {
                sidecars += own;
            }
            let now = if role == Role::Sidecar { sidecars } else { sidecars + own };
            peak = peak.max(now);
        }
        (main + sidecars).max(peak)
    };
    let all_limited = |resource: &str| {
        view::main_containers(pod)
            .chain(view::init_containers(pod).map(|(_, c)| c))
            .all(|c| amount(c, resource, Side::Limit) > 0)
    };
    PodResources {
        cpu_shares: shares(sum("cpu", Side::Request)),
        cpu_quota: all_limited("cpu").then(|| quota(sum("cpu", Side::Limit))).flatten(),
        memory_limit: all_limited("memory").then(|| sum("memory", Side::Limit)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn with(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn cpu_is_converted_as_the_field_does() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(250), 256);
        assert_eq!(quota(0), None);
        assert_eq!(quota(500), Some(50_000));
        assert_eq!(quota(1), Some(1000));
    }

    #[test]
    fn a_pods_limits_are_sums_unless_a_container_has_none() {
        let both = pod(json!({"containers": [with("1", "64Mi"), with("500m", "64Mi")]}));
        let expected = PodResources {
            cpu_shares: 1536,
            cpu_quota: Some(150_000),
            memory_limit: Some(128 << 20),
        };
        assert_eq!(of_pod(&both), expected);
        let one = pod(json!({"containers": [with("1", "64Mi"), {"name": "free"}]}));
        assert_eq!(of_pod(&one).memory_limit, None);
        assert_eq!(of_pod(&one).cpu_quota, None);
    }

    #[test]
    fn the_largest_init_container_counts_beside_the_sidecars_before_it() {
        let mut sidecar = with("100m", "10Mi");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({"initContainers": [sidecar, with("2", "10Mi")],
            "containers": [with("1", "10Mi")]});
        assert_eq!(of_pod(&pod(spec)).cpu_quota, Some(210_000));
    }

    #[test]
    fn guaranteed_pods_are_killed_last() {
        let guaranteed = pod(json!({"containers": [with("1", "64Mi")]}));
        let c = &view::spec(&guaranteed).containers[0];
        assert_eq!(of_container(&guaranteed, c, 1 << 30, -1000).oom_score_adj, -997);
        assert_eq!(of_container(&guaranteed, c, 1 << 30, 0).oom_score_adj, 0);
        let free = pod(json!({"containers": [{"name": "c"}]}));
        let c = &view::spec(&free).containers[0];
        assert_eq!(of_container(&free, c, 1 << 30, 0).oom_score_adj, 1000);
    }
}
