//! Node-pressure eviction: when memory runs out, one pod goes at a time, until it is enough.
//!
//! Whom first: those that use more memory than they asked for, then the lower priority, then the
//! larger excess. Static and node-critical pods stay. Source: "Node-pressure Eviction".

use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Severity;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Context;
use crate::node::status::low_memory;
use crate::pod::manager::{Handle, Pods};
use crate::pod::qos::{Side, amount};
use crate::pod::view;
use crate::runtime::labels;
use crate::source::files;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// After an eviction its memory is waited for.
const SETTLE: Duration = Duration::from_secs(30);
/// Pods of this priority and above are never evicted.
const CRITICAL: i32 = 2_000_000_000;

/// One pod that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    pub used: u64,
    pub requested: u64,
}

/// The one that goes first.
pub fn first(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().max_by_key(|c| {
        let excess = i128::from(c.used) - i128::from(c.requested);
        (excess > 0, std::cmp::Reverse(c.priority), excess)
    })
}

/// Evicts under pressure until shutdown.
pub async fn run(ctx: Arc<Context>, pods: Pods) {
    loop {
        let mut wait = PERIOD;
        if let Some(trouble) = low_memory() {
            if evict_one(&ctx, &pods, &trouble).await {
                wait = SETTLE;
            } else {
                tracing::warn!(trouble, "memory is low and no pod can be evicted");
            }
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn evict_one(ctx: &Context, pods: &Pods, trouble: &str) -> bool {
    let stats = ctx.runtime.stats().await.unwrap_or_default();
    let used = |uid: &str| -> u64 {
        let own = stats.iter().filter(|s| {
            let labels = s.attributes.as_ref().map(|a| &a.labels);
            labels.and_then(|l| l.get(labels::POD_UID)).is_some_and(|u| u == uid)
        });
        let memory = own.filter_map(|s| s.memory.as_ref()?.working_set_bytes.as_ref());
        memory.map(|v| v.value).sum()
    };
    let all = pods.all();
    let candidates: Vec<_> = all
        .iter()
        .map(Handle::pod)
        .filter(|pod| may_go(pod))
        .map(|pod| Candidate {
            uid: view::uid(&pod).to_owned(),
            priority: view::spec(&pod).priority.unwrap_or(0),
            used: used(view::uid(&pod)),
            requested: view::main_containers(&pod)
                .map(|c| amount(c, "memory", Side::Request))
                .sum(),
        })
        .collect();
    let Some(chosen) = first(&candidates) else { return false };
    let Some(handle) = all.iter().find(|h| view::uid(&h.pod()) == chosen.uid) else { return false };
    let message = format!(
        "The node was low on resource: memory. {trouble}; the pod used {} MiB and asked for {} MiB.",
        chosen.used >> 20,
        chosen.requested >> 20
    );
    ctx.event(&handle.pod(), None, Severity::Warning, "Evicted", message.clone());
    handle.evict(message);
    true
}

fn may_go(pod: &Pod) -> bool {
    let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let critical = view::spec(pod).priority.is_some_and(|p| p >= CRITICAL);
    !critical
        && !files::is_static(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(ended, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: &str, all: &[(&str, i32, u64, u64)]) {
        let all: Vec<_> = all
            .iter()
            .map(|(uid, priority, used, requested)| Candidate {
                uid: (*uid).to_owned(),
                priority: *priority,
                used: *used,
                requested: *requested,
            })
            .collect();
        assert_eq!(first(&all).map(|c| c.uid.as_str()), Some(expected), "{all:?}");
    }

    #[test]
    fn excess_over_the_request_goes_before_priority_and_size() {
        check("over", &[("under", 0, 50, 60), ("over", 10, 7, 1)]);
        check("low", &[("low", 1, 7, 1), ("high", 2, 70, 1)]);
        check("large", &[("small", 1, 7, 1), ("large", 1, 70, 1)]);
        check("low", &[("low", 1, 1, 9), ("high", 2, 8, 9)]);
    }
}
