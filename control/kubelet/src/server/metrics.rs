//! Metrics in Prometheus' text format.

use std::fmt::Write as _;

use http::StatusCode;

use super::{Response, Server, full, stats};
use crate::runtime::State;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kubelet's own: how much it looks after, and how much it uses.
pub(super) fn own(server: &Server) -> Response {
    let pods = server.pods.all();
    let mut states = [0_u64; 4];
    for handle in &pods {
        for c in handle.shown().runtime.containers {
            states[match c.state {
                State::Created => 0,
                State::Running => 1,
                State::Exited => 2,
                State::Unknown => 3,
            }] += 1;
        }
    }
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(text, "# HELP kubelet_running_pods Pods that this kubelet looks after.");
    let _ =
        writeln!(text, "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}", pods.len());
    let _ = writeln!(text, "# HELP kubelet_running_containers Containers by their state.");
    let _ = writeln!(text, "# TYPE kubelet_running_containers gauge");
    for (state, n) in ["created", "running", "exited", "unknown"].iter().zip(states) {
        let _ = writeln!(text, "kubelet_running_containers{{container_state=\"{state}\"}} {n}");
    }
    let _ = writeln!(text, "# HELP process_resident_memory_bytes Resident memory size in bytes.");
    let _ = writeln!(text, "# TYPE process_resident_memory_bytes gauge");
    let _ = writeln!(text, "process_resident_memory_bytes {}", resident());
    full(StatusCode::OK, CONTENT_TYPE, text)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    kib.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

/// Usage of every container.
pub(super) async fn resource(server: &Server) -> Response {
    let usage = stats::usage(server).await;
    let mut text = String::from(
        "# HELP container_cpu_usage_seconds_total Cumulative cpu time consumed by the container.\n\
         # TYPE container_cpu_usage_seconds_total counter\n",
    );
    let labels = |u: &stats::Usage| {
        format!("container=\"{}\",namespace=\"{}\",pod=\"{}\"", u.container, u.namespace, u.pod)
    };
    for u in &usage {
        let seconds = std::time::Duration::from_nanos(u.cpu_nanos).as_secs_f64();
        let _ = writeln!(text, "container_cpu_usage_seconds_total{{{}}} {seconds}", labels(u));
    }
    text.push_str(
        "# HELP container_memory_working_set_bytes Current working set of the container.\n\
         # TYPE container_memory_working_set_bytes gauge\n",
    );
    for u in &usage {
        let _ = writeln!(text, "container_memory_working_set_bytes{{{}}} {}", labels(u), u.memory);
    }
    full(StatusCode::OK, CONTENT_TYPE, text)
}
