//! Pods: the STATUS column is a summary of the whole lifecycle.

use serde_json::{Value, json};

use super::Cells;
use super::age;
use super::cell::{NONE, Row, text_of};

pub(super) const LAYOUT: (&str, Cells) =
    ("Name|Ready|Status|Restarts|Age|IP+|Node+|Nominated Node+|Readiness Gates+", cells);

fn cells(row: &Row<'_>) -> Vec<Value> {
    let summary = summarize(row.object);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, age::human(row.now - time))
        }
        _ => summary.restarts.to_string(),
    };
    let address = match row.list("/status/podIPs").first() {
        Some(first) => text_of(first, "ip").into(),
        None => row.or("/status/podIP", NONE),
    };
    vec![
        row.name(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        row.age(),
        address,
        row.or("/spec/nodeName", NONE),
        row.or("/status/nominatedNodeName", NONE),
        readiness_gates(row).into(),
    ]
}

fn readiness_gates(row: &Row<'_>) -> String {
    let gates = row.list("/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let ready =
        gates.iter().filter(|g| row.condition(text_of(g, "conditionType")) == "True").count();
    format!("{ready}/{}", gates.len())
}

/// Tells clients that hide finished pods which ones are.
pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let phase = pod.pointer("/status/phase")?.as_str()?;
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

#[derive(Debug, Default)]
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    /// Unix seconds of the last termination.
    last_restart: Option<i64>,
}

fn items<'a>(pod: &'a Value, pointer: &str) -> &'a [Value] {
    pod.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(pod, "/status/conditions").iter().find(|c| c["type"] == kind)
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    items(pod, "/spec/initContainers")
        .iter()
        .any(|c| c["name"] == name && c["restartPolicy"] == "Always")
}

fn summarize(pod: &Value) -> Summary {
    let status = &pod["status"];
    let mut reason = text_of(status, "phase").to_owned();
    if !text_of(status, "reason").is_empty() {
        text_of(status, "reason").clone_into(&mut reason);
    }
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let sidecars = items(pod, "/spec/initContainers").iter();
    let sidecars = sidecars.filter(|c| c["restartPolicy"] == "Always").count();
    let mut summary = Summary {
        status: reason,
        total: items(pod, "/spec/containers").len() + sidecars,
        ..Summary::default()
    };
    let initializing = summary.init_containers(pod);
    let initialized = condition(pod, "Initialized").is_some_and(|c| c["status"] == "True");
    if !initializing || initialized {
        summary.containers(pod);
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if text_of(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut summary.status);
        } else if !matches!(text_of(status, "phase"), "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut summary.status);
        }
    }
    summary
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += container["restartCount"].as_i64().unwrap_or_default();
        let finished =
            container.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str);
        self.last_restart = self.last_restart.max(finished.and_then(age::seconds));
    }

    /// Goes through the init containers up to the first that isn't done; whether there is one.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let statuses = items(pod, "/status/initContainerStatuses");
        for (index, container) in statuses.iter().enumerate() {
            self.count_restarts(container);
            let state = &container["state"];
            let (terminated, waiting) = (state.get("terminated"), state.get("waiting"));
            if terminated.is_some_and(|t| t["exitCode"] == 0) {
                continue;
            }
            if container["started"] == true && is_sidecar(pod, text_of(container, "name")) {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = waiting.map(|w| text_of(w, "reason")).unwrap_or_default();
            self.status = if let Some(terminated) = terminated {
                format!("Init:{}", exit_reason(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", items(pod, "/spec/initContainers").len())
            };
            return true;
        }
        false
    }

    fn containers(&mut self, pod: &Value) {
        // Restarts of ordinary init containers no longer count once the pod runs.
        (self.restarts, self.last_restart) = (0, None);
        for container in items(pod, "/status/initContainerStatuses") {
            if is_sidecar(pod, text_of(container, "name")) {
                self.count_restarts(container);
            }
        }
        let mut running = false;
        for container in items(pod, "/status/containerStatuses").iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            let waiting = state.get("waiting").map(|w| text_of(w, "reason")).unwrap_or_default();
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.status);
            } else if let Some(terminated) = state.get("terminated") {
                self.status = exit_reason(terminated);
            } else if container["ready"] == true && state.get("running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        // One container's end isn't the pod's while another runs.
        if running && self.status == "Completed" {
            let ready = condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
            (if ready { "Running" } else { "NotReady" }).clone_into(&mut self.status);
        }
    }
}

fn exit_reason(terminated: &Value) -> String {
    let reason = text_of(terminated, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match terminated["signal"].as_i64().unwrap_or_default() {
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
        signal => format!("Signal:{signal}"),
    }
}
