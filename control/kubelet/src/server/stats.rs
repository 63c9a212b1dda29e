//! Usage of the node and its pods, in the shape of the stats summary API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Response, Server, json};
use crate::cri::v1::ContainerStats;
use crate::runtime::labels;

/// One container's usage with whose it is.
pub(super) struct Usage {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    pub cpu_nanos: u64,
    pub memory: u64,
    pub at: Timestamp,
}

/// Usage of all containers; nothing when the runtime does not tell.
pub(super) async fn usage(server: &Server) -> Vec<Usage> {
    let all = server.ctx.runtime.stats().await.unwrap_or_default();
    all.iter().filter_map(one).collect()
}

fn one(stats: &ContainerStats) -> Option<Usage> {
    let attributes = stats.attributes.as_ref()?;
    let label = |key: &str| attributes.labels.get(key).cloned();
    let cpu = stats.cpu.as_ref();
    let memory = stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref());
    let at = cpu.and_then(|c| Timestamp::from_nanosecond(i128::from(c.timestamp)).ok());
    Some(Usage {
        namespace: label(labels::POD_NAMESPACE)?,
        pod: label(labels::POD_NAME)?,
        uid: label(labels::POD_UID)?,
        container: label(labels::CONTAINER_NAME)?,
        cpu_nanos: cpu.and_then(|c| c.usage_core_nano_seconds.as_ref()).map_or(0, |v| v.value),
        memory: memory.map_or(0, |v| v.value),
        at: at.unwrap_or_else(Timestamp::now),
    })
}

/// `/stats/summary`.
pub(super) async fn summary(server: &Server) -> Response {
    let usage = usage(server).await;
    let mut pods: BTreeMap<&str, Vec<&Usage>> = BTreeMap::new();
    for one in &usage {
        pods.entry(&one.uid).or_default().push(one);
    }
    let pods: Vec<Value> = pods.values().map(|all| pod(all)).collect();
    let now = Timestamp::now().to_string();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    let available = kib("MemAvailable").unwrap_or(0) * 1024;
    let used = server.ctx.machine.memory.saturating_sub(available);
    let disk = nix::sys::statvfs::statvfs(&server.ctx.config.root_dir).ok();
    let fs = disk.map(|s| {
        let size = s.blocks() * s.fragment_size();
        let free = s.blocks_available() * s.fragment_size();
        json!({"time": now, "availableBytes": free, "capacityBytes": size,
            "usedBytes": size.saturating_sub(s.blocks_free() * s.fragment_size()),
            "inodesFree": s.files_available(), "inodes": s.files()})
    });
    json(&json!({
        "node": {
            "nodeName": server.ctx.config.node_name,
            "startTime": now,
            "memory": {"time": now, "availableBytes": available, "workingSetBytes": used},
            "fs": fs,
        },
        "pods": pods,
    }))
}

fn pod(all: &[&Usage]) -> Value {
    let containers: Vec<Value> = all
        .iter()
        .map(|c| {
            let time = c.at.to_string();
            json!({"name": c.container, "startTime": time,
                "cpu": {"time": time, "usageCoreNanoSeconds": c.cpu_nanos},
                "memory": {"time": time, "workingSetBytes": c.memory}})
        })
        .collect();
    let Some(first) = all.first() else { return Value::Null };
    let time = first.at.to_string();
    json!({
        "podRef": {"name": first.pod, "namespace": first.namespace, "uid": first.uid},
        "startTime": time,
        "containers": containers,
        "cpu": {"time": time, "usageCoreNanoSeconds": all.iter().map(|c| c.cpu_nanos).sum::<u64>()},
        "memory": {"time": time, "workingSetBytes": all.iter().map(|c| c.memory).sum::<u64>()},
    })
}
