//! The node's status: what it has, how it is, where it is.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::facts::Facts;
use crate::context::Context;

/// Less free memory than this is pressure, in bytes.
const LEAST_MEMORY: u64 = 100 << 20;
/// Smaller free parts of a disk's blocks and inodes are pressure, in percent.
const LEAST_DISK: u64 = 5;
const LEAST_INODES: u64 = 2;
/// Smaller free parts of the process ids are pressure, in percent.
const LEAST_PIDS: u64 = 5;
/// Images that are told; the largest first.
const MAX_IMAGES: usize = 50;

/// Measures the node. `before` keeps the times of conditions that have not changed.
pub async fn make(
    ctx: &Context,
    facts: &Facts,
    network_missing: Option<&str>,
    before: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let health = ctx.runtime.health().await;
    let images = ctx.runtime.images().await.unwrap_or_default();
    let mut images: Vec<_> = images
        .into_iter()
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.into_iter().chain(i.repo_tags).collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect();
    images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    images.truncate(MAX_IMAGES);
    let runtime = match &health {
        Ok(h) if h.runtime_ready => None,
        Ok(h) => Some(format!("container runtime is down: {}", h.message)),
        Err(e) => Some(format!("container runtime is down: {e}")),
    };
    let network = network_missing.map(|m| format!("container runtime network not ready: {m}"));
    let not_ready: Vec<_> = [runtime, network].into_iter().flatten().collect();
    let pressure = Pressure::measure(&ctx.config.root_dir);
    let make = Maker { before, now };
    let conditions = vec![
        make.pressure(
            "MemoryPressure",
            pressure.memory,
            "KubeletHasInsufficientMemory",
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        make.pressure(
            "DiskPressure",
            pressure.disk,
            "KubeletHasDiskPressure",
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        make.pressure(
            "PIDPressure",
            pressure.pids,
            "KubeletHasInsufficientPID",
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        if not_ready.is_empty() {
            make.condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")
        } else {
            make.condition("Ready", "False", "KubeletNotReady", &not_ready.join(", "))
        },
    ];
    NodeStatus {
        addresses: Some(addresses(ctx)),
        allocatable: Some(facts.allocatable.clone()),
        capacity: Some(facts.capacity.clone()),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(ctx.config.listen.port()) }),
        }),
        images: Some(images),
        node_info: Some(facts.info.clone()),
        ..NodeStatus::default()
    }
}

/// Equal but for the times at which conditions were seen.
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let strip = |s: &NodeStatus| {
        let mut s = s.clone();
        for condition in s.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        s
    };
    let (a, b) = (strip(a), strip(b));
    // Others may own more conditions and fields of the status: only this kubelet's count.
    let ours = |s: &NodeStatus| {
        let mut kept = s.conditions.clone().unwrap_or_default();
        kept.retain(|c| {
            ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].contains(&c.type_.as_str())
        });
        kept.sort_by(|a, b| a.type_.cmp(&b.type_));
        kept
    };
    ours(&a) == ours(&b)
        && a.addresses == b.addresses
        && a.allocatable == b.allocatable
        && a.capacity == b.capacity
        && a.node_info == b.node_info
        && a.images == b.images
        && a.daemon_endpoints == b.daemon_endpoints
}

fn addresses(ctx: &Context) -> Vec<NodeAddress> {
    let one = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let ips = ctx.config.node_ips.iter().map(|ip| one("InternalIP", ip.to_string()));
    ips.chain([one("Hostname", ctx.config.node_name.clone())]).collect()
}

struct Maker<'a> {
    before: &'a NodeStatus,
    now: Timestamp,
}

impl Maker<'_> {
    fn pressure(
        &self,
        kind: &str,
        trouble: Option<String>,
        bad: &str,
        (good, text): (&str, &str),
    ) -> NodeCondition {
        match trouble {
            Some(message) => self.condition(kind, "True", bad, &message),
            None => self.condition(kind, "False", good, text),
        }
    }

    fn condition(&self, kind: &str, status: &str, reason: &str, message: &str) -> NodeCondition {
        let old = self.before.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(self.now)),
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
        }
    }
}

/// What the node is short of, in words.
struct Pressure {
    memory: Option<String>,
    disk: Option<String>,
    pids: Option<String>,
}

impl Pressure {
    fn measure(root: &Path) -> Self {
        Self { memory: low_memory(), disk: disk(root), pids: pids() }
    }
}

/// Tells when too little memory is available.
pub fn low_memory() -> Option<String> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = available.trim().trim_end_matches("kB").trim().parse().ok()?;
    let bytes = kib * 1024;
    (bytes < LEAST_MEMORY).then(|| format!("{} MiB of memory are available", bytes >> 20))
}

fn disk(root: &Path) -> Option<String> {
    let fs = nix::sys::statvfs::statvfs(root).ok()?;
    let percent = |part: u64, whole: u64| (whole > 0).then(|| part * 100 / whole);
    let low = |free: Option<u64>, least| free.filter(|p| *p < least);
    let blocks = low(percent(fs.blocks_available(), fs.blocks()), LEAST_DISK);
    let inodes = low(percent(fs.files_available(), fs.files()), LEAST_INODES);
    let text = |what, p| format!("{p} % of the {what} below {} are free", root.display());
    blocks.map(|p| text("space", p)).or_else(|| inodes.map(|p| text("inodes", p)))
}

fn pids() -> Option<String> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used: u64 = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    let free = most.saturating_sub(used) * 100 / most.max(1);
    (free < LEAST_PIDS).then(|| format!("{free} % of the process ids are free"))
}
